"""Lanes from settings: a route of the catalogue, a key, and how hard it may be pushed."""

from collections.abc import Mapping

import httpx

from flows.settings import LaneSettings, Settings, SettingsError, resolve_key
from manifests.catalogue import Catalogue, CatalogueError, Route, load
from tasks.engine import Rules
from tasks.exchange import Line
from tasks.lanes import Lane
from tasks.pacing import Limits
from tasks.providers import PROVIDERS


async def opened(settings: Settings) -> list[Lane]:
    """Every lane, with its key.

    Raises:
        SettingsError: a route or a key is not there.
    """
    routes = chosen(settings)
    return [
        _lane(name, routes[name], lane, await resolve_key(lane.key, lane=name))
        for name, lane in settings.lanes.items()
    ]


def keyless(settings: Settings) -> list[Lane]:
    """The same lanes to plan with: nothing can be sent on them."""
    routes = chosen(settings)
    return [
        _lane(name, routes[name], lane, "") for name, lane in settings.lanes.items()
    ]


def chosen(settings: Settings) -> Mapping[str, Route]:
    """Each lane's route, by the lane's name.

    Raises:
        SettingsError: the catalogue has no such route, or cannot be trusted.
    """
    try:
        catalogue = load({"models": settings.models, "routes": settings.routes})
    except CatalogueError as exc:
        raise SettingsError(str(exc)) from exc
    return {
        name: _route(catalogue, name, lane) for name, lane in settings.lanes.items()
    }


def rules(settings: Settings) -> Rules:
    """What the settings allow an engine."""
    return Rules(
        attempts=settings.engine.attempts,
        deadline_s=settings.engine.deadline_s,
        downloads=settings.engine.downloads,
        decodes=settings.engine.decode,
    )


def _route(catalogue: Catalogue, name: str, lane: LaneSettings) -> Route:
    try:
        route = catalogue.route(lane.route)
    except CatalogueError as exc:
        raise SettingsError(f"[lanes.{name}] {exc}") from exc
    if route.provider not in PROVIDERS:
        known = ", ".join(PROVIDERS)
        said = f"[lanes.{name}] no adapter for {route.provider!r}; there are: {known}"
        raise SettingsError(said)
    return route


def _lane(name: str, route: Route, settings: LaneSettings, key: str) -> Lane:
    base_url = None if settings.base_url is None else httpx.URL(settings.base_url)
    return Lane(
        name=name,
        route=route,
        line=Line(PROVIDERS[route.provider](route, key), base_url),
        limits=Limits(
            slots=settings.slots or route.slots,
            submits_per_minute=settings.submits_per_minute or route.submits_per_minute,
            queues=route.queues,
        ),
        hands_over=settings.stills,
    )
