"""LightX2V's own server: `lightx2v/server` in ModelTC/LightX2V at f8aee98, read 2026-11.

It takes our reference as the task's id and refuses a second task with it. It applies only
the fields that a submit sets; its configuration alone decides guidance. It checks a link
to a still with HEAD, which a signed link refuses, so a submit carries the still itself.
"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from manifests.jobs import Job
from manifests.lifecycle import Ticket
from tasks.providers import self_hosted
from tasks.providers.parsing import read_body, remote_id, status_words
from tasks.providers.protocol import AccountReport, Exchange
from tasks.providers.refusals import Refusals, refusal
from tasks.providers.self_hosted import SelfHosted

FULL: Final = re.compile("queue is full", re.IGNORECASE)
TAKEN: Final = re.compile("already exists", re.IGNORECASE)
REFUSALS: Final = Refusals(
    provider="lightx2v",
    mark="detail",
    self_hosted=True,
    table=(
        self_hosted.AUTH,
        self_hosted.WRONG_ADDRESS,
        refusal("invalid", 413, 422),
        refusal("concurrency", 503, says=FULL),
        self_hosted.THROTTLED,
    ),
)
FAILURES: Final = self_hosted.engine_failures(
    "LightX2V f8aee98, task_manager.py, read 2026-11"
)


@dataclass(frozen=True, slots=True)
class LightX2V(SelfHosted):
    """Runs one task at a time and queues the others."""

    name: ClassVar = "lightx2v"
    api: ClassVar = f"{self_hosted.API}/v1/tasks"
    refusals: ClassVar = REFUSALS
    failures: ClassVar = FAILURES
    noun: ClassVar = "task"
    poll_path: ClassVar = "/{}/status"
    clip_path: ClassVar = "/{}/result"
    words: ClassVar = status_words(
        waiting="pending processing", ready="completed", failed="failed cancelled"
    )

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        fields = self._fields(job, image_url, seed, reference)
        # Without the last slash it is redirected, and a submit follows no redirect.
        request = self._request("POST", "/video/", json=fields)
        match body := read_body((yield request)):
            case {"task_id": value} if remote := remote_id(value):
                return Ticket(self.name, remote)
            case {"detail": str(text)} if TAKEN.search(text):
                return Ticket(self.name, reference)
            case _:
                raise self._unreadable(body)

    def check(self) -> Exchange[AccountReport]:
        """Ask whether it is up and accepts our key; it does not name its model."""
        yield self._request("GET", "/queue/status")
        return AccountReport()

    def _fields(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> dict[str, object]:
        self_hosted.decode_still(image_url)
        width, height = self_hosted.size(self.route, job)
        return {
            "task_id": reference,
            "prompt": job.prompt,
            "negative_prompt": job.negative_prompt or self_hosted.NEGATIVE,
            "image_path": image_url,
            "seed": seed,
            "infer_steps": self.route.sampling.steps,
            "target_video_length": self_hosted.frames(self.route, job),
            "target_fps": self.route.fps,
            "target_shape": [height, width],
            "resize_mode": "adaptive",
            "save_result_path": f"{reference}.mp4",
        }

    def _has_job(self, body: Any, code: int) -> bool:
        match body:
            case {"detail": str(text)}:
                return code == 503 and TAKEN.search(text) is not None
            case _:
                return False
