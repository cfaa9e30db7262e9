"""Models and routes: what each makes, what it costs and what limits it has.

Each fact is declared here once, with its default and the rule that its value in
`models.toml` must keep. `loader` reads that file, and checks it against these classes.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import ConfigDict, Field, GetPydanticSchema, PositiveInt
from pydantic_core import core_schema

from manifests.jobs import AspectRatio, Content, Job, Resolution, Tier

Kind = Literal["live", "batch", "off_peak"]
"""Made at once; made when the provider finds the time; made at certain hours only."""

WIDTH_OVER_HEIGHT: Final[Mapping[AspectRatio, float]] = {
    "16:9": 16 / 9,
    "9:16": 9 / 16,
    "1:1": 1.0,
}


def _read_as(kind: Any, convert: Callable[[Any], Any]) -> GetPydanticSchema:
    """Read a value of the file as `kind`, then convert it to the field's own type.

    An error inside the value names its place there, such as `prices_usd.480p.5`.
    """
    return GetPydanticSchema(
        lambda _, handler: core_schema.no_info_after_validator_function(
            convert, handler.generate_schema(kind)
        )
    )


def _by_resolution_and_seconds(
    prices: Mapping[str, Mapping[int, Decimal]],
) -> dict[tuple[str, int], Decimal]:
    return {
        (resolution, seconds): price
        for resolution, by_seconds in prices.items()
        for seconds, price in by_seconds.items()
    }


def _minutes(span: str) -> tuple[int, int]:
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", span)
    if found is None:
        raise ValueError("must be HH:MM-HH:MM")
    hours, minutes, until_hours, until_minutes = map(int, found.groups())
    begins, ends = hours * 60 + minutes, until_hours * 60 + until_minutes
    if begins == ends:
        raise ValueError("must begin and end at different times")
    return begins, ends


def _lines(source: str | Mapping[str, str]) -> str:
    if isinstance(source, str):
        return source
    return "\n".join(f"{fact}: {text}" for fact, text in source.items())


_Count = Annotated[int, Field(strict=True, ge=1)]
_Flag = Annotated[bool, Field(strict=True)]
_Usd = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
_Scale = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_BySeconds = Annotated[dict[PositiveInt, _Usd], Field(min_length=1)]
_Prices = Annotated[
    Mapping[tuple[str, int], Decimal],
    _read_as(dict[Resolution, _BySeconds], _by_resolution_and_seconds),
]
_Endpoints = Annotated[Mapping[str, str], _read_as(dict[Resolution, str], dict)]
_HoursUtc = Annotated[tuple[int, int], _read_as(str, _minutes)]
_Source = Annotated[str, _read_as(str | dict[str, str], _lines)]


class _StrictTable:
    """A table of the file: a key without a field is an error."""

    __slots__ = ()
    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts(_StrictTable):
    """The facts of a model, which each of its routes has too."""

    content: Content = "general"
    """The kind of clips that the model is made for."""
    tier: Tier = "standard"
    """How good the model is, and how dear: a row may name a tier in place of a model."""
    fps: _Count = 16
    """Frames per second of the clip that the provider returns."""
    sides_of: _Count = 16
    """Each side of a clip is a multiple of this many pixels."""
    min_still_px: _Count = 1
    """The shortest side of a still that the model accepts."""
    retired: str = ""
    """When its vendor withdrew it, and what to use instead."""
    source: _Source = ""
    """The source and the date of each fact: a line for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model(ModelFacts):
    """A model, by the name that rows use."""

    name: str


