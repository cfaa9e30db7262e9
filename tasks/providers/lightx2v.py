"""LightX2V's own server: `lightx2v/server` in ModelTC/LightX2V at f8aee98, read 2026-11.

It takes our name for a job as the task's id, and refuses a second one. It applies only the
fields that a submit has set; guidance is its configuration's and cannot be asked for. It
looks at a link to a still by HEAD, which a signed one refuses: so the still itself goes.
"""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import httpx

from manifests.catalogue.routes import Route
from manifests.jobs import Job
from manifests.lifecycle import Ticket
from tasks.providers import self_hosted
from tasks.providers.errors import ProviderError
from tasks.providers.parsing import path_segment, read_body, redact
from tasks.providers.protocol import (
    Absent,
    AccountReport,
    Doubt,
    Exchange,
    Finished,
    Progress,
    Still,
    UnreadableError,
)
from tasks.providers.refusals import Refusals, failure, refusal
from tasks.providers.stills import as_data_url

TASKS: Final = f"{self_hosted.API}/v1/tasks"

FULL: Final = re.compile("queue is full", re.IGNORECASE)
TAKEN: Final = re.compile("already exists", re.IGNORECASE)
REFUSALS: Final = Refusals(
    provider="lightx2v",
    mark="detail",
    table=(
        self_hosted.AUTH,
        self_hosted.ELSEWHERE,
        refusal("invalid", 413, 422),
        refusal("concurrency", 503, says=FULL),
        self_hosted.THROTTLED,
    ),
)
FAILURES: Final = self_hosted.engine_failures(
    "LightX2V f8aee98, task_manager.py, read 2026-11"
)


@dataclass(frozen=True, slots=True)
class LightX2V:
    """One task at a time, the rest in its queue."""

    name: ClassVar = "lightx2v"
    hosts: ClassVar = frozenset({self_hosted.HOST})

    route: Route
    key: str = field(repr=False)
    hook: str = ""

    def upload(self, still: Still) -> Exchange[str]:
        """There are no uploads: what `submit` takes is the still itself."""
        yield from ()
        return as_data_url(still)

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        # Without the slash at its end it is redirected, and a submit follows nobody.
        asked = self._asked(job, image_url, seed, reference)
        response = yield self._request("POST", "/video/", asked)
        match said := read_body(response):
            case {"task_id": str(remote)} if remote:
                return Ticket(self.name, remote)
            case {"detail": str(text)} if TAKEN.search(text):
                return Ticket(self.name, reference)
            case _:
                raise self._unreadable(said)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        one = f"/{path_segment(ticket.id)}"
        match said := read_body((yield self._request("GET", f"{one}/status"))):
            case {"status": "completed"}:
                return Finished(f"{TASKS}{one}/result")
            case {"status": "pending" | "processing"}:
                return None
            case {"status": "failed" | "cancelled"}:
                return failure(FAILURES, said, self_hosted.why(said, self.key))
            case _:
                raise self._unreadable(said)

    def fetch(self, url: str) -> httpx.Request:
        return self_hosted.fetched(url, self.key)

    def check(self) -> Exchange[AccountReport]:
        """Whether it is up, and takes our key; which model it has, it does not say."""
        yield self._request("GET", "/queue/status")
        return AccountReport()

    def judge(self, response: httpx.Response) -> ProviderError | None:
        said, code = read_body(response), response.status_code
        if response.is_success:
            return None
        match said:
            case {"detail": str(text)} if code == 503 and TAKEN.search(text):
                return None
            case {"detail": _} if (
                code == 404 and self_hosted.FINDS in response.request.extensions
            ):
                return None
            case _:
                return REFUSALS.verdict(response, said, code=code, key=self.key)

    def mark(
        self,
        job: Job,  # noqa: ARG002 - our name for it alone is the task's id
        image_url: str,  # noqa: ARG002
        seed: int,  # noqa: ARG002
        reference: str,
    ) -> str:
        return reference

    def find(self, doubt: Doubt) -> Exchange[Ticket | Absent | None]:
        request = self._request("GET", f"/{path_segment(doubt.mark)}/status")
        request.extensions[self_hosted.FINDS] = True
        match read_body((yield request)):
            case {"status": str()}:
                return Ticket(self.name, doubt.mark)
            case _:
                return Absent(f"{self.name}: no task is called {doubt.mark}")

    def _asked(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> dict[str, object]:
        self_hosted.picture(image_url)
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

    def _request(self, method: str, path: str, json: object = None) -> httpx.Request:
        headers = self_hosted.headers(self.key)
        return httpx.Request(method, f"{TASKS}{path}", headers=headers, json=json)

    def _unreadable(self, said: Any) -> UnreadableError:
        return UnreadableError(self.name, redact(said, self.key))
