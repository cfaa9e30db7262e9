"""Log records as text for people and as JSON for programs, with every secret masked."""

import json
import logging
import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from flows.logs.masking import masked

_EVENT: Final = re.compile(r"([a-z]+\.[a-z_]+)(?: |$)")
_FIELD: Final = re.compile(r"([a-z_]+)=(%[.\d]*[sdrfg])(?: |$)")

# A provider's answer may hold an escape sequence, which a terminal would obey.
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Parts:
    """A log call `event key=value … message`, taken apart."""

    event: str
    fields: dict[str, Any]
    message: str

    @classmethod
    def of(cls, record: logging.LogRecord) -> "Parts":
        """The parts as the call has them, so that a value may have any character."""
        template, args = str(record.msg), record.args
        if not (found := _EVENT.match(template)) or not isinstance(args, tuple):
            return cls("", {}, record.getMessage())
        rest, fields = template[found.end() :], dict[str, Any]()
        while field := _FIELD.match(rest):
            fields[field[1]] = _plain(args[len(fields)], field[2])
            rest = rest[field.end() :]
        others = args[len(fields) :]
        return cls(found[1], fields, rest % others if others else rest)


class Lines(logging.Formatter):
    """One line an event; whatever continues it is indented."""

    def format(self, record: logging.LogRecord) -> str:
        text = _CONTROL.sub(_escaped, masked(super().format(record)))
        return text.replace("\n", "\n  ")

    def formatTime(  # noqa: N802 - logging's name
        self,
        record: logging.LogRecord,
        datefmt: str | None = None,  # noqa: ARG002 - logging's parameter
    ) -> str:
        return _utc(record.created)


class JsonLines(logging.Formatter):
    """One JSON object an event, in ASCII, on one line."""

    def format(self, record: logging.LogRecord) -> str:
        parts = Parts.of(record)
        exception = self.formatException(record.exc_info) if record.exc_info else None
        return json.dumps(
            {
                "time": _utc(record.created),
                "level": record.levelname.lower(),
                "logger": record.name,
                "event": parts.event,
                "message": masked(parts.message),
                "fields": {
                    name: masked(value) if isinstance(value, str) else value
                    for name, value in parts.fields.items()
                },
                "exception": None if exception is None else masked(exception),
            }
        )


def _plain(value: object, conversion: str) -> str | int | float | None:
    match value:
        case bool() | int() | None:
            return value
        case float() if math.isfinite(value):
            return value
        case _:
            return conversion % (value,)


def _utc(seconds: float) -> str:
    """RFC 3339, in UTC, to the millisecond."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _escaped(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"
