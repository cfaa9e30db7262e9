"""Lanes from settings: a route of the catalogue, a key, and limits."""

from collections.abc import Mapping
from pathlib import Path

import httpx

from flows.config.emulated import is_private
from flows.config.settings import LaneSettings, Settings, SettingsError, resolve_key
from manifests.catalogue import Catalogue, CatalogueError, Route, load
from manifests.uris import SHORTEST_SECRET
from storage.source_policy import TRUSTING, SourcePolicy, policy
from storage.sources import USER_AGENT
from tasks.dispatch import Lane, Limits, RateLimiter
from tasks.engine.engine import Rules
from tasks.providers import OWN_GPUS, PROVIDERS
from tasks.providers.http import Endpoint


async def opened(settings: Settings) -> list[Lane]:
    """Every lane, with its key.

    Raises:
        SettingsError: a route or a key is not there.
    """
    keys = {name: await key_of(name, lane) for name, lane in settings.lanes.items()}
    return _lanes(settings, keys)


async def key_of(name: str, lane: LaneSettings) -> str:
    """A lane's key; "" if it has none.

    Raises:
        SettingsError: it is not there, or too short to be kept out of logs.
    """
    if not lane.key:
        return ""
    key = await resolve_key(lane.key, lane=name)
    if len(key) < SHORTEST_SECRET and lane.paid and not is_private(lane.base_url):
        raise SettingsError(
            f"lane {name!r}: {lane.key} holds {len(key)} characters, and a provider's key "
            f"has {SHORTEST_SECRET} or more: set it to the whole key"
        )
    return key


def keyless(settings: Settings) -> list[Lane]:
    """The same lanes without keys, for planning: nothing can be sent on them."""
    return _lanes(settings, dict.fromkeys(settings.lanes, ""))


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


def sources(
    settings: Settings, *, trust: bool = False, folder: str | None = None
) -> SourcePolicy:
    """The places that a manifest may name; `folder` is one more on this machine."""
    if trust or settings.manifest.trust:
        return TRUSTING
    folders = [] if folder is None else [Path(folder)]
    return policy(settings.manifest.allow, *folders)


def rules(settings: Settings, may_name: SourcePolicy | None = None) -> Rules:
    """The engine's rules, from the settings; `may_name` are a run's own sources."""
    return Rules(
        sources=may_name or sources(settings),
        attempts=settings.engine.attempts,
        deadline_s=settings.engine.deadline_s,
        downloads=settings.engine.downloads,
        decodes=settings.engine.decode,
        convert_stills=settings.manifest.convert_stills,
        max_failure_rate=settings.engine.max_failure_rate,
        settle_s=settings.engine.settle_s,
        grace_s=settings.engine.grace_s,
    )


def _route(catalogue: Catalogue, name: str, lane: LaneSettings) -> Route:
    try:
        route = catalogue.route(lane.route)
    except CatalogueError as exc:
        raise SettingsError(f"[lanes.{name}] {exc}") from exc
    if route.provider not in PROVIDERS:
        known = ", ".join(PROVIDERS)
        problem = (
            f"[lanes.{name}] no adapter for {route.provider!r}; there are: {known}"
        )
        raise SettingsError(problem)
    if route.retired:
        kept = f"clips accepted on it are fetched by any lane at {route.provider}"
        raise SettingsError(f"[lanes.{name}] {route.name} is {route.retired}; {kept}")
    if wrong := _misplaced(route, lane):
        raise SettingsError(f"[lanes.{name}] {wrong}")
    return route


def _misplaced(route: Route, lane: LaneSettings) -> str:
    """Why a lane does not fit its route (own GPU or paid provider); empty if it fits."""
    if route.provider not in OWN_GPUS:
        problem = f"paid = false is for GPUs of your own: {route.provider} sends a bill"
        return "" if lane.paid else problem
    if lane.base_url is None:
        problem = f"{route.provider} runs where you started it: say where with"
        return f'{problem} base_url = "http://HOST:PORT"'
    if lane.stills not in {None, "upload"}:
        return f'stills = "{lane.stills}": {route.provider} is sent the still itself'
    return ""


def _lanes(settings: Settings, keys: Mapping[str, str]) -> list[Lane]:
    routes, limiters = chosen(settings), dict[str, RateLimiter]()
    lanes: list[Lane] = []
    for name, asked in settings.lanes.items():
        route = routes[name]
        account = _account(name, route, asked)
        hook = settings.listen.hook(route.provider)
        base_url = None if asked.base_url is None else httpx.URL(asked.base_url)
        lane = Lane(
            name=name,
            route=route,
            endpoint=Endpoint(
                PROVIDERS[route.provider](route, keys[name], hook),
                base_url,
                asked.user_agent or USER_AGENT,
            ),
            limits=_limits(route, asked),
            hands_over="upload" if route.provider in OWN_GPUS else asked.stills,
            account=account,
            risk_usd=asked.risk_usd,
            usd_per_day=asked.usd_per_day,
            on_dearer=asked.on_dearer,
            paid=asked.paid,
            shared=limiters.get(account),
        )
        limiters.setdefault(account, lane.limiter)
        lanes.append(lane)
    return lanes


def _limits(route: Route, asked: LaneSettings) -> Limits:
    return Limits(
        slots=asked.slots or route.slots,
        submits_per_minute=asked.submits_per_minute or route.submits_per_minute,
        queues=route.queues,
        submits_per_day=asked.submits_per_day or route.submits_per_day,
    )


def _account(name: str, route: Route, asked: LaneSettings) -> str:
    """The account that the limits belong to, named by the place of its key."""
    parts = [route.provider, asked.key, asked.base_url or ""]
    # A lane that sets its own limits does not share them with other lanes.
    own = asked.slots is not None or asked.submits_per_minute is not None
    if own:
        parts.append(name)
    elif route.limits_per == "model":
        parts.append(route.model)
    return " ".join(filter(None, parts))
