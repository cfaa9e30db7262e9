"""SGLang Diffusion: the server in the wheel sglang 0.5.23 (multimodal_gen), read 2026-11.

Without `num_frames` it makes 96 frames at 24 a second. A job is forgotten when it
restarts. Its field `model` decides nothing, and its listing repeats it: so that is where
our own name for a submit goes.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from tasks.providers import self_hosted
from tasks.providers.openai_videos import Engine, OpenAiVideos
from tasks.providers.refusals import Refusals, refusal

REFUSALS: Final = Refusals(
    provider="sglang",
    mark="detail",
    table=(
        self_hosted.AUTH,
        self_hosted.ELSEWHERE,
        refusal("invalid", 400, 413, 422),
        self_hosted.THROTTLED,
        # Its /health says so while it warms up, and when a worker of its has died.
        refusal("away", 503),
    ),
)
FAILURES: Final = self_hosted.engine_failures(
    "sglang 0.5.23, video_api.py, read 2026-11"
)


@dataclass(frozen=True, slots=True)
class SGLang(OpenAiVideos):
    """A form; jobs in memory."""

    name: ClassVar = "sglang"
    engine: ClassVar = Engine(refusals=REFUSALS, failures=FAILURES, echoed="model")
