"""Expiry: the times from which a provider may have deleted a clip, and surely has.

A route states how long its provider keeps a finished clip. If the time is unknown,
Nightreel fetches the clip as early as for the shortest time of any provider, and gives
it up as late as for the longest.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from manifests.catalogue import Route
from manifests.lifecycle import Discarded, State

AT_PROVIDERS: Final = frozenset({State.ACCEPTED, State.GENERATED})
"""States in which a clip is paid for and not yet published."""

LEAST_S: Final = 3600
"""The time assumed for an unknown provider, to fetch a clip in time: Replicate's hour."""

MOST_S: Final = 30 * 24 * 3600
"""The time assumed for an unknown provider, to give a clip up: Kling's month."""

LONGEST_RUN_S: Final = 24 * 3600
"""The longest run assumed for a job after its acceptance, if its end was seen late or
not at all."""

EXPIRED: Final = "expired at "
"""The beginning of the reason for a lost clip."""


class Bought(Protocol):
    """A history or an attempt: the route of its clip, and the time it was made."""

    @property
    def state(self) -> State: ...
    @property
    def route(self) -> str | None: ...
    @property
    def accepted_at(self) -> float | None: ...
    @property
    def generated_at(self) -> float | None: ...


def expires_at(bought: Bought, route: Route | None) -> float | None:
    """The earliest time at which its clip may be lost, in Unix seconds.

    None if no clip is at a provider. Without a route, the keeping time is unknown.
    """
    if bought.state not in AT_PROVIDERS:
        return None
    ended_at = bought.generated_at or bought.accepted_at or 0.0
    return ended_at + _kept_s(route, LEAST_S)


def is_over(bought: Bought, route: Route | None, now: float) -> bool:
    """Whether its clip is given up: if the provider does not have it now, it never will."""
    latest = (bought.accepted_at or 0.0) + LONGEST_RUN_S
    ended_at = min(bought.generated_at or latest, latest)
    return now > ended_at + _kept_s(route, MOST_S)


def by_expiry(
    lives: Mapping[str, Bought], routes: Mapping[str, Route]
) -> list[tuple[float, str]]:
    """The expiry time and the life of each clip at a provider, the earliest first.

    `routes` are by their names.
    """
    found = (
        (expires_at(bought, routes.get(bought.route or "")), life)
        for life, bought in lives.items()
    )
    return sorted((at, life) for at, life in found if at is not None)


def in_use(
    shipped: Mapping[str, Route], routes: Iterable[Route]
) -> Mapping[str, Route]:
    """Every route by its name; the routes in use replace the shipped ones."""
    return {**shipped, **{route.name: route for route in routes}}


def expired(provider: str, why: str) -> Discarded:
    """The event for a clip that its provider has deleted."""
    return Discarded(f"{EXPIRED}{provider}: {why}, it was paid for and is lost")


def _kept_s(route: Route | None, unknown_s: int) -> int:
    known_s = None if route is None else route.keeps_s
    return unknown_s if known_s is None else known_s
