"""Adapters of engines on your own GPUs: the address, sizes, stills, steps and failures.

Such an engine has no public address: a lane names it with `base_url`. Engines differ in
their defaults, so a submit states every setting that decides about the clip.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import httpx

from manifests.catalogue import Route
from manifests.jobs import AspectRatio, Job, Resolution
from manifests.lifecycle import Ticket
from storage.media import Still
from tasks.providers import stills
from tasks.providers.adapter import Adapter
from tasks.providers.errors import MisconfiguredError
from tasks.providers.job_failures import Failure, always, failure, failures, has, says
from tasks.providers.parsing import (
    error_text,
    path_segment,
    read_body,
    redact,
    value_at,
)
from tasks.providers.protocol import (
    Absent,
    Doubt,
    Exchange,
    Finished,
    Found,
    Progress,
)
from tasks.providers.refusals import refusal

HOST: Final = "own-gpu.invalid"
"""A placeholder that the lane's `base_url` replaces."""
API: Final = f"https://{HOST}"

AUTH: Final = refusal("auth", 401, fix="check the key")
WRONG_ADDRESS: Final = refusal(
    "permission", 404, submit_only=True, fix="check the lane's base_url"
)
THROTTLED: Final = refusal("throttled", 429)

FINDS: Final = "nightreel.finds"
"""Marks a request that looks for a job: a 404 is an answer to it."""

NEGATIVE: Final = "\uff0c".join(
    (
        "色调艳丽 过曝 静态 细节模糊不清 字幕 风格 作品 画作 画面 "
        "静止 整体发灰 最差质量 低质量 JPEG压缩残留 丑陋的 "
        "残缺的 多余的手指 画得不好的手部 画得不好的脸部 畸形的 "
        "毁容的 形态畸形的肢体 手指融合 静止不动的画面 杂乱的背景 "
        "三条腿 背景人很多 倒着走 "
    ).split()
)
"""Wan's negative prompt (Wan2.2, wan/configs/shared_config.py): some engines apply guidance
only if there is one."""

SIZES: Final[Mapping[tuple[Resolution, AspectRatio], tuple[int, int]]] = {
    ("480p", "16:9"): (832, 480),
    ("480p", "9:16"): (480, 832),
    ("480p", "1:1"): (624, 624),
    ("720p", "16:9"): (1280, 720),
    ("720p", "9:16"): (720, 1280),
    ("720p", "1:1"): (960, 960),
}
"""Width and height in pixels, each a multiple of 16 as the model's latents require."""

UNBILLED: Final = "ours: your own GPU sends no bill; its time was used"


def size(route: Route, job: Job) -> tuple[int, int]:
    """Return width and height of a clip, rounded down to the model's multiple.

    Raises:
        MisconfiguredError: there is no size for the job's resolution and aspect ratio.
    """
    ratio: AspectRatio = "16:9" if job.aspect_ratio == "auto" else job.aspect_ratio
    try:
        width, height = SIZES[job.resolution, ratio]
    except KeyError:
        message = f"no size is known for {job.resolution} at {ratio}"
        raise MisconfiguredError(message) from None
    return width - width % route.sides_of, height - height % route.sides_of


def frames(route: Route, job: Job) -> int:
    """Return fps times seconds plus one: the model makes 4n + 1 frames."""
    return job.duration_s * route.fps + 1


def decode_still(image_url: str) -> tuple[str, bytes, str]:
    """Return name, bytes and media type of a still in a data URL.

    Raises:
        MisconfiguredError: it is a link, which these engines do not receive.
    """
    found = re.fullmatch(r"data:image/(\w+);base64,(.+)", image_url)
    if found is None:
        message = "a lane on your own GPU sends the still itself, never a link"
        raise MisconfiguredError(message)
    try:
        content = base64.b64decode(found[2], validate=True)
    except binascii.Error as exc:
        raise MisconfiguredError(f"a still's base64: {exc}") from exc
    return f"still.{found[1]}", content, f"image/{found[1]}"


