"""The catalogue of models and routes: read from `models.toml`, and checked.

`models.toml` beside this file holds the facts, each with its source and date; people
override or extend them under `[models.…]` and `[routes.…]` in nightreel.toml.
"""

import difflib
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any, Final, TypeVar, cast, get_args

from pydantic import TypeAdapter, ValidationError

from manifests.catalogue.routes import Model, ModelFacts, Route, alternatives
from manifests.jobs import Tier

V = TypeVar("V")
T = TypeVar("T", Model, Route)

_FROM_MODEL: Final = frozenset({"content", "tier", "sides_of"})
"""Facts of a route that only its model's table can state."""


class CatalogueError(ValueError):
    """The catalogue cannot be trusted; raised before anything is bought."""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """All models and routes, by their names."""

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
    """The shipped catalogue, with the `models` and `routes` of `overrides` laid over it.

    Raises:
        CatalogueError: a fact is missing, unknown or not of its kind.
    """
    data = files("manifests.catalogue").joinpath("models.toml").read_text("utf-8")
    ours = tomllib.loads(data, parse_float=Decimal)
    overrides = overrides or {}
    models = {
        name: _model(name, facts, where)
        for name, facts, where in _tables("models", ours, overrides, place)
    }
    routes = {
        name: _route(name, facts, models, where)
        for name, facts, where in _tables("routes", ours, overrides, place)
    }
    return Catalogue(models, routes)


@cache
def shipped() -> Catalogue:
    """The shipped catalogue, without overrides."""
    return load()


def _tables(
    kind: str, ours: Mapping[str, Any], overrides: Mapping[str, Any], place: str
) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Every table of a kind: our facts under the overrides, and the place for errors."""
    added = _table(overrides.get(kind, {}), f"{place}: {kind}")
    for name in dict.fromkeys([*ours[kind], *added]):
        where = f'{place if name in added else "models.toml"}: {kind}."{name}"'
        override = _table(added.get(name, {}), where)
        sources = {fact: place for fact in override if fact != "source"}
        facts = _over(ours[kind].get(name, {}), {"source": sources} if sources else {})
        yield name, _over(facts, override), where


def _model(name: str, facts: Mapping[str, Any], where: str) -> Model:
    model = _read(Model, name, facts, frozenset({"name"}), where)
    if "," in name or name in get_args(Tier):
        raise CatalogueError(f"{where}: cannot be called {name!r}: rows name a tier so")
    return model


def _route(
    name: str, facts: Mapping[str, Any], models: Mapping[str, Model], where: str
) -> Route:
    route = _read(Route, name, facts, _FROM_MODEL | {"name"}, where)
    if not all(name.partition("/")):
        raise CatalogueError(f"{where}: is not named provider/model")
    priced = {resolution for resolution, _ in route.prices_usd}
    if lacking := priced - route.endpoints.keys():
        raise CatalogueError(f"{where}: no endpoint for {alternatives(lacking)}")
    if (route.kind == "off_peak") != (route.hours_utc is not None):
        raise CatalogueError(f"{where}: hours_utc goes with kind off_peak, and only so")
    model = _named(route.model, models, f"{where}: model")
    inherited: dict[str, Any] = {
        field.name: getattr(model, field.name)
        for field in fields(ModelFacts)
        if not facts.get(field.name)
    }
    sources = "\n".join(filter(None, [route.source, model.source]))
    return replace(route, **inherited | {"source": sources})


def _read(
    kind: type[T],
    name: str,
    facts: Mapping[str, Any],
    unknown: frozenset[str],
    where: str,
) -> T:
    """A model or a route from its table, in which the facts in `unknown` are not known."""
    known = [field.name for field in fields(kind) if field.name not in unknown]
    for fact in facts:
        if fact in unknown:
            what = _no_fact(fact, facts[fact], known)
            raise CatalogueError(f"{where}: {what}")
    try:
        return _adapter(kind).validate_python({"name": name, **facts})
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
    fact = ".".join(str(part) for part in error["loc"])
    match error["type"], error["input"]:
        case "unexpected_keyword_argument", value:
            what = _no_fact(fact, value, known)
        case "missing", _:
            what = f"{fact} is missing"
        case _, value:
            what = f"{fact} is {value!r}: {error['msg']}"
    raise CatalogueError(f"{where}: {what}")


def _no_fact(fact: str, value: object, known: Iterable[str]) -> str:
    # To TOML, [models.wan-2.2] is the table "2" in the table "wan-2".
    dotted = isinstance(value, dict)
    hint = "; a name with a dot needs quotes" if dotted else _near(fact, known)
    return f"no fact {fact!r}{hint}"


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` laid over `below`, table by table."""
    merged = dict(below)
    for key, value in above.items():
        both = {type(merged.get(key)), type(value)} == {dict}
        merged[key] = _over(merged[key], value) if both else value
    return merged


def _table(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise CatalogueError(f"{where} is {value!r}, not a table")
    return cast("Mapping[str, Any]", value)


def _named(name: str, values: Mapping[str, V], what: str) -> V:
    try:
        return values[name]
    except KeyError:
        near = _near(name, values) or f"; there are {', '.join(sorted(values))}"
        raise CatalogueError(f"{what} {name!r} does not exist{near}") from None


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, sorted(names), cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else ""
