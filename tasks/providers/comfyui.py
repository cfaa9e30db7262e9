"""ComfyUI: `server.py` and `comfy_execution/jobs.py` in Comfy-Org/ComfyUI, read 2026-11.

A route's endpoint names the file of a workflow, as ComfyUI's "Export (API)" writes it.
The row's prompt replaces the text `"{{prompt}}"` in the file, and so on for each slot.
"""

import hashlib
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from urllib.parse import urlencode
from uuid import NAMESPACE_URL, uuid5

from manifests.jobs import Job
from manifests.lifecycle import Ticket
from storage.media import Still
from tasks.providers import comfyui_workflows, self_hosted
from tasks.providers.parsing import path_segment, read_body, redact, status_words
from tasks.providers.protocol import AccountReport, Exchange, Finished, Progress
from tasks.providers.refusals import Refusals, refusal
from tasks.providers.self_hosted import SelfHosted

LEFT_OUT: Final = "left_out"
"""The key of a ticket's URLs under which it keeps the errors of nodes that were left out."""
LONGEST_LEFT_OUT: Final = 300
VIDEOS: Final = (".mp4", ".mov", ".mkv", ".webm")

NO_STILL: Final = re.compile("Invalid image file")
OUT_OF_RANGE: Final = re.compile("value_bigger_than_max|value_smaller_than_min")
RUN_WORKFLOW: Final = "run the route's workflow in ComfyUI itself"
REFUSALS: Final = Refusals(
    provider="comfyui",
    mark="error",
    self_hosted=True,
    uploads="/upload/image",
    table=(
        self_hosted.AUTH,
        self_hosted.WRONG_ADDRESS,
        # Somebody cleared its input folder: the still is uploaded again within the hour.
        refusal("away", 400, says=NO_STILL, submit_only=True),
        refusal("invalid", 400, says=OUT_OF_RANGE),
        # A missing node or model file is not the row's fault.
        refusal("permission", 400, submit_only=True, fix=RUN_WORKFLOW),
        refusal("invalid", 413),
        self_hosted.THROTTLED,
    ),
)
FAILURES: Final = self_hosted.engine_failures(
    "ComfyUI, comfy_execution/jobs.py, read 2026-11"
)


