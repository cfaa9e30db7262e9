"""The catalogue: which models exist, who serves them, at what price and within what limits.

`models.toml` beside this file holds it as data, each fact with its source and date;
people override or extend it under `[models.…]` and `[routes.…]` in nightreel.toml.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from typing import Any

from manifests.jobs import Job


class CatalogueError(ValueError):
    """The catalogue cannot be trusted; raised before anything is bought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A model at a provider: what it takes, what it costs, what it bears."""

    name: str
    """provider/model, such as `wavespeed/wan-2.2-spicy`."""
    endpoints: Mapping[str, str]
    """The provider's own model id by resolution."""
    prices_usd: Mapping[tuple[str, int], Decimal]
    """The price of a clip by (resolution, seconds): also what the route can make."""
    fps: int
    """Frames per second of what comes back."""
    aspect_ratios: frozenset[str] = frozenset({"auto"})
    takes_negative_prompt: bool = False
    min_still_px: int = 1
    """The shortest side of a still that the model accepts."""
    slots: int = 1
    """How many clips it makes at once for a new account."""
    submits_per_minute: int = 60
    queues: bool = False
    """Whether work over the slots waits at the provider instead of being refused."""
    source: str = ""
    """Where the facts are from, and when they were read."""

    @property
    def provider(self) -> str:
        return self.name.partition("/")[0]

    @property
    def model(self) -> str:
        return self.name.partition("/")[2]

    def price_usd(self, job: Job) -> Decimal:
        """What one attempt at this job costs. Raises KeyError if it cannot be made."""
        return self.prices_usd[job.resolution, job.duration_s]

    def complaint(self, job: Job) -> tuple[str, str] | None:
        """The manifest column this route cannot serve and why, or None if it can serve all."""
        raise NotImplementedError
