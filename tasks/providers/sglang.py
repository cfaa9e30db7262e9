"""SGLang Diffusion: the server in the wheel sglang 0.5.23 (multimodal_gen), read 2026-11.

Without `num_frames` it makes 96 frames at 24 a second. It keeps jobs in memory and forgets
them when it restarts. The field `model` decides nothing and the listing repeats it, so it
carries our reference.
"""

from dataclasses import dataclass
from typing import ClassVar, Final

from tasks.providers import self_hosted
from tasks.providers.openai_videos import OpenAiVideos
from tasks.providers.refusals import Refusals, refusal

REFUSALS: Final = Refusals(
    provider="sglang",
    mark="detail",
    self_hosted=True,
    table=(
        self_hosted.AUTH,
        self_hosted.WRONG_ADDRESS,
        refusal("invalid", 400, 413, 422),
        self_hosted.THROTTLED,
        # /health answers 503 during the warm-up, and after one of its workers has died.
        refusal("away", 503),
    ),
)
FAILURES: Final = self_hosted.engine_failures(
    "sglang 0.5.23, video_api.py, read 2026-11"
)


@dataclass(frozen=True, slots=True)
class SGLang(OpenAiVideos):
    """Takes a form."""

    name: ClassVar = "sglang"
    refusals: ClassVar = REFUSALS
    failures: ClassVar = FAILURES
    echoed_field: ClassVar = "model"
