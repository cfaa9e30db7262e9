"""Who can animate a still. To add one: write its module, name it here."""

from tasks.providers.ai302 import Ai302
from tasks.providers.atlas import Atlas
from tasks.providers.comfyui import ComfyUi
from tasks.providers.fal import Fal
from tasks.providers.fastvideo import FastVideo
from tasks.providers.kling import Kling
from tasks.providers.lightx2v import LightX2V
from tasks.providers.nightreel_worker import Nightreel
from tasks.providers.protocol import Provider
from tasks.providers.replicate import Replicate
from tasks.providers.runway import Runway
from tasks.providers.sglang import SGLang
from tasks.providers.vllm_omni import VllmOmni
from tasks.providers.wavespeed import WaveSpeed

PROVIDERS: dict[str, type[Provider]] = {
    "302ai": Ai302,
    "atlas": Atlas,
    "comfyui": ComfyUi,
    "fal": Fal,
    "fastvideo": FastVideo,
    "kling": Kling,
    "lightx2v": LightX2V,
    "nightreel": Nightreel,
    "replicate": Replicate,
    "runway": Runway,
    "sglang": SGLang,
    "vllm-omni": VllmOmni,
    "wavespeed": WaveSpeed,
}
"""By the first part of a route's name."""

OWN_GPUS: frozenset[str] = frozenset(
    {"comfyui", "fastvideo", "lightx2v", "nightreel", "sglang", "vllm-omni"}
)
"""Those of them that are engines on GPUs of one's own, wherever these are."""

__all__ = ["OWN_GPUS", "PROVIDERS", "Provider"]
