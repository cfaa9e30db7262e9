"""A prediction: one accepted submit at its provider, until it ends."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum, auto
from typing import Any

from tasks.emulator.faults import Fault
from tasks.emulator.uploads import Still


class Stage(StrEnum):
    """The state of a prediction, in the same words for every provider."""

    WAITING = auto()
    RUNNING = auto()
    UNDOCUMENTED = auto()
    """Only the first poll under `Fault.UNKNOWN_STATUS` sees this one."""
    SUCCEEDED = auto()
    FAILED = auto()
    MODERATED = auto()
    UNREADABLE = auto()
    """Failed because the still could not be read."""


UNPAID_FAILURES = frozenset({Stage.FAILED, Stage.MODERATED, Stage.UNREADABLE})
"""The refunds of a provider that charges for no failure."""


def status_words(
    *, waiting: str, running: str, undocumented: str, succeeded: str, failed: str
) -> Mapping[Stage, str]:
    """Return a provider's status word for each stage; all failures have the same word."""
    return {
        Stage.WAITING: waiting,
        Stage.RUNNING: running,
        Stage.UNDOCUMENTED: undocumented,
        Stage.SUCCEEDED: succeeded,
        **dict.fromkeys(UNPAID_FAILURES, failed),
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipSpec:
    """The clip that a submit asks for, in the same words for every provider."""

    model: str
    image: str
    prompt: str
    seed: int | None
    resolution: str
    duration_s: int
    fps: float
    frames: int
    price_usd: Decimal
    aspect_ratio: str = "auto"
    keep_s: float | None = None
    """How long to keep the clip; None means the provider's usual time."""
    reference: str = ""
    """The customer's name for the submit, if the provider has a field for it."""
    custom_id: str = ""
    """The customer's id for the submit, if the provider uses it as its own id."""
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The fields of the submit, if the provider's listing repeats them."""


@dataclass(slots=True, kw_only=True, eq=False)
class Prediction:
    """One accepted submit: a line of the bill."""

    id: str
    spec: ClipSpec
    image: str
    """The still's URL without a signature, or its digest."""
    seed: int
    fault: Fault | None
    accepted_at: float
    accepted_date: str
    latency_s: float
    stage: Stage = Stage.WAITING
    started_at: float | None = None
    ended_at: float | None = None
    renewed_at: float | None = None
    """When a poll last made a new link to the clip, if the provider does that."""
    still: Still | None = None
    polls: int = 0
    downloads: int = 0

    @property
    def inference_s(self) -> float:
        if self.started_at is None or self.ended_at is None:
            return 0.0
        return self.ended_at - self.started_at

    def end(self, at: float) -> None:
        """End the provider's work on it, with success or with a failure."""
        self.ended_at = at
        match self.fault:
            case Fault.REFUSE_CONTENT:
                self.stage = Stage.MODERATED
            case Fault.FAIL:
                self.stage = Stage.FAILED
            case _:
                self.stage = Stage.SUCCEEDED
