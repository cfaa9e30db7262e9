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
from tasks.providers.refusals import Refusals, Sign

MISMATCH: Final = re.compile("Model mismatch", re.IGNORECASE)
REFUSALS: Final = Refusals(
    provider="vllm-omni",
    mark="error",
    uploads="",
    signs=(
        Sign(
            word="auth",
            codes=frozenset({401}),
            fix="the key has to be what the server was started with (--api-key)",
        ),
        self_hosted.ELSEWHERE,
        Sign(
            word="permission",
            codes=frozenset({400}),
            says=MISMATCH,
            fix="the route's endpoints have to name the model as it is served",
        ),
        Sign(word="invalid", codes=frozenset({400, 413, 422})),
        self_hosted.THROTTLED,
        Sign(word="away", codes=frozenset({500}), says=self_hosted.DEAD, submits=True),
        Sign(word="away", codes=frozenset({503})),
    ),
)
FAILURES: Final = self_hosted.failures("vllm-omni 0.30.0, api_server.py, read 2026-11")


@dataclass(frozen=True, slots=True)
class VllmOmni(OpenAiVideos):
    """A form, and nothing but a form; jobs in memory."""

    engine: ClassVar[Engine] = Engine(
        name="vllm-omni", refusals=REFUSALS, failures=FAILURES, serves=True
    )
