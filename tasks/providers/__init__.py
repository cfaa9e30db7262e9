"""Who can animate a still. To add one: write its module, name it here."""

from tasks.providers.ai302 import Ai302
from tasks.providers.atlas import Atlas
from tasks.providers.base import Provider
from tasks.providers.fal import Fal
from tasks.providers.kling import Kling
from tasks.providers.replicate import Replicate
from tasks.providers.runway import Runway
from tasks.providers.wavespeed import WaveSpeed

PROVIDERS: dict[str, type[Provider]] = {
    "302ai": Ai302,
    "atlas": Atlas,
    "fal": Fal,
    "kling": Kling,
    "replicate": Replicate,
    "runway": Runway,
    "wavespeed": WaveSpeed,
}
"""By the first part of a route's name."""

__all__ = ["PROVIDERS", "Provider"]