@dataclass(frozen=True, slots=True)
class ComfyUi(SelfHosted):
    """Runs one workflow at a time; our reference becomes the prompt's id."""

    name: ClassVar = "comfyui"
    refusals: ClassVar = REFUSALS
    failures: ClassVar = FAILURES
    noun: ClassVar = "prompt"
    poll_path: ClassVar = "/api/jobs/{}"
    words: ClassVar = status_words(
        waiting="pending in_progress", ready="completed", failed="failed cancelled"
    )

    def upload(self, still: Still) -> Exchange[str]:
        """Name the still by its digest, so that it never overwrites another one."""
        digest = hashlib.sha256(still.content).hexdigest()[:32]
        suffix = still.media_type.rpartition("/")[2]
        form = {"image": (f"{digest}.{suffix}", still.content, still.media_type)}
        fields = {"type": "input", "overwrite": "true"}
        request = self._request("POST", "/upload/image", data=fields, files=form)
        match body := read_body((yield request)):
            case {"name": str(name), "subfolder": str(folder)} if name:
                return f"{folder}/{name}" if folder else name
            case _:
                raise self._unreadable(body)

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        graph = comfyui_workflows.load(self.route.endpoints[job.resolution])
        # ComfyUI answers from its cache, without outputs, if the same graph comes again
        # (Comfy-Org/ComfyUI#14939). The job may come again from another root, too, so each
        # submit saves under a name that no other one has.
        remote, salt = _prompt_id(reference), secrets.token_hex(4)
        name = f"nightreel/{remote}-{salt}"
        slots = {**self._slots(job, image_url, seed), "name": name}
        fields = {
            "prompt": comfyui_workflows.fill(graph, slots, saved_as=salt),
            "prompt_id": remote,
            "client_id": remote,
        }
        match body := read_body((yield self._request("POST", "/prompt", json=fields))):
            case {"prompt_id": str(remote), **more} if remote:
                return Ticket(self.name, remote, _left_out(more.get("node_errors")))
            case _:
                raise self._unreadable(body)

    def check(self) -> Exchange[AccountReport]:
        """Ask whether it is up, accepts our key, and has jobs and each node of the workflow.

        An older version without `/api/jobs` answers a 404 that is not its own.
        """
        yield self._request("GET", "/system_stats")
        jobs = self._poll_request(_prompt_id("check"))
        jobs.extensions[self_hosted.FINDS] = True
        yield jobs
        there: list[bool] = []
        for endpoint in dict.fromkeys(self.route.endpoints.values()):
            nodes = comfyui_workflows.load(endpoint).values()
            for kind in dict.fromkeys(node["class_type"] for node in nodes):
                request = self._request("GET", f"/object_info/{path_segment(kind)}")
                match read_body((yield request)):
                    case {**kinds}:
                        there.append(kind in kinds)
                    case body:
                        raise self._unreadable(body)
        return AccountReport(has_model=all(there))

    def mark(self, job: Job, image_url: str, seed: int, reference: str) -> str:
        """Return the prompt's id, which our reference alone decides."""
        del job, image_url, seed
        return _prompt_id(reference)

    def _slots(self, job: Job, image_url: str, seed: int) -> Mapping[str, object]:
        """Return the values of the slots that the job and the route decide."""
        width, height = self_hosted.size(self.route, job)
        sampling = self.route.sampling
        return {
            "image": image_url,
            "prompt": job.prompt,
            "negative_prompt": job.negative_prompt or self_hosted.NEGATIVE,
            "seed": seed,
            "width": width,
            "height": height,
            "frames": self_hosted.frames(self.route, job),
            "fps": self.route.fps,
            "steps": sampling.steps,
            "cfg_high": sampling.cfg_high,
            "cfg_low": sampling.cfg_low,
            "shift": sampling.shift,
        }

    def _finished(self, ticket: Ticket, job: Mapping[str, Any]) -> Progress:
        files = [*_files(job.get("outputs"))]
        clips = [file for file in files if file.is_clip]
        if clips:
            return Finished(f"{self.api}/view?{urlencode(clips[0].query)}")
        there = ", ".join(str(file) for file in files) or "nothing"
        error = f"no output video is among its outputs, but {there}"
        if left_out := ticket.urls.get(LEFT_OUT):
            error = f"{error}; it left out nodes: {left_out}"
        return self._failed({"status": "failed"}, error)

    def _error(self, job: Mapping[str, Any]) -> str | None:
        match job.get("execution_error"):
            case {"exception_message": str(text), **more}:
                parts = (more.get("exception_type"), text)
                return ": ".join(str(part) for part in parts if part)
            case _:
                return None


def _prompt_id(reference: str) -> str:
    """Return our reference in the form of ComfyUI's ids: a UUID in lower case."""
    return str(uuid5(NAMESPACE_URL, f"nightreel:{reference}"))


def _left_out(node_errors: Any) -> dict[str, str]:
    """Return the errors of the nodes that ComfyUI left out of a graph that it accepted."""
    match node_errors:
        case {**nodes} if nodes:
            return {LEFT_OUT: redact(dict(nodes), "")[:LONGEST_LEFT_OUT]}
        case _:
            return {}


@dataclass(frozen=True, slots=True)
class _File:
    """A file that a node made."""

    filename: str
    subfolder: str
    type: str

    @property
    def is_clip(self) -> bool:
        return self.type == "output" and self.filename.lower().endswith(VIDEOS)

    @property
    def query(self) -> Mapping[str, str]:
        return {
            "filename": self.filename,
            "subfolder": self.subfolder,
            "type": self.type,
        }

    def __str__(self) -> str:
        return f"{self.filename} ({self.type})"


def _files(outputs: Any) -> Iterator[_File]:
    """Return each file among the outputs, whichever node made it, under any key."""
    match outputs:
        case {"filename": str(name), **more}:
            folder, place = more.get("subfolder"), more.get("type")
            yield _File(name, str(folder or ""), str(place or "output"))
        case {**fields}:
            for each in fields.values():
                yield from _files(each)
        case [*items]:
            for each in items:
                yield from _files(each)
        case _:
            pass