@dataclass(frozen=True, slots=True)
class SelfHosted(Adapter):
    """An engine that knows a job by our reference, and names each status in `status`."""

    api: ClassVar = API
    hosts: ClassVar = frozenset({HOST})
    noun: ClassVar[str] = "job"
    """The engine's word for a job."""
    poll_path: ClassVar[str]
    """The path of a poll, with `{}` for the job's id."""
    clip_path: ClassVar[str]
    """The path of a clip, in the same form."""

    def upload(self, still: Still) -> Exchange[str]:
        """Return the still as a data URL: such an engine has no uploads."""
        return stills.inline(stills.as_data_url(still))

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        body = read_body((yield self._poll_request(ticket.id)))
        match self.words.meaning(value_at(body, "status")):
            case "ready":
                return self._finished(ticket, body)
            case "waiting":
                return None
            case "failed":
                return self._failed(body, self._error(body))
            case None:
                raise self._unreadable(body)

    def mark(self, job: Job, image_url: str, seed: int, reference: str) -> str:
        """Return our reference, which is the job's id."""
        del job, image_url, seed
        return reference

    def find(self, doubt: Doubt) -> Exchange[Found]:
        """Look the job up; a second submit with its id would prove nothing."""
        request = self._poll_request(doubt.mark)
        request.extensions[FINDS] = True
        if self._is_job(read_body((yield request))):
            return Ticket(self.name, doubt.mark)
        return Absent(f"{self.name}: no {self.noun} is called {doubt.mark}")

    def fetch(self, url: str) -> httpx.Request:
        """Return the request for a clip, with the key only for the engine's address."""
        is_engine = httpx.URL(url).host == HOST
        return httpx.Request("GET", url, headers=self._auth() if is_engine else None)

    def _poll_request(self, remote: str) -> httpx.Request:
        return self._request("GET", self.poll_path.format(path_segment(remote)))

    def _is_job(self, body: Any) -> bool:
        match body:
            case {"status": str()}:
                return True
            case _:
                return False

    def _finished(self, ticket: Ticket, job: Mapping[str, Any]) -> Progress:
        del job
        return Finished(f"{self.api}{self.clip_path.format(path_segment(ticket.id))}")

    def _failed(self, job: Mapping[str, Any], error: Any) -> Progress:
        reason = str(job["status"])
        if error:
            reason = f"{reason}: {redact(error_text(error), self.key)}"
        return failure(self.failures, {**job, "error": error}, reason)

    def _error(self, job: Mapping[str, Any]) -> Any:
        """Return why a job made no clip; None if it does not say."""
        return job.get("error")

    def _auth(self) -> Mapping[str, str]:
        """Return the header with the key; most such engines have no key."""
        return {"authorization": f"Bearer {self.key}"} if self.key else {}

    def _is_good(self, response: httpx.Response, body: Any, code: int) -> bool:
        finds = FINDS in response.request.extensions
        is_own = self.refusals.is_own(body) and not self.refusals.is_routers(body)
        is_absent = code == 404 and finds and is_own
        return is_absent or response.is_success or self._has_job(body, code)

    def _has_job(self, body: Any, code: int) -> bool:
        """Whether an answer with the HTTP status of a failure shows a job."""
        del body, code
        return False


DEAD: Final = re.compile(
    r"EngineDead|engine is dead|Scheduler worker exited", re.IGNORECASE
)
BAD_IMAGE: Final = re.compile(
    r"Failed to process image|cannot identify image|Invalid image", re.IGNORECASE
)
SPOILED: Final = re.compile(r"\bNaNs?\b|black (frame|output|video)|nan_output")


def engine_failures(source: str) -> tuple[Failure, ...]:
    """Return the table of an engine that describes failures in words and has no codes."""
    unreadable = "`failed`, where the error says that the image cannot be read"
    other = "`failed` of any other kind: out of memory, the engine dead"
    return (
        Failure("invalid", unreadable, says(BAD_IMAGE), charged=False, source=source),
        Failure(
            "server",
            "`failed`, where the error says NaN or black",
            says(SPOILED),
            charged=True,  # the GPU made a bad clip: the next seed may be better
            source=UNBILLED,
        ),
        *failures(
            ("server", other, has("status", "failed")),
            ("stopped", "`cancelled`, `deleted`", always),
            charged=False,
            source=source,
        ),
    )
