"""The catalogue: which models exist, who serves them, at what price and within what limits.

`models.toml` beside this file holds it as data, each fact with its source and date;
people override or extend it under `[models.…]` and `[routes.…]` in nightreel.toml.
"""

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Final, Literal, TypeVar, cast, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
)

from manifests.jobs import AspectRatio, Content, Job, Resolution, Tier

Kind = Literal["live", "batch", "off_peak"]
"""Made at once; made when the provider finds the time; made at certain hours only."""

V = TypeVar("V")


SHAPES: Final[Mapping[AspectRatio, float]] = {
    "16:9": 16 / 9,
    "9:16": 9 / 16,
    "1:1": 1.0,
}
"""Width over height."""


class CatalogueError(ValueError):
    """The catalogue cannot be trusted; raised before anything is bought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What is true of a model, whoever serves it."""

    name: str
    content: Content = "general"
    """What it is made to show."""
    tier: Tier = "standard"
    fps: int = 16
    sides_of: int = 16
    """Of which each side of a clip is a multiple, in pixels."""
    min_still_px: int = 1
    retired: str = ""
    """When its vendor withdrew it, and what to use instead."""
    source: str = ""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an engine on GPUs of one's own is to make a clip: as Wan 2.2 ships, unless said."""

    steps: int = 40
    cfg_high: float = 3.5
    """Guidance of the expert for high noise; 1 is none."""
    cfg_low: float = 3.5
    shift: float = 5.0


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
    """Frames per second of the clip that the provider returns."""
    sides_of: int = 16
    """Of which each side is a multiple, where it is told the size in pixels."""
    model: str = ""
    """What it makes; the second part of its name unless that says something else."""
    supplier: str = ""
    """Whose machines make it: the provider's own, unless it resells another's."""
    tier: Tier = "standard"
    """How good its model is, and how dear: a row may name a tier in place of a model."""
    content: Content = "general"
    """What its model is made to show."""
    aspect_ratios: frozenset[AspectRatio] = frozenset[AspectRatio]({"auto"})
    takes_negative_prompt: bool = False
    min_still_px: int = 1
    """The shortest side of a still that the model accepts."""
    slots: int = 1
    """How many clips it makes at once for a new account."""
    submits_per_minute: int = 60
    queues: bool = False
    """Whether work over the slots waits at the provider instead of being refused."""
    limits_per: Literal["account", "model"] = "account"
    """What shares the slots and the minute: all models of an account, or each alone."""
    submits_per_day: int | None = None
    kind: Kind = "live"
    hours_utc: tuple[int, int] | None = None
    """When an off-peak route takes submits: from and to, in minutes after midnight."""
    typical_s: int | None = None
    """How long a clip takes, until the lane has shown it."""
    keeps_s: int | None = None
    """How long after its end the provider keeps a clip; None where nobody says."""
    sampling: Sampling = Sampling()
    retired: str = ""
    source: str = ""
    """Where the facts are from, and when they were read."""

    def __post_init__(self) -> None:
        provider, _, model = self.name.partition("/")
        object.__setattr__(self, "model", self.model or model)
        object.__setattr__(self, "supplier", self.supplier or provider)

    @property
    def provider(self) -> str:
        return self.name.partition("/")[0]

    def rank(self, job: Job) -> int | None:
        """How far down the job's wishes its model is, from 0; None if it is not there."""
        if not job.models:
            return 0
        mine = (self.model, self.tier)
        return next((n for n, name in enumerate(job.models) if name in mine), None)

    def framed(self, job: Job, width: int, height: int) -> AspectRatio:
        """The aspect ratio to ask for, for a still of this size in pixels."""
        if job.aspect_ratio != "auto" or "auto" in self.aspect_ratios:
            return job.aspect_ratio
        return min(
            self.aspect_ratios,
            key=lambda ratio: (abs(math.log(width / height / SHAPES[ratio])), ratio),
        )

    def price_usd(self, job: Job) -> Decimal:
        """What one attempt at this job costs. Raises KeyError if it cannot be made."""
        return self.prices_usd[job.resolution, job.duration_s]

    def complaint(self, job: Job) -> tuple[str, str] | None:
        """The manifest column this route cannot serve and why, or None if it can serve all."""
        seconds = sorted(s for made, s in self.prices_usd if made == job.resolution)
        if self.rank(job) is None:
            return "model", f"{self.name} makes {self.model}"
        if job.content not in {"", self.content}:
            return "content", f"{self.name} is for {self.content} content"
        if not seconds:
            return "resolution", f"{self.name} makes {_either(self.endpoints)}"
        if job.duration_s not in seconds:
            made = f"{_either(seconds)} s at {job.resolution}"
            return "duration_s", f"{self.name} makes {made}"
        # Where a ratio must be named, `auto` is the one nearest to the still's own.
        if job.aspect_ratio not in {*self.aspect_ratios, "auto"}:
            return "aspect_ratio", f"{self.name} makes {_either(self.aspect_ratios)}"
        if job.negative_prompt and not self.takes_negative_prompt:
            return "negative_prompt", f"{self.name} takes none"
        return None


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Every model and route there is."""

    models: Mapping[str, Model]
    routes: Mapping[str, Route]

    def route(self, name: str) -> Route:
        """The route of that name.

        Raises:
            CatalogueError: there is none.
        """
        return _named(name, self.routes, "route")


def load(
    overrides: Mapping[str, Any] | None = None, *, place: str = "nightreel.toml"
) -> Catalogue:
    """What is shipped, with a person's own `models` and `routes` laid over it.

    Raises:
        CatalogueError: a fact is missing, unknown or not of its kind.
    """
    data = files("manifests.catalogue").joinpath("models.toml").read_text("utf-8")
    shipped = tomllib.loads(data, parse_float=Decimal)
    theirs = overrides or {}
    models = {
        name: _model(name, _read(_ModelFacts, facts, where), where)
        for name, facts, where in _tables("models", shipped, theirs, place)
    }
    routes = {
        name: _route(name, _read(_RouteFacts, facts, where), models, where)
        for name, facts, where in _tables("routes", shipped, theirs, place)
    }
    return Catalogue(models, routes)


@cache
def shipped() -> Catalogue:
    """The catalogue as it is shipped, without anybody's own facts."""
    return load()


