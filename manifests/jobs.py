"""A job: one clip owed.

Its id is a digest of exactly the values that decide the clip. The same row never buys
the same clip twice, whichever manifest it comes in.
"""

import hashlib
import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal, NamedTuple

Resolution = Literal["480p", "720p", "1080p"]
AspectRatio = Literal["16:9", "9:16", "1:1", "auto"]
Content = Literal["general", "adult"]
Tier = Literal["draft", "standard", "premium"]
"""How good a model is, and how dear: a row may name one in place of a model."""

SEEDS: Final = 2**31
"""Seeds are drawn below this: the largest range that every provider takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One clip owed: a still to animate, and how."""

    image: str
    """The still: its absolute URI without any signature, or `sha256:<hex>` of its bytes."""
    prompt: str
    negative_prompt: str = ""
    model: str = ""
    """A model's name, a tier's, or several in order of preference with commas between
    them; "" for any that serves the rest."""
    resolution: Resolution = "480p"
    duration_s: int = 5
    aspect_ratio: AspectRatio = "auto"
    seed: int | None = None
    """The seed the row asks for; None draws one from the job's id."""
    take: int = 1
    content: Content | Literal[""] = ""
    """The kind of clips its model must be made for; "" if the row does not say."""
    id: str = field(init=False, compare=False)
    """32 hex digits."""

    def __post_init__(self) -> None:
        decides: tuple[object, ...] = (
            self.image,
            self.prompt,
            self.negative_prompt,
            self.model,
            self.resolution,
            self.duration_s,
            self.aspect_ratio,
            self.seed,
            self.take,
        )
        if self.content:
            decides += (self.content,)
        digest = hashlib.blake2b(json.dumps(decides).encode(), digest_size=16)
        object.__setattr__(self, "id", digest.hexdigest())

    @property
    def models(self) -> tuple[str, ...]:
        """The models and tiers it names, the preferred one first; none for any."""
        return tuple(self.model.split(",")) if self.model else ()

    def seed_after(self, discards: int) -> int:
        """The seed of the attempt that follows this many discarded ones."""
        first = int(self.id[:8], 16) if self.seed is None else self.seed
        return (first + discards) % SEEDS


class Kind(NamedTuple):
    """The properties that decide which lanes can make a job, and at what price."""

    model: str
    content: Content | Literal[""]
    resolution: Resolution
    duration_s: int
    aspect_ratio: AspectRatio
    negative: bool
    max_usd: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A job with the values of its rows that do not change the clip."""

    job: Job
    still: str
    """The URI to read the still from; it may carry a signature, so it is never recorded."""
    priority: int = 0
    max_usd: Decimal | None = None
    kind: Kind = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        job = self.job
        kind = Kind(
            job.model,
            job.content,
            job.resolution,
            job.duration_s,
            job.aspect_ratio,
            bool(job.negative_prompt),
            self.max_usd,
        )
        object.__setattr__(self, "kind", kind)
