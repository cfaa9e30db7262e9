"""ComfyUI: `server.py` and `comfy_execution/jobs.py` in Comfy-Org/ComfyUI, read 2026-11.

What it runs is a workflow, as its "Export (API)" writes one, that a route's endpoints name
by its file. Where the file says `"{{prompt}}"`, the row's prompt goes: so with each slot.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final
from urllib.parse import urlencode
from uuid import NAMESPACE_URL, uuid5

import httpx

from manifests.catalogue.routes import Route
from manifests.jobs import Job
from manifests.lifecycle import Ticket
from tasks.providers import comfyui_workflows, self_hosted
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

MEDIA: Final = ("images", "gifs", "videos", "video")
"""Where nodes put a video: ComfyUI's own SaveVideo says `images`, VideoHelperSuite `gifs`."""
VIDEOS: Final = (".mp4", ".mov", ".mkv", ".webm")

ABSENT: Final = re.compile("Invalid image file")
UNFIT: Final = re.compile("value_bigger_than_max|value_smaller_than_min")
REFUSALS: Final = Refusals(
    provider="comfyui",
    mark="error",
    uploads="/upload/image",
    table=(
        self_hosted.AUTH,
        self_hosted.ELSEWHERE,
        # Somebody cleared its input folder: the still is handed over again in an hour.
        refusal("away", 400, says=ABSENT, submits=True),
        refusal("invalid", 400, says=UNFIT),
        # A node or a model file that it has not got is no row's fault.
        refusal(
            "permission",
            400,
            submits=True,
            fix="run the route's workflow in ComfyUI itself",
        ),
        refusal("invalid", 413),
        self_hosted.THROTTLED,
    ),
)
FAILURES: Final = self_hosted.engine_failures(
    "ComfyUI, comfy_execution/jobs.py, read 2026-11"
)


