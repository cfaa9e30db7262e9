"""Nightreel's own worker, `nightreel worker`: docs/reference/gpu-worker.md.

Our reference becomes the job's id, and the same submit twice is one job. The worker keeps
its jobs when it restarts.
"""

import re
from dataclasses import dataclass
from typing import ClassVar, Final

from tasks.providers import self_hosted
from tasks.providers.job_failures import Condition, always, failures, has
from tasks.providers.openai_videos import OpenAiVideos
from tasks.providers.parsing import value_at
from tasks.providers.refusals import Refusals, refusal

QUEUE_FULL: Final = re.compile("queue_full")
NOT_NOW: Final = re.compile("draining|warming_up|dead")
NOT_MADE: Final = re.compile(
    '"size |"num_frames |"fps |"num_inference_steps |"guidance_scale|"model '
)
WRONG_ROUTE: Final = "the route asks for clips that the worker's model does not make"
SAYS: Final = "docs/reference/gpu-worker.md: the worker's own codes"
REFUSALS: Final = Refusals(
    provider="nightreel",
    mark="error",
    self_hosted=True,
    table=(
        refusal("auth", 401, fix="set the key to the worker's NIGHTREEL_WORKER_KEY"),
        self_hosted.WRONG_ADDRESS,
        # It is the route's fault, not the row's, if the model cannot make such clips.
        refusal("permission", 422, says=NOT_MADE, submit_only=True, fix=WRONG_ROUTE),
        refusal("invalid", 413, 422),
        # Another request has the same id, perhaps from a deleted root. The next attempt
        # has another id.
        refusal("away", 409, submit_only=True),
        refusal("concurrency", 503, says=QUEUE_FULL),
        refusal("away", 503, says=NOT_NOW),
        self_hosted.THROTTLED,
    ),
)


def _has_code(*codes: str) -> Condition:
    return lambda task: value_at(task, "error", "code") in codes


FAILURES: Final = (
    *failures(
        ("invalid", "`failed` with `invalid_image`", _has_code("invalid_image")),
        charged=False,
        source=SAYS,
    ),
    *failures(
        (
            "server",
            "`failed` with `nan_output` or `black_output`",
            _has_code("nan_output", "black_output"),
        ),
        charged=True,  # the GPU made a bad clip: the next seed may be better
        source=self_hosted.UNBILLED,
    ),
    *failures(
        (
            "server",
            "`failed` with `out_of_memory`, `step_hung`, `worker_error`",
            has("status", "failed"),
        ),
        ("stopped", "`cancelled`", always),
        charged=False,
        source=SAYS,
    ),
)


@dataclass(frozen=True, slots=True)
class Nightreel(OpenAiVideos):
    """Starts one job for any number of equal submits."""

    name: ClassVar = "nightreel"
    refusals: ClassVar = REFUSALS
    failures: ClassVar = FAILURES
    id_field: ClassVar = "id"
    takes_shift: ClassVar = False
