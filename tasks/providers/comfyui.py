"""ComfyUI: `server.py` and `comfy_execution/jobs.py` in Comfy-Org/ComfyUI, read 2026-11.

A route's endpoint names the file of a workflow, as ComfyUI's "Export (API)" writes it.
The row's prompt replaces the text `"{{prompt}}"` in the file, and so on for each slot.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final
from urllib.parse import urlencode
from uuid import NAMESPACE_URL, uuid5

from manifests.jobs import Job
from manifests.lifecycle import Ticket
from storage.media import Still
from tasks.providers import comfyui_workflows, self_hosted
from tasks.providers.parsing import path_segment, read_body, status_words
from tasks.providers.protocol import AccountReport, Exchange, Finished, Progress
from tasks.providers.refusals import Refusals, refusal
from tasks.providers.self_hosted import SelfHosted

MEDIA: Final = ("images", "gifs", "videos", "video")
"""The fields in which nodes list a video: ComfyUI's own SaveVideo uses `images`,
VideoHelperSuite `gifs`."""
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
        slots = self._slots(job, image_url, seed, reference)
        fields = {
            "prompt": comfyui_workflows.fill(graph, slots),
            "prompt_id": _prompt_id(reference),
        }
        match body := read_body((yield self._request("POST", "/prompt", json=fields))):
            case {"prompt_id": str(remote)} if remote:
                return Ticket(self.name, remote)
            case _:
                raise self._unreadable(body)

    def check(self) -> Exchange[AccountReport]:
        """Ask whether it is up, accepts our key, and has every node of the workflow."""
        yield self._request("GET", "/system_stats")
        there: list[bool] = []
        for endpoint in dict.fromkeys(self.route.endpoints.values()):
            nodes = comfyui_workflows.load(endpoint).values()
            for kind in dict.fromkeys(node["class_type"] for node in nodes):
                request = self._request("GET", f"/object_info/{path_segment(kind)}")
                there.append(kind in read_body((yield request)))
        return AccountReport(has_model=all(there))

    def mark(self, job: Job, image_url: str, seed: int, reference: str) -> str:
        """Return the prompt's id, which our reference alone decides."""
        del job, image_url, seed
        return _prompt_id(reference)

    def _slots(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Mapping[str, object]:
        """Return the value of every slot that a workflow may have."""
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
            "name": f"nightreel/{_prompt_id(reference)}",
        }

    def _finished(self, ticket: Ticket, job: Mapping[str, Any]) -> Progress:
        del ticket
        match job:
            case {"outputs": {**outputs}} if clip := next(_clips(outputs), None):
                return Finished(f"{self.api}/view?{urlencode(clip)}")
            case _:
                error = "no video is among its outputs"
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


def _clips(outputs: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Return the place of each video, whichever node made it."""
    items = (
        item
        for output in outputs.values()
        for kind in MEDIA
        for item in output.get(kind) or ()
    )
    for item in items:
        match item:
            case {"filename": str(name)} if name.lower().endswith(VIDEOS):
                folder, place = item.get("subfolder", ""), item.get("type")
                yield {
                    "filename": name,
                    "subfolder": folder,
                    "type": place or "output",
                }
            case _:
                pass
