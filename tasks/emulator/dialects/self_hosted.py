"""The parts that emulated engines on your own GPUs share.

They send no bill, and have unusual defaults for the fields that a submit lacks.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.requests import Request

from tasks.emulator.accounts import Terms
from tasks.emulator.api import EmulatedApi
from tasks.emulator.clips import SIZES
from tasks.emulator.predictions import UNPAID_FAILURES, ClipSpec, Stage
from tasks.emulator.prices import Offer
from tasks.emulator.refusals import BadInputError

TERMS: Final = Terms(
    slots=1,
    submits_per_minute=None,
    queues=True,
    refunds=UNPAID_FAILURES,
    keyless=True,
)
"""One GPU makes one clip at a time and queues the others."""

RATIOS: Final = ("16:9", "1:1", "9:16")
"""Aspect ratios in the order of `SIZES`."""

NO_IMAGE: Final = "Failed to process image: cannot identify image file"
NO_MEMORY: Final = (
    "CUDA out of memory. Tried to allocate 2.34 GiB. GPU 0 has a total capacity of "
    "79.14 GiB of which 1.02 GiB is free."
)
ERRORS: Final[Mapping[Stage, str]] = {
    Stage.FAILED: NO_MEMORY,
    # Engines do not moderate; a bad image is the row's fault as well.
    Stage.MODERATED: NO_IMAGE,
    Stage.UNREADABLE: NO_IMAGE,
}


@dataclass(frozen=True, slots=True)
class Shape:
    """The size and length that a submit asks for."""

    size: tuple[int, int]
    frames: int
    fps: int


def parse(offer: Offer, body: Mapping[str, Any], shape: Shape, **more: Any) -> ClipSpec:
    """Return the clip that a submit asks for.

    Raises:
        BadInputError: the model does not make this size.
    """
    for resolution in offer.resolutions:
        if shape.size in SIZES[resolution]:
            ratio = RATIOS[SIZES[resolution].index(shape.size)]
            seconds = round(shape.frames / shape.fps)
            return ClipSpec(
                model=offer.model,
                resolution=resolution,
                aspect_ratio=ratio,
                duration_s=seconds,
                fps=shape.fps,
                frames=shape.frames,
                price_usd=offer.price(resolution, seconds),
                body=body,
                **more,
            )
    message = f"size: {shape.size} is not supported"
    raise BadInputError("size", "value_error", message, value=shape.size)


def parse_size(text: object) -> tuple[int, int]:
    """Return width and height of a text such as `832x480`."""
    width, _, height = str(text).partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        message = f"size: {text!r} is not WIDTHxHEIGHT"
        raise BadInputError("size", "value_error", message, value=text)
    return int(width), int(height)


def whole(body: Mapping[str, Any], field: str, default: int | None) -> int:
    """Return a whole number, which is text in a form."""
    value = body.get(field, default)
    if isinstance(value, int) or str(value).isdecimal():
        return int(value)  # type: ignore[arg-type]
    message = f"{field}: input should be a valid integer, not {value!r}"
    raise BadInputError(field, "int_type", message, value=value)


def only_model(api: EmulatedApi) -> str:
    """Return the one model that the engine serves."""
    return next(iter(api.offers))


async def read_form(request: Request, file: str) -> dict[str, Any]:
    """Return the fields of a form, with its file as a data URL. Raises BadInputError."""
    kind = request.headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        raise BadInputError("body", "missing", "the body is not a form")
    async with request.form(max_files=1) as form:
        body: dict[str, Any] = {}
        for field, value in form.items():
            if isinstance(value, UploadFile):
                text = base64.b64encode(await value.read()).decode("ascii")
                value = f"data:{value.content_type};base64,{text}"  # noqa: PLW2901
            body[field] = value
    if not body.get(file):
        raise BadInputError(file, "missing", f"{file}: field required")
    return body
