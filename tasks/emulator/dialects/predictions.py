"""A prediction: one accepted submit, at its provider, from acceptance to its end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum, auto
from typing import Any

from tasks.emulator.faults import Fault
from tasks.emulator.uploads import Still


class Stage(StrEnum):
    """Where a prediction is in its life, in no provider's words."""

    WAITING = auto()
    RUNNING = auto()
    ODD = auto()
    """Not a stage, but what a client is told once under Fault.UNKNOWN_STATUS."""
    SUCCEEDED = auto()
    FAILED = auto()
    MODERATED = auto()
    UNREADABLE = auto()
    """Failed because its still could not be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The clip that a submit asks for, whatever the provider's words for it."""

    endpoint: str
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
    """How long the clip is to be kept; None leaves that to the provider."""
    reference: str = ""
    """The customer's own name for it, where the provider has a field for one."""
    named: str = ""
    """The customer's own id for it, where the provider takes one as its own."""
    asked: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The request's fields, where the provider's listings repeat them."""


@dataclass(slots=True, kw_only=True, eq=False)
class Prediction:
    """One accepted submit: a line of the bill."""

    id: str
    wanted: Wanted
    image: str
    """Which still, without any signature."""
    seed: int
    fault: Fault | None
    accepted_at: float
    accepted_date: str
    latency_s: float
    stage: Stage = Stage.WAITING
    started_at: float | None = None
    ended_at: float | None = None
    renewed_at: float | None = None
    """When its clip's link was last made anew, where a poll does that."""
    still: Still | None = None
    polls: int = 0
    downloads: int = 0

    @property
    def inference_s(self) -> float:
        if self.started_at is None or self.ended_at is None:
            return 0.0
        return self.ended_at - self.started_at

    def end(self, at: float) -> None:
        """The provider's work on it is over, well or not."""
        self.ended_at = at
        match self.fault:
            case Fault.REFUSE_CONTENT:
                self.stage = Stage.MODERATED
            case Fault.FAIL:
                self.stage = Stage.FAILED
            case _:
                self.stage = Stage.SUCCEEDED
