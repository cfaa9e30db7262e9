"""vLLM-Omni: the server in the wheel vllm-omni 0.30.0, read 2026-11.

A poll of a job that failed is answered with HTTP 500, or with the refusal's own status,
and has the job in its body. What it lists is told by its prompt and its size, so a submit
whose answer was lost can be ruled out, but not told from another with the same prompt.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Final

from tasks.providers import self_hosted
from tasks.providers.openai_videos import Engine, OpenAiVideos
from tasks.providers.refusals import Refusals, refusal

MISMATCH: Final = re.compile("Model mismatch", re.IGNORECASE)
REFUSALS: Final = Refusals(
    provider="vllm-omni",
    mark="error",
    table=(
        refusal(
            "auth",
            401,
            fix="the key has to be what the server was started with (--api-key)",
        ),
        self_hosted.ELSEWHERE,
        refusal(
            "permission",
            400,
            says=MISMATCH,
            fix="the route's endpoints have to name the model as it is served",
        ),
        refusal("invalid", 400, 413, 422),
        self_hosted.THROTTLED,
        refusal("away", 500, says=self_hosted.DEAD, submits=True),
        refusal("away", 503),
    ),
)
FAILURES: Final = self_hosted.engine_failures(
    "vllm-omni 0.30.0, api_server.py, read 2026-11"
)


@dataclass(frozen=True, slots=True)
class VllmOmni(OpenAiVideos):
    """A form, and nothing but a form; jobs in memory."""

    name: ClassVar = "vllm-omni"
    engine: ClassVar = Engine(refusals=REFUSALS, failures=FAILURES, serves=True)
