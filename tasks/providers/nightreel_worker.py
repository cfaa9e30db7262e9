"""Nightreel's own worker, `nightreel worker`: docs/reference/gpu-worker.md.

It takes our name for a job as the job's id, twice if need be, and keeps what it has over
its own restart.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from tasks.providers import self_hosted
from tasks.providers.openai_videos import Engine, OpenAiVideos
from tasks.providers.refusals import Failure, Refusals, refusal

QUEUE_FULL: Final = re.compile("queue_full")
NOT_NOW: Final = re.compile("draining|warming_up|dead")
NOT_MADE: Final = re.compile(
    '"size |"num_frames |"fps |"num_inference_steps |"guidance_scale|"model '
)
SAYS: Final = "docs/reference/gpu-worker.md: the worker's own codes"
REFUSALS: Final = Refusals(
    provider="nightreel",
    mark="error",
    table=(
        refusal("auth", 401, fix="the key has to be the worker's NIGHTREEL_WORKER_KEY"),
        self_hosted.ELSEWHERE,
        # What a route asks of a model that cannot make it is no row's fault.
        refusal(
            "permission",
            422,
            says=NOT_MADE,
            submits=True,
            fix="the route asks for what the worker's model does not make",
        ),
        refusal("invalid", 413, 422),
        # It has the name already, for another request: of a root that is gone, say. The
        # next attempt has another name.
        refusal("away", 409, submits=True),
        refusal("concurrency", 503, says=QUEUE_FULL),
        refusal("away", 503, says=NOT_NOW),
        self_hosted.THROTTLED,
    ),
)
FAILURES: Final = (
    Failure(
        kind="invalid",
        told="`failed` with `invalid_image`",
        when=lambda task: _code(task) == "invalid_image",
        charged=False,
        source=SAYS,
    ),
    Failure(
        kind="server",
        told="`failed` with `nan_output` or `black_output`",
        when=lambda task: _code(task) in {"nan_output", "black_output"},
        charged=True,  # made, and no good: the next seed may be better
        source=self_hosted.OURS,
    ),
    Failure(
        kind="server",
        told="`failed` with `out_of_memory`, `step_hung`, `worker_error`",
        when=lambda task: task.get("status") == "failed",
        charged=False,
        source=SAYS,
    ),
    Failure(
        kind="stopped",
        told="`cancelled`",
        when=lambda _: True,
        charged=False,
        source=SAYS,
    ),
)


@dataclass(frozen=True, slots=True)
class Nightreel(OpenAiVideos):
    """Same name, same body: the same job, begun once."""

    name: ClassVar = "nightreel"
    engine: ClassVar = Engine(
        refusals=REFUSALS,
        failures=FAILURES,
        named="id",
        shifts=False,
    )


def _code(task: Mapping[str, Any]) -> object:
    match task.get("error"):
        case {"code": code}:
            return code
        case _:
            return None
