"""The terminal: arguments that people type, and the output that they read.

Output for programs goes to stdout, output for people to stderr.
"""

import io
import json
import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Annotated, Any, Final, cast

import typer
from rich.console import Console

from flows.config import Settings, SettingsError, budget, policy, settings
from flows.logs.masking import masked
from flows.views import finish_by, local_zone
from manifests.uris import absolute, scheme
from storage.ledger import existing_root
from storage.objects import Objects, local_path
from storage.sources import OpeningError, refuse_blank
from tasks.batch.manifest_copy import manifest_uri
from tasks.dispatch import Policy

MESSAGE: Final = "nightreel"
"""The logger of what a command tells a person. It is not below `flows`, because the log of
a run in the Prefect UI has the same sentences already."""

log = logging.getLogger(MESSAGE)
# Without a handler, Python prints warnings itself.
log.addHandler(logging.NullHandler())


class Stderr(io.TextIOBase):
    """Standard error, which may be closed or full at any time without ending a batch."""

    def write(self, text: str) -> int:
        self._try(lambda stream: stream.write(text))
        return len(text)

    def flush(self) -> None:
        self._try(lambda stream: stream.flush())

    def isatty(self) -> bool:
        stream = self._stream()
        return stream is not None and stream.isatty()

    def fileno(self) -> int:
        stream = self._stream()
        if stream is None:
            raise io.UnsupportedOperation("fileno")
        return stream.fileno()

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride] - typeshed has an attribute
        return getattr(self._stream(), "encoding", None) or "utf-8"

    @staticmethod
    def _stream() -> IO[str] | None:
        # While progress is shown, rich has its own object there, which would print to us.
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    def _try(self, do: Callable[[IO[str]], object]) -> None:
        try:
            if (stream := self._stream()) is not None:
                do(stream)
        except (OSError, ValueError):  # it is full, or was closed
            pass


@dataclass
class Output:
    """How the logging options change what goes to stderr."""

    quiet: bool = False
    as_json: bool = False

    @property
    def shows_progress(self) -> bool:
        return not (self.quiet or self.as_json)


stderr: Final = cast("IO[str]", Stderr())
err: Final = Console(file=stderr, highlight=False)
output: Final = Output()


def budgeted(usd: float | None) -> float | None:
    """The value of --budget, if it is an amount."""
    try:
        budget(usd)
    except SettingsError as exc:
        raise typer.BadParameter(str(exc)) from exc
    return usd


def policy_named(name: str) -> Policy | None:
    """The value of --policy, if there is such a policy."""
    try:
        return policy(name)
    except SettingsError as exc:
        raise typer.BadParameter(str(exc)) from exc


def deadline(text: str) -> datetime:
    """The value of --finish-by with its date and zone, so that it has one meaning later."""
    try:
        return finish_by(text, datetime.now(local_zone()))
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--finish-by") from exc


PolicyName = Annotated[
    Policy | None,
    typer.Option(
        "--policy",
        parser=policy_named,
        metavar="RULE",
        help="The rule that chooses lanes: cheapest, fastest or balanced. Default: as in the configuration, or `cheapest` with --finish-by.",
    ),
]
Manifest = Annotated[
    str, typer.Argument(help="The URI of the manifest: a file, a folder or a pattern.")
]
Root = Annotated[
    str,
    typer.Option(
        help="The URI of the root: clips, ledger and tables are kept below it."
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        help="The configuration file. Default: NIGHTREEL_CONFIG, else ./nightreel.toml."
    ),
]
LaneNames = Annotated[
    str | None,
    typer.Option("--lanes", help="Use only these lanes, separated by commas."),
]
NewRoot = Annotated[
    bool,
    typer.Option(
        "--new-root",
        help="Begin a new root even where an earlier run on this machine found one. Buys every clip anew.",
    ),
]
TrustManifest = Annotated[
    bool,
    typer.Option(
        "--trust-manifest",
        help="Let the manifest name any file of this machine and any address of its network.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to stdout.")]

_LEVELS: Final = {"red": logging.ERROR, "yellow": logging.WARNING}


def chosen(config: Path | None, lanes: str | None) -> Settings:
    """The settings in a file, with the lanes that were named."""
    return settings.load(config, lanes=names(lanes))


def names(lanes: str | None) -> list[str] | None:
    """The lanes in `--lanes a,b`."""
    return None if lanes is None else [name.strip() for name in lanes.split(",")]


def place(uri: str, name: str) -> str:
    """A URI that means the same whatever folder a worker runs in; `name` is for errors.

    Raises:
        OpeningError: it is blank.
    """
    refuse_blank(uri, name)
    # Not `resolve`: it follows links, and a link may lead elsewhere tomorrow.
    path = Path(os.path.abspath(uri))  # noqa: PTH100
    found = absolute(uri, "") if scheme(uri) else path.as_uri()
    return manifest_uri(uri, found) if name == "manifest" else found


def existing(folder: str, name: str = "root") -> str:
    """The URI of an existing folder or bucket; `name` is for errors.

    Raises:
        OpeningError: there is no such folder.
    """
    uri = place(folder, name)
    if scheme(uri) == "file" and not local_path(uri).is_dir():
        raise OpeningError(f"{uri}: no such folder")
    return uri


async def opened(root: str) -> Objects:
    """The objects of an existing root.

    Raises:
        OpeningError, StorageError: there is none, or it cannot be read.
    """
    objects = Objects.open(existing(root))
    await existing_root(objects)
    return objects


def tell(text: str, style: str | None = None) -> None:
    """Show a person a message on stderr as it is, without markup; red for an error.

    With --log-json it is a log line instead; a log file has it in any case.
    """
    level = _LEVELS.get(style or "", logging.INFO)
    if text:
        log.log(level, "command.message %s", text)
    if not output.as_json and (level >= logging.ERROR or not output.quiet):
        err.print(masked(text), style=style, markup=False, soft_wrap=True)


def print_json(what: Any) -> None:
    """One object on stdout, and nothing else.

    Escapes characters that the encoding of stdout lacks: a replaced one would be lost.
    """
    text = json.dumps(what, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(what)
    sys.stdout.write(text + "\n")


def replace_unknown_characters() -> None:
    """Print `?` for each character that the encoding of stdout or stderr lacks.

    Without this, a name or a sign that is not ASCII ends the command with an error.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
