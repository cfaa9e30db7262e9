"""Rests of a lane that gets answers which repeating makes no better. Pure.

Two kinds of answers count, each at its stage (submit, upload or poll):

* One that is not the provider's own: a redirect, a firewall's page, a login. A submit that
  gets it is in doubt, so trying again is dear. After `ALIKE` alike in a row the lane rests
  for a minute, and twice as long after each further one, up to an hour. After `ALIKE_CLOSE`
  it closes.
* A refused key that was good before in this run. The lane rests for 20 s, then for 40 s, and
  closes at the third in a row.

A good answer at a stage begins that stage's row anew. An answer that comes while the lane
rests was asked for before the rest, or is a poll: it tells nothing new.
"""

import math
from dataclasses import dataclass, field
from typing import Final, Literal

from storage.backoff import backoff

ALIKE: Final = 3
ALIKE_CLOSE: Final = 10
FIRST_REST_S: Final = 60.0
LONGEST_REST_S: Final = 3600.0
KEY_RESTS_S: Final = (20.0, 40.0)

Stage = Literal["submit", "upload", "poll"]
Reaction = Literal["goes on", "rests", "closes"]


@dataclass(slots=True)
class _Row:
    """Answers in a row at one stage that are alike."""

    shape: str
    count: int = 0
    rests_until: float = -math.inf


@dataclass(slots=True)
class Rests:
    """The rests of one lane; callers pass the clock in."""

    _rows: dict[tuple[Stage, str], _Row] = field(
        default_factory=dict[tuple[Stage, str], _Row]
    )

    def wait_s(self, now: float) -> float:
        """Seconds until the lane may be tried again."""
        rests = (row.rests_until - now for row in self._rows.values())
        return max(0.0, *rests) if self._rows else 0.0

    def answered(self, stage: Stage) -> None:
        """Count a good answer."""
        for kind in ("foreign", "key"):
            self._rows.pop((stage, kind), None)

    def foreign(self, stage: Stage, shape: str, now: float) -> Reaction:
        """Count an answer that is not the provider's own; `shape` is equal for those alike."""
        row = self._row(stage, "foreign", shape)
        if row.rests_until > now:
            return "goes on"
        row.count += 1
        if row.count >= ALIKE_CLOSE:
            return "closes"
        if row.count < ALIKE:
            return "goes on"
        rest_s = backoff(row.count - ALIKE + 1, FIRST_REST_S, LONGEST_REST_S)
        row.rests_until = now + rest_s
        return "rests"

    def key_refused(self, stage: Stage, now: float) -> Reaction:
        """Count a refusal of a key that was good before."""
        row = self._row(stage, "key", "")
        if row.rests_until > now:
            return "goes on"
        row.count += 1
        if row.count > len(KEY_RESTS_S):
            return "closes"
        row.rests_until = now + KEY_RESTS_S[row.count - 1]
        return "rests"

    def _row(self, stage: Stage, kind: str, shape: str) -> _Row:
        row = self._rows.get((stage, kind))
        if row is None or row.shape != shape:
            row = self._rows[stage, kind] = _Row(shape)
        return row
