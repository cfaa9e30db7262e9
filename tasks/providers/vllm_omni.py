"""vLLM-Omni: the server in the wheel vllm-omni 0.30.0, read 2026-11.

The answer to a poll of a failed job has HTTP 500 or the refusal's own status, and the job
in its body. The listing repeats prompt and size: it can prove that a submit was not
accepted, but cannot tell two submits with the same prompt apart.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Final

from tasks.providers import self_hosted
from tasks.providers.openai_videos import OpenAiVideos
from tasks.providers.refusals import Refusals, refusal

CHECK_KEY: Final = "the key must be the server's own (--api-key)"
NAME_MODEL: Final = "name the model in the route's endpoints as the server serves it"
MISMATCH: Final = re.compile("Model mismatch", re.IGNORECASE)
REFUSALS: Final = Refusals(
    provider="vllm-omni",
    mark="error",
    self_hosted=True,
    table=(
        refusal("auth", 401, fix=CHECK_KEY),
        self_hosted.WRONG_ADDRESS,
        refusal("permission", 400, says=MISMATCH, fix=NAME_MODEL),
        refusal("invalid", 400, 413, 422),
        self_hosted.THROTTLED,
        refusal("away", 500, says=self_hosted.DEAD, submit_only=True),
        refusal("away", 503),
    ),
)
FAILURES: Final = self_hosted.engine_failures(
    "vllm-omni 0.30.0, api_server.py, read 2026-11"
)


@dataclass(frozen=True, slots=True)
class VllmOmni(OpenAiVideos):
    """Takes a form; it forgets its jobs when it restarts."""

    name: ClassVar = "vllm-omni"
    refusals: ClassVar = REFUSALS
    failures: ClassVar = FAILURES
    checks_model: ClassVar = True