_Count = Annotated[int, Field(strict=True, ge=1)]
_Flag = Annotated[bool, Field(strict=True)]
_Usd = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]
_Scale = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str | dict[str, str] = ""

    @property
    def sources(self) -> str:
        if isinstance(self.source, str):
            return self.source
        return "\n".join(f"{fact}: {text}" for fact, text in self.source.items())


def _minutes(span: str) -> tuple[int, int]:
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)", span)
    if found is None:
        raise ValueError("must be HH:MM-HH:MM")
    hours, minutes, until_hours, until_minutes = map(int, found.groups())
    begins, ends = hours * 60 + minutes, until_hours * 60 + until_minutes
    if begins == ends:
        raise ValueError("must begin and end at different times")
    return begins, ends


class _ModelFacts(_Facts):
    content: Content = "general"
    tier: Tier = "standard"
    retired: str = ""
    fps: _Count = 16
    sides_of: _Count = 16
    min_still_px: _Count = 1


class _SamplingFacts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: _Count = 40
    cfg_high: _Scale = 3.5
    cfg_low: _Scale = 3.5
    shift: _Scale = 5.0


class _RouteFacts(_Facts):
    endpoints: dict[Resolution, str]
    prices_usd: dict[
        Resolution, Annotated[dict[PositiveInt, _Usd], Field(min_length=1)]
    ]
    fps: _Count | None = None
    aspect_ratios: frozenset[AspectRatio] = frozenset[AspectRatio]({"auto"})
    takes_negative_prompt: _Flag = False
    min_still_px: _Count | None = None
    slots: _Count = 1
    submits_per_minute: _Count = 60
    queues: _Flag = False
    model: str = ""
    supplier: str = ""
    limits_per: Literal["account", "model"] = "account"
    submits_per_day: _Count | None = None
    kind: Kind = "live"
    hours_utc: Annotated[tuple[int, int], BeforeValidator(_minutes)] | None = None
    typical_s: _Count | None = None
    keeps_s: _Count | None = None
    sampling: _SamplingFacts = _SamplingFacts()
    retired: str = ""


F = TypeVar("F", bound=_Facts)


