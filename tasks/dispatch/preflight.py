"""Checks every lane with its provider before any money moves.

A finding is *wrong* if it would make the lane fail, or cost more than the catalogue says. A
*note* is a setting that the owner may want to write in nightreel.toml. Nothing here costs
money.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal

from manifests.catalogue import Route
from tasks.dispatch.lane import Lane
from tasks.providers.errors import MisconfiguredError, ProviderError
from tasks.providers.http import Clients, ask, retrying
from tasks.providers.protocol import AccountReport, UnreadableError

LONGEST_S: Final = 60.0
"""The longest check of one lane: some providers ask us to come back in an hour."""

Key = Literal["good", "bad", "none", "unknown"]
Priced = Mapping[tuple[str, int], Decimal]


class CheckupError(ValueError):
    """Some lane fails its check; the text lists everything that is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of checking one lane; each of its lines names the lane."""

    lane: str
    route: Route
    key: Key
    report: AccountReport = field(default_factory=AccountReport)
    wrong: tuple[str, ...] = ()
    """Facts that would make the lane fail, or cost more than the catalogue says."""
    notes: tuple[str, ...] = ()

    @property
    def credit_usd(self) -> Decimal | None:
        return self.report.credit_usd


async def checked(
    lanes: Sequence[Lane], clients: Clients, *, longest_s: float = LONGEST_S
) -> list[Finding]:
    """Check all lanes with their providers at the same time."""
    asking = (_checked(lane, clients, longest_s) for lane in lanes)
    return [*await asyncio.gather(*asking)]


async def refuse_wrong(lanes: Sequence[Lane], clients: Clients) -> None:
    """Check all lanes; return only if nothing is wrong.

    Raises:
        CheckupError: something is wrong.
    """
    found = await checked(lanes, clients)
    if wrong := [line for finding in found for line in finding.wrong]:
        raise CheckupError("\n".join(wrong))


def found(lane: Lane, report: AccountReport) -> Finding:
    """The finding for an answer of the provider, which accepted our key, if there is one."""
    return Finding(
        lane=lane.name,
        route=lane.route,
        # An own GPU may need no key.
        key="good" if lane.endpoint.provider.key else "none",
        report=report,
        wrong=tuple(_wrong(lane, report)),
        notes=tuple(_notes(lane, report)),
    )


def dearer(route: Route, report: AccountReport) -> Priced:
    """The clips that cost more than the catalogue says, with the provider's prices."""
    return {
        clip: price_usd
        for clip, price_usd in report.prices_usd.items()
        if price_usd > route.prices_usd.get(clip, price_usd)
    }


def cheaper(route: Route, report: AccountReport) -> Priced:
    """The clips that cost less than the catalogue says, with the provider's prices."""
    return {
        clip: price_usd
        for clip, price_usd in report.prices_usd.items()
        if price_usd < route.prices_usd.get(clip, price_usd)
    }


def usd(price: Decimal) -> str:
    """Format a price: two decimals, or more if it has fractions of a cent."""
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


def _wrong(lane: Lane, report: AccountReport) -> Iterator[str]:
    route, where = lane.route, f"lane {lane.name}: {lane.route.provider}"
    if report.has_model is False:
        ids = " or ".join(sorted(set(route.endpoints.values())))
        yield f"{where} no longer has what {route.name} asks for, {ids}"
    least = min(route.prices_usd.values())
    if report.credit_usd is not None and report.credit_usd < least:
        left = f"{usd(report.credit_usd)} USD of credit left"
        yield f"{where} has {left}, and the cheapest clip of {route.name} is {usd(least)}"
    if more := dearer(route, report):
        yield f"{where} is dearer than the catalogue says: {_priced(route, more)}"


def _notes(lane: Lane, report: AccountReport) -> Iterator[str]:
    if less := cheaper(lane.route, report):
        where = f"lane {lane.name}: {lane.route.provider}"
        yield f"{where} is cheaper than the catalogue says: {_priced(lane.route, less)}"
    for fact in ("slots", "submits_per_minute", "submits_per_day"):
        ours: int | None = getattr(lane.limits, fact)
        allowed: int | None = getattr(report, fact)
        if allowed is not None and ours != allowed:
            yield (
                f"lane {lane.name}: {fact} is {ours or 'not limited'}, the account has "
                f"{allowed}: write {fact} = {allowed} under [lanes.{lane.name}]"
            )


def _priced(route: Route, prices: Priced) -> str:
    """The provider's prices beside ours, and the setting that corrects ours."""
    clips = ", ".join(
        f"{resolution} {seconds} s {usd(price_usd)}, "
        f"not {usd(route.prices_usd[resolution, seconds])}"
        for (resolution, seconds), price_usd in prices.items()
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
