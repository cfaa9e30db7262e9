"""Tables of the ways in which an accepted job fails, and who pays for each.

The same table reads an ended job and is printed in docs/reference/providers.md.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from manifests.lifecycle import Discarded, Refused, Rejected

Condition = Callable[[Mapping[str, Any]], bool]
"""Whether an ended task failed in one way."""

FailureKind = Literal["content", "invalid", "server", "stopped"]
"""The reason why an accepted job made no clip; the first two are the row's fault."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One way in which an accepted job fails, and who pays for it."""

    kind: FailureKind
    evidence: str
    """The provider's answer in this case, in words for the documentation."""
    when: Condition
    """Whether an ended task failed in this way."""
    charged: bool | None
    """None if the provider does not say: it counts as charged until it is settled."""
    source: str
    """The document that says whether the provider charges, and the date it was read."""
    final: bool = True
    """For `content` and `invalid`: whether every other attempt would fail too."""

    def outcome(self, reason: str) -> Refused | Discarded | Rejected:
        charged = self.charged is not False
        if self.kind in {"content", "invalid"} and self.final:
            return Rejected(reason, charged=charged)
        return Discarded(reason) if charged else Refused(reason)


def failures(
    *rows: tuple[FailureKind, str, Condition],
    charged: bool | None,
    source: str,
) -> tuple[Failure, ...]:
    """Return rows (kind, evidence, when) whose charge one source documents."""
    return tuple(Failure(*row, charged=charged, source=source) for row in rows)


def always(_: Mapping[str, Any]) -> bool:
    """Match every task: the condition of a table's last row."""
    return True


def failure(
    table: tuple[Failure, ...], task: Mapping[str, Any], reason: str
) -> Refused | Discarded | Rejected | None:
    """Return the outcome of an ended task by the first row that matches it."""
    return next((row.outcome(reason) for row in table if row.when(task)), None)


def has(field: str, *values: object) -> Condition:
    """Match a task whose field has one of the values; capitals make no difference."""

    def fits(task: Mapping[str, Any]) -> bool:
        value = task.get(field)
        return (value.lower() if isinstance(value, str) else value) in values

    return fits


def says(pattern: re.Pattern[str], field: str = "error") -> Condition:
    """Match a task whose field, as text, contains the pattern."""
    return lambda task: pattern.search(str(task.get(field))) is not None
