"""What engines on GPUs of one's own have in common: where they are, shapes, stills, ends.

They have no address that everybody knows: a lane says theirs with `base_url`. They have
defaults that nobody expects, so whatever decides about a clip is always said.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

import httpx

from manifests.catalogue.routes import Route
from manifests.jobs import AspectRatio, Job, Resolution
from tasks.providers.errors import MisconfiguredError
from tasks.providers.parsing import digest, error_text, redact
from tasks.providers.refusals import Failure, refusal

HOST: Final = "own-gpu.invalid"
"""Stands for the address of every engine until its lane's own takes its place."""
API: Final = f"https://{HOST}"

AUTH: Final = refusal("auth", 401, fix="check the key")
ELSEWHERE: Final = refusal(
    "permission", 404, submits=True, fix="check the lane's base_url"
)
THROTTLED: Final = refusal("throttled", 429)

FINDS: Final = "nightreel.finds"
"""Marks a request that asks whether something is there: a 404 is its answer."""

NEGATIVE: Final = "\uff0c".join(
    (
        "色调艳丽 过曝 静态 细节模糊不清 字幕 风格 作品 画作 画面 "
        "静止 整体发灰 最差质量 低质量 JPEG压缩残留 丑陋的 "
        "残缺的 多余的手指 画得不好的手部 画得不好的脸部 畸形的 "
        "毁容的 形态畸形的肢体 手指融合 静止不动的画面 杂乱的背景 "
        "三条腿 背景人很多 倒着走 "
    ).split()
)
"""Wan's own (Wan2.2, wan/configs/shared_config.py): some engines guide only with one."""

SIZES: Final[Mapping[tuple[Resolution, AspectRatio], tuple[int, int]]] = {
    ("480p", "16:9"): (832, 480),
    ("480p", "9:16"): (480, 832),
    ("480p", "1:1"): (624, 624),
    ("720p", "16:9"): (1280, 720),
    ("720p", "9:16"): (720, 1280),
    ("720p", "1:1"): (960, 960),
}
"""Width and height; each a multiple of 16, as the model's latents have it."""

OURS: Final = "ours: your own GPU sends no bill; its time was used"


def size(route: Route, job: Job) -> tuple[int, int]:
    """Width and height of a clip, as near as its model makes them; a route of such an engine has `auto` decided before."""
    ratio: AspectRatio = "16:9" if job.aspect_ratio == "auto" else job.aspect_ratio
    try:
        width, height = SIZES[job.resolution, ratio]
    except KeyError:
        said = f"no size is known for {job.resolution} at {ratio}"
        raise MisconfiguredError(said) from None
    return width - width % route.sides_of, height - height % route.sides_of


def frames(route: Route, job: Job) -> int:
    """One more than fps times seconds: the model makes 4n + 1."""
    return job.duration_s * route.fps + 1


def picture(image_url: str) -> tuple[str, bytes, str]:
    """The name, the bytes and the kind of a still that goes with the submit.

    Raises:
        MisconfiguredError: it is a link, which no engine here is sent.
    """
    found = re.fullmatch(r"data:image/(\w+);base64,(.+)", image_url)
    if found is None:
        said = "a still goes to GPUs of one's own with the submit, never as a link"
        raise MisconfiguredError(said)
    try:
        content = base64.b64decode(found[2], validate=True)
    except binascii.Error as exc:
        raise MisconfiguredError(f"a still's base64: {exc}") from exc
    return f"still.{found[1]}", content, f"image/{found[1]}"


def headers(key: str) -> dict[str, str]:
    """The key, where there is one: most such engines have none."""
    return {"authorization": f"Bearer {key}"} if key else {}


def fetched(url: str, key: str) -> httpx.Request:
    """The request for a clip; the key is for the engine's own address."""
    ours = httpx.URL(url).host == HOST
    return httpx.Request("GET", url, headers=headers(key) if ours else None)


def form(
    url: str, key: str, fields: Mapping[str, object], still: tuple[str, bytes, str]
) -> httpx.Request:
    """A submit as a form with the still as its file, in the same bytes each time."""
    text = {name: str(value) for name, value in fields.items()}
    boundary = digest([text, len(still[1])])
    kind = f"multipart/form-data; boundary={boundary}"
    request = httpx.Request(
        "POST",
        url,
        headers={**headers(key), "content-type": kind},
        data=text,
        files={"input_reference": still},
    )
    request.read()
    return request


def why(task: Mapping[str, Any], key: str) -> str:
    """How a task that made nothing ended: its status, and what is said of it."""
    status, error = task["status"], task.get("error")
    return f"{status}: {redact(error_text(error), key)}" if error else str(status)


MEMORY: Final = re.compile(r"out of memory", re.IGNORECASE)
DEAD: Final = re.compile(
    r"EngineDead|engine is dead|Scheduler worker exited", re.IGNORECASE
)
IMAGE: Final = re.compile(
    r"Failed to process image|cannot identify image|Invalid image", re.IGNORECASE
)
SPOILED: Final = re.compile(r"\bNaNs?\b|black (frame|output|video)|nan_output")


def says(pattern: re.Pattern[str], task: Mapping[str, Any]) -> bool:
    """Whether the error of a task that failed says so."""
    return pattern.search(str(task.get("error"))) is not None


def engine_failures(source: str) -> tuple[Failure, ...]:
    """How an engine that has only words for it says that a job came to nothing."""
    return (
        Failure(
            kind="invalid",
            told="`failed`, where the error says that the image cannot be read",
            when=lambda task: says(IMAGE, task),
            charged=False,
            source=source,
        ),
        Failure(
            kind="server",
            told="`failed`, where the error says NaN or black",
            when=lambda task: says(SPOILED, task),
            charged=True,  # made, and no good: the next seed may be better
            source=OURS,
        ),
        Failure(
            kind="server",
            told="`failed` of any other kind: out of memory, the engine dead",
            when=lambda task: task.get("status") == "failed",
            charged=False,
            source=source,
        ),
        Failure(
            kind="stopped",
            told="`cancelled`, `deleted`",
            when=lambda _: True,
            charged=False,
            source=source,
        ),
    )
