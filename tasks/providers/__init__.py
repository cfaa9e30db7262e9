"""The provider adapters, and the registry that finds one by the name of a route.

Adapters are generators
    An adapter yields `httpx.Request`s, receives `httpx.Response`s and returns a result. It
    has no client, loop, clock, retry or sleep. `http` sends its requests: submits over one
    kind of client, free requests over another. A test plays recorded answers into the
    generator, so it needs no network and no mock.

One request costs money
    `submit` yields exactly one request, and nobody repeats it. `upload`, `poll`, `check`,
    `find` and `charge` are free and may be repeated.

Judging an answer
    `judge` turns an answer into an error of `errors`, or None if the answer is good. A
    submit counts as refused only if the answer is the provider's own (it has the field
    `Refusals.mark`) and a row of the adapter's table `REFUSALS` fits its code. An answer
    with a task's id counts as accepted, whatever its HTTP status. Everything else is in
    doubt: the job is never submitted again until somebody has settled the doubt.

Failures of accepted jobs
    The table `FAILURES` gives each way in which a job fails, whether it was charged, and the
    document that says so. Without such a document the job counts as charged.

Unknown answers
    An answer that the adapter does not understand raises `UnreadableError` with its body,
    without keys and signatures. It ends no job: the poll is repeated.

Families
    `predictions` has the exchange steps of the paid prediction APIs, `openai_videos` the
    `/v1/videos` of engines, and `self_hosted` the parts common to engines on your own GPUs.
    `answers`, `parsing`, `submissions`, `listings`, `refusals` and `stills` serve all.

To add a provider, write its module with an adapter, `REFUSALS` and `FAILURES`, and add the
adapter to `PROVIDERS`; record its answers in `tests/providers/payloads/` and write its
dialect for the emulator.
"""

from tasks.providers.ai302 import Ai302
from tasks.providers.atlas import Atlas
from tasks.providers.comfyui import ComfyUi
from tasks.providers.fal import Fal
from tasks.providers.fastvideo import FastVideo
from tasks.providers.kling import Kling
from tasks.providers.lightx2v import LightX2V
from tasks.providers.nightreel_worker import Nightreel
from tasks.providers.protocol import (
    Absent,
    AccountReport,
    Billed,
    ClipHost,
    Doubt,
    Exchange,
    Findable,
    Finished,
    Gone,
    Progress,
    Provider,
    UnreadableError,
)
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
"""Adapters by the first part of a route's name."""

OWN_GPUS: frozenset[str] = frozenset(
    {"comfyui", "fastvideo", "lightx2v", "nightreel", "sglang", "vllm-omni"}
)
"""The providers that are engines on your own GPUs, here or elsewhere."""

__all__ = [
    "OWN_GPUS",
    "PROVIDERS",
    "Absent",
    "AccountReport",
    "Billed",
    "ClipHost",
    "Doubt",
    "Exchange",
    "Findable",
    "Finished",
    "Gone",
    "Progress",
    "Provider",
    "UnreadableError",
]
