"""FastVideo: the server in the wheel fastvideo 0.2.1, read 2026-11.

Of a form it takes no `guidance_scale_2`, so a submit is JSON. It never says that it is at
work on a job: it is queued until it is completed. Otherwise as SGLang, which
began as a copy of it.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from tasks.providers import self_hosted
from tasks.providers.openai_videos import Engine, OpenAiVideos
from tasks.providers.refusals import Refusals, refusal

REFUSALS: Final = Refusals(
    provider="fastvideo",
    mark="detail",
    table=(
        self_hosted.AUTH,
        self_hosted.ELSEWHERE,
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
    """JSON; jobs in memory; it has no way to say a shift."""

    name: ClassVar = "fastvideo"
    engine: ClassVar = Engine(
        refusals=REFUSALS,
        failures=FAILURES,
        echoed="model",
        shifts=False,
        as_json=True,
    )