def _tables(
    kind: str, shipped: Mapping[str, Any], theirs: Mapping[str, Any], place: str
) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Every table of a kind, theirs over ours, and where to look for what is wrong."""
    added = _table(theirs.get(kind, {}), f"{place}: {kind}")
    for name in dict.fromkeys([*shipped[kind], *added]):
        where = f'{place if name in added else "models.toml"}: {kind}."{name}"'
        mine = _table(added.get(name, {}), where)
        told = {fact: place for fact in mine if fact != "source"}
        facts = _over(shipped[kind].get(name, {}), {"source": told} if told else {})
        yield name, _over(facts, mine), where


def _model(name: str, facts: _ModelFacts, where: str) -> Model:
    if "," in name or name in get_args(Tier):
        raise CatalogueError(f"{where}: cannot be called {name!r}: rows name a tier so")
    return Model(
        name=name,
        content=facts.content,
        tier=facts.tier,
        retired=facts.retired,
        fps=facts.fps,
        sides_of=facts.sides_of,
        min_still_px=facts.min_still_px,
        source=facts.sources,
    )


def _route(
    name: str, facts: _RouteFacts, models: Mapping[str, Model], where: str
) -> Route:
    provider, slash, made = name.partition("/")
    if not (provider and slash and made):
        raise CatalogueError(f"{where}: is not named provider/model")
    if lacking := facts.prices_usd.keys() - facts.endpoints.keys():
        raise CatalogueError(f"{where}: no endpoint for {_either(lacking)}")
    if (facts.kind == "off_peak") != (facts.hours_utc is not None):
        raise CatalogueError(f"{where}: hours_utc goes with kind off_peak, and only so")
    model = _named(facts.model or made, models, f"{where}: model")
    return Route(
        name=name,
        endpoints={**facts.endpoints},
        prices_usd={
            (resolution, seconds): price
            for resolution, prices in facts.prices_usd.items()
            for seconds, price in prices.items()
        },
        fps=facts.fps or model.fps,
        sides_of=model.sides_of,
        content=model.content,
        model=model.name,
        supplier=facts.supplier or provider,
        tier=model.tier,
        limits_per=facts.limits_per,
        submits_per_day=facts.submits_per_day,
        kind=facts.kind,
        hours_utc=facts.hours_utc,
        typical_s=facts.typical_s,
        keeps_s=facts.keeps_s,
        sampling=Sampling(**facts.sampling.model_dump()),
        retired=facts.retired or model.retired,
        aspect_ratios=facts.aspect_ratios,
        takes_negative_prompt=facts.takes_negative_prompt,
        min_still_px=facts.min_still_px or model.min_still_px,
        slots=facts.slots,
        submits_per_minute=facts.submits_per_minute,
        queues=facts.queues,
        source="\n".join(filter(None, [facts.sources, model.source])),
    )


def _read(kind: type[F], facts: Mapping[str, Any], where: str) -> F:
    try:
        return kind.model_validate(facts)
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
    fact = ".".join(str(part) for part in error["loc"])
    match error["type"], error["input"]:
        case "extra_forbidden", dict():
            # To TOML, [models.wan-2.2] is the table "2" in the table "wan-2".
            what = f"no fact {fact!r}; a name with a dot needs quotes"
        case "extra_forbidden", _:
            what = f"no fact {fact!r}{_near(fact, kind.model_fields)}"
        case "missing", _:
            what = f"{fact} is missing"
        case _, value:
            what = f"{fact} is {value!r}: {error['msg']}"
    raise CatalogueError(f"{where}: {what}")


def _over(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Theirs laid over ours, table by table."""
    merged = dict(ours)
    for key, value in theirs.items():
        both = {type(merged.get(key)), type(value)} == {dict}
        merged[key] = _over(merged[key], value) if both else value
    return merged


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise CatalogueError(f"{where} is {value!r}, not a table")
    return cast("Mapping[str, Any]", value)


def _named(name: str, things: Mapping[str, V], what: str) -> V:
    try:
        return things[name]
    except KeyError:
        near = _near(name, things) or f"; there are {', '.join(sorted(things))}"
        raise CatalogueError(f"{what} {name!r} does not exist{near}") from None


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(names), cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _either(things: Iterable[object]) -> str:
    return " or ".join(str(thing) for thing in sorted(things, key=_size))


def _size(thing: object) -> tuple[int, str]:
    return (thing if isinstance(thing, int) else 0, str(thing))
