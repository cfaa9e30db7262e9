"""How long providers keep a clip: from when on it may be lost, and from when on it surely is.

A route says how long its provider keeps what it has made. Where nobody knows, a clip is
fetched as though it were kept for as short a time as any provider's, and is given up as
though it were kept for as long as any provider's.
"""

from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from manifests.catalogue.routes import Route
from manifests.lifecycle import Discarded, State

AT_PROVIDERS: Final = frozenset({State.ACCEPTED, State.GENERATED})
"""States in which a clip is paid for and not yet published."""

LEAST_S: Final = 3600
"""The time assumed for an unknown provider, to fetch a clip in time: Replicate's hour."""

MOST_S: Final = 30 * 24 * 3600
"""The time assumed for an unknown provider, to give a clip up: Kling's month."""

LONGEST_RUN_S: Final = 24 * 3600
"""How long after it was accepted a job may yet have been at work, where its end was seen
late or not at all."""

EXPIRED: Final = "expired at "
"""How the reason of what is lost begins."""


class Bought(Protocol):
    """A history, or an attempt: where its clip was bought, and since when it exists."""

    @property
    def state(self) -> State: ...
    @property
    def route(self) -> str | None: ...
    @property
    def accepted_at(self) -> float | None: ...
    @property
    def generated_at(self) -> float | None: ...


def expires_at(bought: Bought, route: Route | None) -> float | None:
    """When its clip may be lost at the earliest, in Unix seconds; None if it has none at
    a provider. Without a route nobody knows how long it is kept."""
    if bought.state not in AT_PROVIDERS:
        return None
    ended_at = bought.generated_at or bought.accepted_at or 0.0
    return ended_at + _kept_s(route, LEAST_S)


def is_over(bought: Bought, route: Route | None, now: float) -> bool:
    """Whether no provider owes us its clip any more: what is not there now never will be."""
    latest = (bought.accepted_at or 0.0) + LONGEST_RUN_S
    ended_at = min(bought.generated_at or latest, latest)
    return now > ended_at + _kept_s(route, MOST_S)


def by_expiry(
    lives: Mapping[str, Bought], routes: Mapping[str, Route]
) -> list[tuple[float, str]]:
    """When the clip of each of these lives that is at a provider may be lost, the
    earliest first; `routes` by their names."""
    found = (
        (expires_at(bought, routes.get(bought.route or "")), life)
        for life, bought in lives.items()
    )
    return sorted((at, life) for at, life in found if at is not None)


def in_use(
    shipped: Mapping[str, Route], routes: Iterable[Route]
) -> Mapping[str, Route]:
    """Every route by its name: those in use as their owner has them."""
    return {**shipped, **{route.name: route for route in routes}}


def expired(provider: str, why: str) -> Discarded:
    """The event of a clip that its provider has deleted."""
    return Discarded(f"{EXPIRED}{provider}: {why}, it was paid for and is lost")


def _kept_s(route: Route | None, unknown_s: int) -> int:
    known_s = None if route is None else route.keeps_s
    return unknown_s if known_s is None else known_s