@dataclass(frozen=True, slots=True)
class Sampling(_StrictTable):
    """How an engine on your own GPU samples a clip; the defaults are those of Wan 2.2."""

    steps: _Count = 40
    """The number of denoising steps."""
    cfg_high: _Scale = 3.5
    """The guidance of the high-noise expert; 1 is none."""
    cfg_low: _Scale = 3.5
    """The guidance of the low-noise expert."""
    shift: _Scale = 5.0
    """The shift of the noise schedule."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route(ModelFacts):
    """A model at a provider: its options, its prices and its limits."""

    name: str
    """provider/model, such as `wavespeed/wan-2.2-spicy`."""
    endpoints: _Endpoints
    """The provider's own model id, by resolution."""
    prices_usd: _Prices
    """The price of a clip, by resolution and seconds; the route makes no other clips."""
    model: str = ""
    """The model's name. Default: the second part of the route's name."""
    supplier: str = ""
    """The company whose machines make the clip. Default: the provider."""
    aspect_ratios: frozenset[AspectRatio] = frozenset[AspectRatio]({"auto"})
    """The aspect ratios that the route makes; `auto` follows the still."""
    takes_negative_prompt: _Flag = False
    """Whether the route accepts a negative prompt."""
    slots: _Count = 1
    """How many clips a new account may have in progress at once."""
    submits_per_minute: _Count = 60
    """How many submits a new account may send in a minute."""
    queues: _Flag = False
    """Whether the provider queues work over the slots instead of refusing it."""
    limits_per: Literal["account", "model"] = "account"
    """Whether all models of an account share the slots and the rate, or each has its own."""
    submits_per_day: _Count | None = None
    """How many submits a new account may send in 24 hours. Default: no limit."""
    kind: Kind = "live"
    """`live` routes make a clip at once, `batch` when the provider has time, `off_peak`
    only at certain hours."""
    hours_utc: _HoursUtc | None = None
    """The hours in which an off-peak route takes submits, such as `22:00-06:00`: read as
    minutes after midnight."""
    typical_s: _Count | None = None
    """How long a clip takes, in seconds, until the lane has measured it. Default: 60."""
    keeps_s: _Count | None = None
    """How long the provider keeps a finished clip, in seconds. Default: the provider does
    not state it."""
    sampling: Sampling = Sampling()
    """How your own engine samples a clip."""

    def __post_init__(self) -> None:
        provider, _, model = self.name.partition("/")
        object.__setattr__(self, "model", self.model or model)
        object.__setattr__(self, "supplier", self.supplier or provider)

    @property
    def provider(self) -> str:
        return self.name.partition("/")[0]

    def rank(self, job: Job) -> int | None:
        """The place of the route's model among those that the job names, from 0; None if
        it is not there."""
        if not job.models:
            return 0
        names = (self.model, self.tier)
        return next((n for n, name in enumerate(job.models) if name in names), None)

    def aspect_ratio_for(self, job: Job, width: int, height: int) -> AspectRatio:
        """The aspect ratio to ask for, for a still of this size in pixels."""
        if job.aspect_ratio != "auto" or "auto" in self.aspect_ratios:
            return job.aspect_ratio
        still = width / height
        return min(
            self.aspect_ratios,
            key=lambda ratio: (
                abs(math.log(still / WIDTH_OVER_HEIGHT[ratio])),
                ratio,
            ),
        )

    def price_usd(self, job: Job) -> Decimal:
        """The price of one attempt at this job. Raises KeyError if it cannot be made."""
        return self.prices_usd[job.resolution, job.duration_s]

    def complaint(self, job: Job) -> tuple[str, str] | None:
        """The manifest column that this route cannot serve and why; None if it can."""
        seconds = sorted(s for made, s in self.prices_usd if made == job.resolution)
        if self.rank(job) is None:
            return "model", f"{self.name} makes {self.model}"
        if job.content not in {"", self.content}:
            return "content", f"{self.name} is for {self.content} content"
        if not seconds:
            return "resolution", f"{self.name} makes {alternatives(self.endpoints)}"
        if job.duration_s not in seconds:
            made = f"{alternatives(seconds)} s at {job.resolution}"
            return "duration_s", f"{self.name} makes {made}"
        # A route that must be given a ratio takes the nearest to the still's for `auto`.
        if job.aspect_ratio not in {*self.aspect_ratios, "auto"}:
            made = alternatives(self.aspect_ratios)
            return "aspect_ratio", f"{self.name} makes {made}"
        if job.negative_prompt and not self.takes_negative_prompt:
            return "negative_prompt", f"{self.name} takes none"
        return None


def alternatives(values: Iterable[object]) -> str:
    """Values in ascending order, with `or` between them."""
    return " or ".join(map(str, sorted(values, key=_numbers_by_size)))


def _numbers_by_size(value: object) -> tuple[int, str]:
    return (value if isinstance(value, int) else 0, str(value))
