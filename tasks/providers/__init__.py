"""Who can animate a still. To add one: write its module, name it here."""

from tasks.providers.atlas import Atlas
from tasks.providers.base import Provider
from tasks.providers.fal import Fal
from tasks.providers.wavespeed import WaveSpeed

PROVIDERS: dict[str, type[Provider]] = {
    "atlas": Atlas,
    "fal": Fal,
    "wavespeed": WaveSpeed,
}
"""By the first part of a route's name."""

__all__ = ["PROVIDERS", "Provider"]
