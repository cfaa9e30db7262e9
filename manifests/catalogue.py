"""The catalogue: which models exist, who serves them, at what price and within what limits.

`models.toml` beside this file holds it as data, each fact with its source and date;
people override or extend it under `[models.…]` and `[routes.…]` in nightreel.toml.
"""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from typing import Annotated, Any, Literal, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from manifests.jobs import AspectRatio, Job, Resolution

Content = Literal["general", "adult"]

V = TypeVar("V")


class CatalogueError(ValueError):
    """The catalogue cannot be trusted; raised before anything is bought."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """What is true of a model, whoever serves it."""

    name: str
    content: Content = "general"
    """What it is made to show."""
    fps: int = 16
    min_still_px: int = 1
    source: str = ""


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
    content: Content = "general"
    """What its model is made to show."""
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
        seconds = sorted(s for made, s in self.prices_usd if made == job.resolution)
        if job.model not in {"", self.model}:
            return "model", f"{self.name} makes {self.model}"
        if not seconds:
            return "resolution", f"{self.name} makes {_either(self.endpoints)}"
        if job.duration_s not in seconds:
            made = f"{_either(seconds)} s at {job.resolution}"
            return "duration_s", f"{self.name} makes {made}"
        if job.aspect_ratio not in self.aspect_ratios:
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
    data = files("manifests").joinpath("models.toml").read_text("utf-8")
    shipped = tomllib.loads(data, parse_float=Decimal)
    theirs = overrides or {}
    models = {
        name: _model(name, _read(_ModelFacts, facts, where))
        for name, facts, where in _tables("models", shipped, theirs, place)
    }
    routes = {
        name: _route(name, _read(_RouteFacts, facts, where), models, where)
        for name, facts, where in _tables("routes", shipped, theirs, place)
    }
    return Catalogue(models, routes)


_Count = Annotated[int, Field(strict=True, ge=1)]
_Flag = Annotated[bool, Field(strict=True)]
_Usd = Annotated[Decimal, Field(ge=0, allow_inf_nan=False)]


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str | dict[str, str] = ""

    @property
    def sources(self) -> str:
        if isinstance(self.source, str):
            return self.source
        return "\n".join(f"{fact}: {text}" for fact, text in self.source.items())


class _ModelFacts(_Facts):
    content: Content = "general"
    fps: _Count = 16
    min_still_px: _Count = 1


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


def _model(name: str, facts: _ModelFacts) -> Model:
    return Model(
        name=name,
        content=facts.content,
        fps=facts.fps,
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
    model = _named(made, models, f"{where}: model")
    return Route(
        name=name,
        endpoints={**facts.endpoints},
        prices_usd={
            (resolution, seconds): price
            for resolution, prices in facts.prices_usd.items()
            for seconds, price in prices.items()
        },
        fps=facts.fps or model.fps,
        content=model.content,
        aspect_ratios=frozenset(facts.aspect_ratios),
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
