"""The frame of each command: its logging options, and its exit code when it fails."""

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from typing import Any, Final

import typer

from flows.commands.logs import Asked, LogFile, LogJson, Quiet, Verbose, configured
from flows.commands.terminal import tell
from flows.config import SettingsError, ready_network
from manifests.input import ManifestError
from storage.ledger import HeldError
from storage.objects import StorageError
from storage.sources import OpeningError
from tasks.batch.summary import ExitCode
from tasks.dispatch import CheckupError
from tasks.reconcile import DecisionError

log = logging.getLogger(__name__)

_REFUSED: Final = (
    ManifestError,
    SettingsError,
    OpeningError,
    HeldError,
    CheckupError,
    DecisionError,
)


def options(
    ctx: typer.Context,
    *,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    log_file: LogFile = None,
    log_json: LogJson = False,
) -> None:
    """Turn a manifest of stills into clips, and pay for each clip once."""
    ctx.obj = Asked(verbose, quiet, log_file, log_json)


def command(work: Callable[..., None], *, service: bool = False) -> Callable[..., None]:
    """The command with the logging options of `options` beside its own."""

    @wraps(work)
    def framed(**given: Any) -> None:
        context: typer.Context = given.pop("ctx")
        after = Asked(*(given.pop(name) for name in list(_ADDED)[1:]))
        before = context.obj if isinstance(context.obj, Asked) else Asked()
        with configured(before | after, service=service):
            _run(work, given)

    signature = inspect.signature(work)
    framed.__signature__ = signature.replace(  # pyright: ignore[reportAttributeAccessIssue] - typer reads it
        parameters=[
            *signature.parameters.values(),
            *(each.replace(kind=each.KEYWORD_ONLY) for each in _ADDED.values()),
        ]
    )
    framed.__annotations__ = {
        **work.__annotations__,
        **{name: each.annotation for name, each in _ADDED.items()},
    }
    return framed


_ADDED: Final = inspect.signature(options).parameters


def _run(work: Callable[..., None], given: dict[str, Any]) -> None:
    try:
        ready_network()
        work(**given)
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except _REFUSED as exc:
        tell(str(exc), "red")
        raise typer.Exit(ExitCode.BAD_INPUT) from exc
    except StorageError as exc:
        tell(str(exc), "red")
        raise typer.Exit(ExitCode.UNFINISHED) from exc
    # A traceback may quote secrets: it is masked here, and in a log file as well.
    except Exception as exc:
        log.exception("command.failed an unknown error ended the command")
        raise typer.Exit(1) from exc
