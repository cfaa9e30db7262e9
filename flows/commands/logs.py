"""Logging of the command line: how much of it, where to, and in what form.

Prefect configures the root logger when a flow starts and keeps its console silent
(`calm_prefect`). Our handlers are therefore on our own loggers, which do not propagate.
"""

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.highlighter import NullHighlighter
from rich.logging import RichHandler

from flows.commands.terminal import MESSAGE, err, output, stderr, tell
from flows.config import conceal_environment
from flows.logs.lines import JsonLines, Lines

OURS: Final = ("flows", "tasks", "storage", "manifests", MESSAGE)

LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)
"""Without -v, with -v, with -vv. A service begins at the second."""

_LINE: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_PANEL: Final = "Logging"

Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        rich_help_panel=_PANEL,
        show_default=False,
        help="Log at INFO; with -vv at DEBUG.",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        rich_help_panel=_PANEL,
        help="Show only errors, and no progress.",
    ),
]
LogFile = Annotated[
    Path | None,
    typer.Option(
        "--log-file",
        rich_help_panel=_PANEL,
        help="Append the log to this file, at INFO or, with -vv, DEBUG.",
    ),
]
LogJson = Annotated[
    bool,
    typer.Option(
        "--log-json",
        rich_help_panel=_PANEL,
        help="Log one JSON object per line on stderr.",
    ),
]


@dataclass(frozen=True, slots=True)
class Asked:
    """The logging options of one part of the command line."""

    verbose: int = 0
    quiet: bool = False
    file: Path | None = None
    as_json: bool = False

    def __or__(self, other: "Asked") -> "Asked":
        """Both: options may stand before the command and after it."""
        return Asked(
            self.verbose + other.verbose,
            self.quiet or other.quiet,
            other.file or self.file,
            self.as_json or other.as_json,
        )

    def level(self, *, service: bool) -> int:
        if self.quiet:
            return logging.ERROR
        return LEVELS[min(self.verbose + service, len(LEVELS) - 1)]


@contextmanager
def configured(asked: Asked, *, service: bool) -> Generator[None]:
    """Configure logging meanwhile; with `service`, also warnings of other libraries.

    Raises:
        typer.BadParameter: -q with -v, or a file that cannot be appended to.
    """
    if asked.quiet and asked.verbose:
        raise typer.BadParameter("--quiet and --verbose exclude each other")
    conceal_environment()
    level = asked.level(service=service)
    handlers = [_on_stderr(level, as_json=asked.as_json)]
    if asked.file is not None:
        handlers.append(_in_file(asked.file, min(level, logging.INFO)))
    lowest = min(logging.INFO, *(handler.level for handler in handlers))
    with _attached(handlers, lowest, service=service), _shown(asked):
        yield


@contextmanager
def _attached(
    handlers: Sequence[logging.Handler], level: int, *, service: bool
) -> Generator[None]:
    # No service runs a flow, so the root logger is free.
    names = (*OURS, "") if service else OURS
    loggers = [logging.getLogger(name) for name in names]
    before = [(each.level, each.propagate) for each in loggers]
    for each in loggers:
        each.setLevel(level if each.name in OURS else logging.WARNING)
        each.propagate = False
        for handler in handlers:
            each.addHandler(handler)
    try:
        yield
    finally:
        for each, (level_before, propagated) in zip(loggers, before, strict=True):
            each.setLevel(level_before)
            each.propagate = propagated
            for handler in handlers:
                each.removeHandler(handler)
        for handler in handlers:
            handler.close()


@contextmanager
def _shown(asked: Asked) -> Generator[None]:
    output.quiet, output.as_json = asked.quiet, asked.as_json
    try:
        yield
    finally:
        output.quiet = output.as_json = False


def _on_stderr(level: int, *, as_json: bool) -> logging.Handler:
    if as_json:
        handler: logging.Handler = logging.StreamHandler(stderr)
        handler.setFormatter(JsonLines())
        # Messages of the command go here too, whatever the level: nothing else shows them.
        handler.addFilter(lambda record: record.levelno >= level or _is_message(record))
        handler.setLevel(logging.ERROR if level >= logging.ERROR else logging.DEBUG)
        return handler
    if err.is_terminal:
        handler = RichHandler(
            console=err,
            show_path=False,
            markup=False,
            highlighter=NullHighlighter(),
            keywords=[],
            log_time_format="[%X]",
            omit_repeated_times=False,
        )
        handler.setFormatter(Lines("%(message)s"))
    else:
        handler = logging.StreamHandler(stderr)
        handler.setFormatter(Lines(_LINE))
    handler.setLevel(level)
    # The terminal shows these messages already.
    handler.addFilter(lambda record: not _is_message(record))
    return handler


def _is_message(record: logging.LogRecord) -> bool:
    return record.name == MESSAGE


def _in_file(path: Path, level: int) -> logging.Handler:
    try:
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except OSError as exc:
        raise typer.BadParameter(
            f"{path}: cannot be appended to: {exc.strerror}", param_hint="--log-file"
        ) from exc
    handler.setLevel(level)
    handler.setFormatter(Lines(_LINE))
    return handler


class _LogFile(logging.FileHandler):
    """A log file; its first failure is shown, and no failure ends a batch."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802 - logging's own
        if not self._failed:
            self._failed = True
            tell(
                f"{self.baseFilename}: log lines are lost: it cannot be written", "red"
            )

    def close(self) -> None:
        # A full disk refuses the remaining lines as well.
        with suppress(OSError):
            super().close()
