"""The price list: each provider's models by the provider's own ids, and their prices."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from manifests.catalogue import Route
from tasks.emulator.predictions import ClipSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One of a provider's models."""

    model: str
    """The provider's own id."""
    fps: int
    prices_usd: Mapping[tuple[str, int], Decimal]
    """Prices by (resolution, seconds)."""

    @property
    def resolutions(self) -> frozenset[str]:
        return frozenset(resolution for resolution, _ in self.prices_usd)

    @property
    def durations(self) -> frozenset[int]:
        return frozenset(seconds for _, seconds in self.prices_usd)

    def price(self, resolution: str, seconds: float) -> Decimal:
        """Return the listed price; for another length, a share of the nearest length's."""
        lengths = [each for of, each in self.prices_usd if of == resolution]
        nearest = min(lengths, key=lambda each: abs(each - seconds))
        listed = self.prices_usd[resolution, nearest]
        if nearest == round(seconds):
            return listed
        return (listed * Decimal(seconds) / nearest).quantize(Decimal("0.0001"))

    def by_seconds(self, resolution: str, seconds: int, **more: Any) -> ClipSpec:
        """Return the clip of a submit that names its length in seconds."""
        return ClipSpec(
            model=self.model,
            resolution=resolution,
            duration_s=seconds,
            fps=self.fps,
            frames=self.fps * seconds + 1,
            price_usd=self.price(resolution, seconds),
            **more,
        )


PriceList = Mapping[str, Mapping[str, Offer]]
"""Offers by provider and by the provider's own model id."""


def price_list(routes: Iterable[Route]) -> PriceList:
    """Return the price list of a catalogue's routes."""
    offers: dict[str, dict[str, Offer]] = {}
    for route in routes:
        if route.retired:
            continue
        models = offers.setdefault(route.provider, {})
        for model in set(route.endpoints.values()):
            prices = {
                (resolution, seconds): price
                for (resolution, seconds), price in route.prices_usd.items()
                if route.endpoints.get(resolution) == model
            }
            models[model] = Offer(model=model, fps=route.fps, prices_usd=prices)
    return offers
