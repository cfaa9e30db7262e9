"""LightX2V's own server: `lightx2v/server` in ModelTC/LightX2V at f8aee98, read 2026-11.

It takes our reference as the task's id and refuses a second task with it. It applies only
the fields that a submit sets; its configuration alone decides guidance. It checks a link
to a still with HEAD, which a signed link refuses, so a submit carries the still itself.
"""

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import httpx

from manifests.catalogue.routes import Route
from manifests.jobs import Job
from manifests.lifecycle import Ticket
from storage.media.stills import Still
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
class LightX2V:
    """Runs one task at a time and queues the others."""

    name: ClassVar = "lightx2v"
    hosts: ClassVar = frozenset({self_hosted.HOST})

    route: Route
    key: str = field(repr=False)
    hook: str = ""

    def upload(self, still: Still) -> Exchange[str]:
        """Return the still as a data URL: the engine has no uploads."""
        yield from ()
        return as_data_url(still)

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        fields = self._fields(job, image_url, seed, reference)
        # Without the last slash it is redirected, and a submit follows no redirect.
        request = self._request("POST", "/video/", fields)
        match body := read_body((yield request)):
            case {"task_id": str(remote)} if remote:
                return Ticket(self.name, remote)
            case {"detail": str(text)} if TAKEN.search(text):
                return Ticket(self.name, reference)
            case _:
                raise self._unreadable(body)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        path = f"/{path_segment(ticket.id)}"
        match body := read_body((yield self._request("GET", f"{path}/status"))):
            case {"status": "completed"}:
                return Finished(f"{TASKS}{path}/result")
            case {"status": "pending" | "processing"}:
                return None
            case {"status": "failed" | "cancelled"}:
                reason = self_hosted.end_reason(body, self.key)
                return failure(FAILURES, body, reason)
            case _:
                raise self._unreadable(body)

    def fetch(self, url: str) -> httpx.Request:
        return self_hosted.clip_request(url, self.key)

    def check(self) -> Exchange[AccountReport]:
        """Ask whether it is up and accepts our key; it does not name its model."""
        yield self._request("GET", "/queue/status")
        return AccountReport()

    def judge(self, response: httpx.Response) -> ProviderError | None:
        body, code = read_body(response), response.status_code
        finds = self_hosted.FINDS in response.request.extensions
        if response.is_success:
            return None
        match body:
            case {"detail": str(text)} if code == 503 and TAKEN.search(text):
                return None
            case {"detail": _} if code == 404 and finds:
                return None
            case _:
                return REFUSALS.verdict(response, body, code=code, key=self.key)

    def mark(self, job: Job, image_url: str, seed: int, reference: str) -> str:
        """Return our reference, which is the task's id."""
        del job, image_url, seed
        return reference

    def find(self, doubt: Doubt) -> Exchange[Ticket | Absent | None]:
        request = self._request("GET", f"/{path_segment(doubt.mark)}/status")
        request.extensions[self_hosted.FINDS] = True
        match read_body((yield request)):
            case {"status": str()}:
                return Ticket(self.name, doubt.mark)
            case _:
                return Absent(f"{self.name}: no task is called {doubt.mark}")

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

    def _request(self, method: str, path: str, json: object = None) -> httpx.Request:
        headers = self_hosted.auth_headers(self.key)
        return httpx.Request(method, f"{TASKS}{path}", headers=headers, json=json)

    def _unreadable(self, body: Any) -> UnreadableError:
        return UnreadableError(self.name, redact(body, self.key))
