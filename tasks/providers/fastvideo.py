"""FastVideo: the server in the wheel fastvideo 0.2.1, read 2026-11.

A submit is JSON, because a form cannot carry `guidance_scale_2`. A job is `queued` until it
is `completed`. SGLang began as a copy of this server, and the rest is the same.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from tasks.providers import self_hosted
from tasks.providers.openai_videos import OpenAiVideos
from tasks.providers.refusals import Refusals, refusal

REFUSALS: Final = Refusals(
    provider="fastvideo",
    mark="detail",
    self_hosted=True,
    table=(
        self_hosted.AUTH,
        self_hosted.WRONG_ADDRESS,
        refusal("invalid", 400, 413, 422),
        self_hosted.THROTTLED,
        refusal("away", 503),
    ),
)
FAILURES: Final = self_hosted.engine_failures(
    "fastvideo 0.2.1, video_api.py, read 2026-11"
)


@dataclass(frozen=True, slots=True)
class FastVideo(OpenAiVideos):
    """Takes JSON; it has no field for the shift."""

    name: ClassVar = "fastvideo"
    refusals: ClassVar = REFUSALS
    failures: ClassVar = FAILURES
    echoed_field: ClassVar = "model"
    takes_shift: ClassVar = False
    as_json: ClassVar = True
