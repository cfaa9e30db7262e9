"""What emulated engines on GPUs of one's own have in common: nobody pays, and what a submit
leaves unsaid has a default that nobody expects."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.requests import Request

from tasks.emulator.accounts import Terms
from tasks.emulator.clips import SIZES
from tasks.emulator.dialects.predictions import Stage, Wanted
from tasks.emulator.endpoint import Desk
from tasks.emulator.prices import Offer
from tasks.emulator.refusals import BadInputError

TERMS: Final = Terms(
    slots=1,
    submits_per_minute=None,
    queues=True,
    refunds=frozenset({Stage.FAILED, Stage.MODERATED, Stage.UNREADABLE}),
    keyless=True,
)
"""One GPU makes one clip at a time; what is over that waits."""

SHAPES: Final = ("16:9", "1:1", "9:16")
"""In the order of `SIZES`."""

NO_IMAGE: Final = "Failed to process image: cannot identify image file"
NO_MEMORY: Final = (
    "CUDA out of memory. Tried to allocate 2.34 GiB. GPU 0 has a total capacity of "
    "79.14 GiB of which 1.02 GiB is free."
)
ERRORS: Final[Mapping[Stage, str]] = {
    Stage.FAILED: NO_MEMORY,
    # Nobody moderates: what is no image is the row's own fault just so.
    Stage.MODERATED: NO_IMAGE,
    Stage.UNREADABLE: NO_IMAGE,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What the words of a submit come to."""

    size: tuple[int, int]
    frames: int
    fps: int


def wanted(offer: Offer, asked: Mapping[str, Any], shape: Shape, **more: Any) -> Wanted:
    """The clip that a submit asks for.

    Raises:
        BadInputError: of a size that nobody offers.
    """
    for resolution in offer.resolutions:
        if shape.size in SIZES[resolution]:
            ratio = SHAPES[SIZES[resolution].index(shape.size)]
            seconds = round(shape.frames / shape.fps)
            return Wanted(
                endpoint=offer.endpoint,
                resolution=resolution,
                aspect_ratio=ratio,
                duration_s=seconds,
                fps=shape.fps,
                frames=shape.frames,
                price_usd=offer.price(resolution, seconds),
                asked=asked,
                **more,
            )
    said = f"size: {shape.size} is not supported"
    raise BadInputError("size", "value_error", said, value=shape.size)


def sized(text: object) -> tuple[int, int]:
    """Width and height out of `832x480`."""
    width, _, height = str(text).partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        said = f"size: {text!r} is not WIDTHxHEIGHT"
        raise BadInputError("size", "value_error", said, value=text)
    return int(width), int(height)


def whole(asked: Mapping[str, Any], field: str, default: int | None) -> int:
    """A whole number, which a form has as text."""
    value = asked.get(field, default)
    if isinstance(value, int) or str(value).isdecimal():
        return int(value)  # type: ignore[arg-type]
    said = f"{field}: input should be a valid integer, not {value!r}"
    raise BadInputError(field, "int_type", said, value=value)


def only(desk: Desk) -> str:
    """The one model that it was started with."""
    return next(iter(desk.offers))


async def filled(request: Request, file: str) -> dict[str, Any]:
    """The fields of a form, its file as a data URL. Raises BadInputError."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        raise BadInputError("body", "missing", "the body is not a form")
    async with request.form(max_files=1) as form:
        asked: dict[str, Any] = {}
        for field, value in form.items():
            if isinstance(value, UploadFile):
                text = base64.b64encode(await value.read()).decode("ascii")
                value = f"data:{value.content_type};base64,{text}"  # noqa: PLW2901
            asked[field] = value
    if not asked.get(file):
        raise BadInputError(file, "missing", f"{file}: field required")
    return asked
