"""The parts that adapters of engines on your own GPUs share: address, sizes, stills, failures.

Such an engine has no public address: a lane names it with `base_url`. Engines differ in
their defaults, so a submit states every setting that decides about the clip.
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
from tasks.providers.refusals import Failure, always, refusal

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


def auth_headers(key: str) -> dict[str, str]:
    """Return the header with the key; most such engines have no key."""
    return {"authorization": f"Bearer {key}"} if key else {}


def clip_request(url: str, key: str) -> httpx.Request:
    """Return the request for a clip, with the key only for the engine's address."""
    is_engine = httpx.URL(url).host == HOST
    return httpx.Request("GET", url, headers=auth_headers(key) if is_engine else None)


def form_request(
    url: str, key: str, fields: Mapping[str, object], still: tuple[str, bytes, str]
) -> httpx.Request:
    """Return a submit as a form with the still as its file; equal fields, equal bytes."""
    text = {name: str(value) for name, value in fields.items()}
    boundary = digest([text, len(still[1])])
    kind = f"multipart/form-data; boundary={boundary}"
    request = httpx.Request(
        "POST",
        url,
        headers={**auth_headers(key), "content-type": kind},
        data=text,
        files={"input_reference": still},
    )
    request.read()
    return request


def end_reason(task: Mapping[str, Any], key: str) -> str:
    """Return why a task made no clip: its status and the sentence in its error."""
    status, error = task["status"], task.get("error")
    return f"{status}: {redact(error_text(error), key)}" if error else str(status)


DEAD: Final = re.compile(
    r"EngineDead|engine is dead|Scheduler worker exited", re.IGNORECASE
)
BAD_IMAGE: Final = re.compile(
    r"Failed to process image|cannot identify image|Invalid image", re.IGNORECASE
)
SPOILED: Final = re.compile(r"\bNaNs?\b|black (frame|output|video)|nan_output")


def _error_matches(pattern: re.Pattern[str], task: Mapping[str, Any]) -> bool:
    return pattern.search(str(task.get("error"))) is not None


def engine_failures(source: str) -> tuple[Failure, ...]:
    """Return the table of an engine that describes failures in words and has no codes."""
    return (
        Failure(
            "invalid",
            "`failed`, where the error says that the image cannot be read",
            lambda task: _error_matches(BAD_IMAGE, task),
            charged=False,
            source=source,
        ),
        Failure(
            "server",
            "`failed`, where the error says NaN or black",
            lambda task: _error_matches(SPOILED, task),
            charged=True,  # the GPU made a bad clip: the next seed may be better
            source=UNBILLED,
        ),
        Failure(
            "server",
            "`failed` of any other kind: out of memory, the engine dead",
            lambda task: task.get("status") == "failed",
            charged=False,
            source=source,
        ),
        Failure(
            "stopped", "`cancelled`, `deleted`", always, charged=False, source=source
        ),
    )