@dataclass(frozen=True, slots=True)
class ComfyUi:
    """One workflow at a time; it takes our name for a job as the prompt's id."""

    name: ClassVar = "comfyui"
    hosts: ClassVar = frozenset({self_hosted.HOST})

    route: Route
    key: str = field(repr=False)
    hook: str = ""

    def upload(self, still: Still) -> Exchange[str]:
        """Named by what it is: a name that is taken by another still is never overwritten."""
        named = hashlib.sha256(still.content).hexdigest()[:32]
        suffix = still.media_type.rpartition("/")[2]
        form = {"image": (f"{named}.{suffix}", still.content, still.media_type)}
        said = {"type": "input", "overwrite": "true"}
        request = self._request("POST", "/upload/image", data=said, files=form)
        match answer := read_body((yield request)):
            case {"name": str(name), "subfolder": str(folder)} if name:
                return f"{folder}/{name}" if folder else name
            case _:
                raise self._unreadable(answer)

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        graph = comfyui_workflows.load(self.route.endpoints[job.resolution])
        slots = self._slots(job, image_url, seed, reference)
        asked = {
            "prompt": comfyui_workflows.filled(graph, slots),
            "prompt_id": _named(reference),
        }
        match said := read_body((yield self._request("POST", "/prompt", json=asked))):
            case {"prompt_id": str(remote)} if remote:
                return Ticket(self.name, remote)
            case _:
                raise self._unreadable(said)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        match said := read_body((yield self._job(ticket.id))):
            case {"status": "completed", "outputs": {**outputs}} if clip := _clip(
                outputs
            ):
                return Finished(f"{self_hosted.API}/view?{urlencode(clip)}")
            case {"status": "completed"}:
                said = {"status": "failed", "error": "no video is among its outputs"}
                return failure(FAILURES, said, self_hosted.why(said, self.key))
            case {"status": "pending" | "in_progress"}:
                return None
            case {"status": "failed" | "cancelled" as status}:
                ended = {"status": status, "error": _error(said)}
                return failure(FAILURES, ended, self_hosted.why(ended, self.key))
            case _:
                raise self._unreadable(said)

    def fetch(self, url: str) -> httpx.Request:
        return self_hosted.fetched(url, self.key)

    def check(self) -> Exchange[AccountReport]:
        """Whether it is up, takes our key, and has every node of the workflow."""
        yield self._request("GET", "/system_stats")
        there: list[bool] = []
        for endpoint in dict.fromkeys(self.route.endpoints.values()):
            nodes = comfyui_workflows.load(endpoint).values()
            for kind in dict.fromkeys(node["class_type"] for node in nodes):
                asked = self._request("GET", f"/object_info/{path_segment(kind)}")
                there.append(kind in read_body((yield asked)))
        return AccountReport(has_model=all(there))

    def judge(self, response: httpx.Response) -> ProviderError | None:
        said, code = read_body(response), response.status_code
        its_own = isinstance(said, dict) and REFUSALS.mark in said
        finds = self_hosted.FINDS in response.request.extensions
        if response.is_success or (code == 404 and its_own and finds):
            return None
        return REFUSALS.verdict(response, said, code=code, key=self.key)

    def mark(
        self,
        job: Job,  # noqa: ARG002 - our name for it alone is the prompt's id
        image_url: str,  # noqa: ARG002
        seed: int,  # noqa: ARG002
        reference: str,
    ) -> str:
        return _named(reference)

    def find(self, doubt: Doubt) -> Exchange[Ticket | Absent | None]:
        """Looked up, never posted again: the same id would be queued a second time."""
        request = self._job(doubt.mark)
        request.extensions[self_hosted.FINDS] = True
        match read_body((yield request)):
            case {"status": str()}:
                return Ticket(self.name, doubt.mark)
            case _:
                return Absent(f"{self.name}: no prompt is called {doubt.mark}")

    def _slots(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Mapping[str, object]:
        """What a workflow may name, and what goes there."""
        width, height = self_hosted.size(self.route, job)
        how = self.route.sampling
        return {
            "image": image_url,
            "prompt": job.prompt,
            "negative_prompt": job.negative_prompt or self_hosted.NEGATIVE,
            "seed": seed,
            "width": width,
            "height": height,
            "frames": self_hosted.frames(self.route, job),
            "fps": self.route.fps,
            "steps": how.steps,
            "cfg_high": how.cfg_high,
            "cfg_low": how.cfg_low,
            "shift": how.shift,
            "name": f"nightreel/{_named(reference)}",
        }

    def _job(self, remote: str) -> httpx.Request:
        return self._request("GET", f"/api/jobs/{path_segment(remote)}")

    def _request(self, method: str, path: str, **sent: Any) -> httpx.Request:
        headers = self_hosted.headers(self.key)
        return httpx.Request(
            method, f"{self_hosted.API}{path}", headers=headers, **sent
        )

    def _unreadable(self, said: Any) -> UnreadableError:
        return UnreadableError(self.name, redact(said, self.key))


def _named(reference: str) -> str:
    """Our own name for a submit, as ComfyUI has ids: a UUID, in lower case."""
    return str(uuid5(NAMESPACE_URL, f"nightreel:{reference}"))


def _clip(outputs: Mapping[str, Any]) -> dict[str, str] | None:
    """Where the video is, whichever node made it and whatever it calls it."""
    for told in outputs.values():
        for kind in MEDIA:
            for item in told.get(kind) or ():
                match item:
                    case {"filename": str(name)} if name.endswith(VIDEOS):
                        folder, place = item.get("subfolder", ""), item.get("type")
                        return {
                            "filename": name,
                            "subfolder": folder,
                            "type": place or "output",
                        }
                    case _:
                        pass
    return None


def _error(said: Mapping[str, Any]) -> str | None:
    match said.get("execution_error"):
        case {"exception_message": str(text), **more}:
            return ": ".join(str(m) for m in (more.get("exception_type"), text) if m)
        case _:
            return None
