"""The price list: what each provider makes, by its own model ids, and what that costs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal

from manifests.catalogue.routes import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What stands behind one of a provider's model ids."""

    endpoint: str
    fps: int
    prices_usd: Mapping[tuple[str, int], Decimal]
    """By (resolution, seconds)."""

    @property
    def resolutions(self) -> frozenset[str]:
        return frozenset(resolution for resolution, _ in self.prices_usd)

    @property
    def durations(self) -> frozenset[int]:
        return frozenset(seconds for _, seconds in self.prices_usd)

    def price(self, resolution: str, seconds: float) -> Decimal:
        """The listed price, or for a length that is not listed its share of the nearest."""
        lengths = [each for of, each in self.prices_usd if of == resolution]
        nearest = min(lengths, key=lambda each: abs(each - seconds))
        listed = self.prices_usd[resolution, nearest]
        if nearest == round(seconds):
            return listed
        return (listed * Decimal(seconds) / nearest).quantize(Decimal("0.0001"))


PriceList = Mapping[str, Mapping[str, Offer]]
"""Offers by provider and the provider's own model id."""


def price_list(routes: Iterable[Route]) -> PriceList:
    """The price list that a catalogue implies."""
    offers: dict[str, dict[str, Offer]] = {}
    for route in routes:
        if route.retired:
            continue
        mine = offers.setdefault(route.provider, {})
        for endpoint in set(route.endpoints.values()):
            prices = {
                (resolution, seconds): price
                for (resolution, seconds), price in route.prices_usd.items()
                if route.endpoints.get(resolution) == endpoint
            }
            mine[endpoint] = Offer(endpoint=endpoint, fps=route.fps, prices_usd=prices)
    return offers
