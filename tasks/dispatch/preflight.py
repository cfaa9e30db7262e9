"""The check-up: every lane asked, before money moves, whether it would do as we expect.

What would make a lane fail, or cost more than the catalogue says, is wrong; what its owner
may want to write in nightreel.toml is a note. Nothing here costs anything.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal

from manifests.catalogue.routes import Route
from tasks.dispatch.lanes import Lane
from tasks.providers.errors import MisconfiguredError, ProviderError
from tasks.providers.http import Clients, ask, retrying
from tasks.providers.protocol import AccountReport, UnreadableError

LONGEST_S: Final = 60.0
"""For a lane's whole check-up: some ask us to come back in an hour."""

Key = Literal["good", "bad", "none", "unknown"]
Priced = Mapping[tuple[str, int], Decimal]


class CheckupError(ValueError):
    """Some lane would not do as we expect: the text lists all that is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of asking one lane; each line of it names the lane."""

    lane: str
    route: Route
    key: Key
    said: AccountReport = field(default_factory=AccountReport)
    wrong: tuple[str, ...] = ()
    """What would make it fail, or cost more than the catalogue says."""
    notes: tuple[str, ...] = ()

    @property
    def credit_usd(self) -> Decimal | None:
        return self.said.credit_usd


async def checked(
    lanes: Sequence[Lane], clients: Clients, *, longest_s: float = LONGEST_S
) -> list[Finding]:
    """What each lane's provider says of it, all of them asked at once."""
    asking = (_checked(lane, clients, longest_s) for lane in lanes)
    return [*await asyncio.gather(*asking)]


async def refuse_wrong(lanes: Sequence[Lane], clients: Clients) -> None:
    """Go on only if nothing is wrong.

    Raises:
        CheckupError: something is.
    """
    found = await checked(lanes, clients)
    if wrong := [line for finding in found for line in finding.wrong]:
        raise CheckupError("\n".join(wrong))


def found(lane: Lane, said: AccountReport) -> Finding:
    """What is to be made of a provider's answer, which our key was good for, if any."""
    return Finding(
        lane=lane.name,
        route=lane.route,
        # A GPU of one's own may ask for none.
        key="good" if lane.endpoint.provider.key else "none",
        said=said,
        wrong=tuple(_wrong(lane, said)),
        notes=tuple(_notes(lane, said)),
    )


def dearer(route: Route, said: AccountReport) -> Priced:
    """The clips that cost more than the catalogue says, and what they cost."""
    return {
        clip: theirs
        for clip, theirs in said.prices_usd.items()
        if theirs > route.prices_usd.get(clip, theirs)
    }


def cheaper(route: Route, said: AccountReport) -> Priced:
    """The clips that cost less than the catalogue says, and what they cost."""
    return {
        clip: theirs
        for clip, theirs in said.prices_usd.items()
        if theirs < route.prices_usd.get(clip, theirs)
    }


def usd(price: Decimal) -> str:
    """A price as people read it: cents, and what is less than a cent where there is any."""
    cents = f"{price:.2f}"
    return cents if Decimal(cents) == price else f"{price.normalize():f}"


async def _checked(lane: Lane, clients: Clients, longest_s: float) -> Finding:
    try:
        async with asyncio.timeout(longest_s):
            return found(lane, await _asked(lane, clients))
    except MisconfiguredError as exc:
        return _refused(lane, exc)
    except TimeoutError:
        return _unknown(lane, f"no answer that counts within {longest_s:g} s")
    except (ProviderError, UnreadableError) as exc:
        return _unknown(lane, str(exc))


async def _asked(lane: Lane, clients: Clients) -> AccountReport:
    async for attempt in retrying(3):
        with attempt:
            return await ask(clients, lane.endpoint, lane.endpoint.provider.check())
    raise AssertionError  # pragma: no cover - retrying() reraises


def _refused(lane: Lane, exc: MisconfiguredError) -> Finding:
    key: Key = "unknown"
    match exc.lacks:
        case "auth":
            key, what = "bad", "the key is refused: "
        case "credit":
            key, what = "good", "no credit is left: "
        case "permission":
            what = "the account may not: "
        case None:
            what = ""
    line = f"lane {lane.name}: {what}{exc}"
    return Finding(lane=lane.name, route=lane.route, key=key, wrong=(line,))


def _unknown(lane: Lane, why: str) -> Finding:
    line = f"lane {lane.name}: {lane.route.provider} could not be asked: {why}"
    return Finding(lane=lane.name, route=lane.route, key="unknown", wrong=(line,))


def _wrong(lane: Lane, said: AccountReport) -> Iterator[str]:
    route, where = lane.route, f"lane {lane.name}: {lane.route.provider}"
    if said.has_model is False:
        ids = " or ".join(sorted(set(route.endpoints.values())))
        yield f"{where} no longer has what {route.name} asks for, {ids}"
    least = min(route.prices_usd.values())
    if said.credit_usd is not None and said.credit_usd < least:
        left = f"{usd(said.credit_usd)} USD of credit left"
        yield f"{where} has {left}, and the cheapest clip of {route.name} is {usd(least)}"
    if more := dearer(route, said):
        yield f"{where} is dearer than the catalogue says: {_priced(route, more)}"


def _notes(lane: Lane, said: AccountReport) -> Iterator[str]:
    if less := cheaper(lane.route, said):
        where = f"lane {lane.name}: {lane.route.provider}"
        yield f"{where} is cheaper than the catalogue says: {_priced(lane.route, less)}"
    for fact in ("slots", "submits_per_minute", "submits_per_day"):
        ours: int | None = getattr(lane.limits, fact)
        theirs: int | None = getattr(said, fact)
        if theirs is not None and ours != theirs:
            yield (
                f"lane {lane.name}: {fact} is {ours or 'not limited'}, the account has "
                f"{theirs}: write {fact} = {theirs} under [lanes.{lane.name}]"
            )


def _priced(route: Route, prices: Priced) -> str:
    """Theirs and ours, and how to make ours theirs."""
    clips = ", ".join(
        f"{resolution} {seconds} s {usd(theirs)}, "
        f"not {usd(route.prices_usd[resolution, seconds])}"
        for (resolution, seconds), theirs in prices.items()
    )
    lines = " and ".join(
        f"{resolution} = {{ {_lengths(prices, resolution)} }}"
        for resolution in dict.fromkeys(made for made, _ in prices)
    )
    return f'{clips}: write {lines} under [routes."{route.name}".prices_usd]'


def _lengths(prices: Priced, resolution: str) -> str:
    return ", ".join(
        f'{seconds} = "{usd(price)}"'
        for (made, seconds), price in prices.items()
        if made == resolution
    )
