"""fal's dialect: a queue that says COMPLETED for failures too, and a result beside it.

From the docs (fal.ai/docs and the models' llms.txt, read 2026-11) and the Python SDK,
`fal-client` 1.0.3. fal's hosts (queue.fal.run, rest.fal.ai, v3.fal.media) are one here.
"""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import orjson
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tasks.emulator import fields
from tasks.emulator.accounts import Terms
from tasks.emulator.clips import ASPECTS
from tasks.emulator.dialects.predictions import Prediction, Stage, Wanted
from tasks.emulator.endpoint import Desk, send_still
from tasks.emulator.prices import Offer
from tasks.emulator.refusals import (
    BadInputError,
    BrokenError,
    NoCreditError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    UnauthorizedError,
    UnknownModelError,
)
from tasks.emulator.responses import Json
from tasks.emulator.uploads import Still

LOCKED: Final = (
    "User is locked. Reason: Exhausted balance. Top up your balance at "
    "fal.ai/dashboard/billing."
)

KLING: Final = "fal-ai/kling-video/"
BILLED_AT_FPS: Final = 16
"""fal counts a video-second as 16 frames, whatever the frames per second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """What a model takes."""

    frames: tuple[int, int]
    fps: tuple[int, int]
    interpolates: bool
    aspects: frozenset[str]


RANGES: Final = {
    "fal-ai/wan-i2v": Ranges(
        frames=(81, 100), fps=(5, 24), interpolates=False, aspects=frozenset({"auto"})
    ),
}
RANGES_2_2: Final = Ranges(
    frames=(17, 161),
    fps=(4, 60),
    interpolates=True,
    aspects=frozenset({"auto", *ASPECTS}),
)


class Fal:
    """POST the endpoint id as the path; ask the status, then the result."""

    name = "fal"
    scheme = "Key"
    terms = Terms(
        slots=40,
        submits_per_minute=None,
        queues=True,
        # 5xx are not billed; 422, which moderation and bad stills are, may be.
        refunds=frozenset({Stage.FAILED}),
    )

    def wanted(
        self, offer: Offer, asked: Mapping[str, Any], headers: Headers
    ) -> Wanted:
        if offer.endpoint.startswith(KLING):
            return _wanted_of_kling(offer, asked, headers)
        ranges = RANGES.get(offer.endpoint, RANGES_2_2)
        frames, fps = _length(ranges, asked)
        default = "720p" if "720p" in offer.resolutions else "480p"
        resolution = fields.choice(asked, "resolution", default, offer.resolutions)
        low, high = ranges.frames
        billed = fields.between(asked, "num_frames", 81, low=low, high=high)
        return Wanted(
            endpoint=offer.endpoint,
            image=fields.text(asked, "image_url"),
            prompt=fields.text(asked, "prompt"),
            seed=fields.seed(asked),
            resolution=resolution,
            duration_s=round(frames / fps),
            fps=fps,
            frames=frames,
            price_usd=offer.price(resolution, billed / BILLED_AT_FPS),
            aspect_ratio=fields.choice(asked, "aspect_ratio", "auto", ranges.aspects),
            keep_s=_keep_s(headers),
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        told = {"status": "IN_QUEUE", "queue_position": 0}
        return _json(told | _urls(base, prediction), 200, prediction.id)

    def refused(self, error: RefusedError) -> Response:
        match error:
            case BadInputError():
                return _json({"detail": [_detail(error)]}, 422)
            case ThrottledError(retry_after=retry_after):
                wait = {} if retry_after is None else {"Retry-After": str(retry_after)}
                return _request_error(429, "Too many requests", headers=wait)
            case UnauthorizedError():
                said = "Authentication is required to access this application."
                return _request_error(401, said)
            case NoCreditError():
                return _request_error(403, LOCKED)
            case UnknownModelError():
                return _request_error(404, f"Application {str(error)!r} not found")
            case NotFoundError():
                return _request_error(404, "Request not found")
            case BrokenError():
                return _request_error(500, "Internal error", kind="internal_error")
            case _:
                raise error

    def routes(self, desk: Desk) -> list[BaseRoute]:
        # The endpoint's sub-path is dropped after submission: only owner/alias stay.
        one = "/{owner}/{alias}/requests/{id}"
        return [
            desk.route("POST", "/storage/upload/initiate", "upload", _initiate),
            desk.route("GET", "/files/{id}/{filename}", "still", send_still),
            desk.route("PUT", "/files/{id}/{filename}", "upload", _put),
            desk.route("POST", "/storage/auth/token", "upload", _token),
            desk.route("POST", "/files/upload", "upload", _post),
            desk.route("GET", "/v1/models/pricing", "check", _pricing),
            desk.route("GET", f"{one}/status", "poll", _status),
            desk.route("GET", one, "poll", _result),
            desk.route("POST", "/{endpoint:path}", "submit", _submit),
        ]


def _wanted_of_kling(
    offer: Offer, asked: Mapping[str, Any], headers: Headers
) -> Wanted:
    """Kling takes seconds, as a word, and neither frames nor a seed (docs, 2026-11)."""
    (resolution,) = offer.resolutions
    lengths = {str(seconds) for seconds in offer.durations}
    seconds = int(fields.choice(asked, "duration", "5", lengths))
    fields.share(asked, "cfg_scale")
    return Wanted(
        endpoint=offer.endpoint,
        image=fields.text(asked, "image_url"),
        prompt=fields.text(asked, "prompt"),
        seed=None,
        resolution=resolution,
        duration_s=seconds,
        fps=offer.fps,
        frames=offer.fps * seconds + 1,
        price_usd=offer.price(resolution, seconds),
        keep_s=_keep_s(headers),
    )


async def _submit(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    return await desk.submit(request, request.path_params["endpoint"], asked)


async def _pricing(desk: Desk, request: Request) -> Response:
    """The platform's own API: one price for each endpoint, of a second at its largest."""
    desk.account(request)
    asked = request.query_params.getlist("endpoint_id")
    offers = [desk.offers[endpoint] for endpoint in asked if endpoint in desk.offers]
    prices = [
        {
            "endpoint_id": offer.endpoint,
            "unit_price": float(offer.price(max(offer.resolutions, key=_lines), 1)),
            "unit": "seconds",
            "currency": "USD",
        }
        for offer in offers
    ]
    return _json({"prices": prices, "next_cursor": None, "has_more": False}, 200)


def _lines(resolution: str) -> int:
    return int(resolution.removesuffix("p"))


def _json(
    content: Mapping[str, Any],
    status: int,
    request_id: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    # By this header the SDK knows fal's own errors from a gateway's.
    mark = {"x-fal-request-id": request_id or secrets.token_hex(16)}
    return Json(content, status, {**mark, **(headers or {})})


def _request_error(
    status: int,
    said: str,
    *,
    kind: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """An error of the request: `detail` is a text, where a model's own is a list."""
    if kind is None:
        return _json({"detail": said}, status, headers=headers)
    marked = {"X-Fal-Error-Type": kind, **(headers or {})}
    return _json({"detail": said, "error_type": kind}, status, headers=marked)


def _detail(error: BadInputError) -> dict[str, Any]:
    detail: dict[str, Any] = {
        "loc": ["body", error.field] if error.field else ["body"],
        "msg": str(error),
        "type": error.kind,
        "url": f"https://docs.fal.ai/errors#{error.kind}",
        "input": error.value,
    }
    return detail if error.limits is None else detail | {"ctx": {**error.limits}}


def _urls(base: str, prediction: Prediction) -> dict[str, Any]:
    owner, alias = prediction.wanted.endpoint.split("/")[:2]
    url = f"{base}/{owner}/{alias}/requests/{prediction.id}"
    return {
        "request_id": prediction.id,
        "response_url": url,
        "status_url": f"{url}/status",
        "cancel_url": f"{url}/cancel",
    }


def _length(ranges: Ranges, asked: Mapping[str, Any]) -> tuple[int, int]:
    """The clip's own frames and frames per second: by default one is put between each two."""
    low, high = ranges.frames
    frames = fields.between(asked, "num_frames", 81, low=low, high=high)
    low, high = ranges.fps
    fps = fields.between(asked, "frames_per_second", 16, low=low, high=high)
    if not ranges.interpolates:
        return frames, fps
    between = fields.between(asked, "num_interpolated_frames", 1, low=0, high=4)
    faster = asked.get("adjust_fps_for_interpolation", True) is not False
    return frames + (frames - 1) * between, fps * (between + 1) if faster else fps


def _keep_s(headers: Headers) -> float | None:
    asked = headers.get("X-Fal-Object-Lifecycle-Preference")
    if asked is None:
        return None
    name = "X-Fal-Object-Lifecycle-Preference"
    try:
        match orjson.loads(asked):
            case {"expiration_duration_seconds": int(seconds)}:
                return float(seconds)
            case {"expiration_duration_seconds": None}:
                return float("inf")
            case other:
                raise BadInputError(name, "one_of", f"{name}: {other}")
    except orjson.JSONDecodeError:
        raise BadInputError(name, "json_invalid", f"{name}: {asked}") from None


async def _status(desk: Desk, request: Request) -> Response:
    prediction, stage = await desk.poll(request, request.path_params["id"])
    told: dict[str, Any] = {"logs": [], **_urls(desk.base(request), prediction)}
    match stage:
        case Stage.WAITING:
            told["queue_position"] = desk.position(request, prediction)
            return _json({"status": "IN_QUEUE"} | told, 202, prediction.id)
        case Stage.RUNNING:
            return _json({"status": "IN_PROGRESS"} | told, 202, prediction.id)
        case Stage.ODD:
            return _json({"status": "WARMING_UP"} | told, 202, prediction.id)
        case Stage.FAILED:
            told |= {"error": "Runner failed", "error_type": "runner_server_error"}
        case Stage.SUCCEEDED | Stage.MODERATED | Stage.UNREADABLE:
            pass  # a model's own errors show in the result alone
    told["metrics"] = {"inference_time": prediction.inference_s}
    return _json({"status": "COMPLETED"} | told, 200, prediction.id)


async def _result(desk: Desk, request: Request) -> Response:
    prediction, stage = await desk.poll(request, request.path_params["id"])
    match stage:
        case Stage.SUCCEEDED:
            video = {
                "url": desk.clip_url(request, prediction),
                "content_type": "video/mp4",
                "file_name": "clip.mp4",
                "file_size": len(await desk.film(prediction)),
            }
            seeded = not prediction.wanted.endpoint.startswith(KLING)
            told = {"video": video} | ({"seed": prediction.seed} if seeded else {})
            return _json(told, 200, prediction.id)
        case Stage.MODERATED:
            said = "The content could not be processed: it was flagged by a checker."
            return _model_error("prompt", "content_policy_violation", said, prediction)
        case Stage.UNREADABLE:
            said = "Failed to load the image."
            return _model_error("image_url", "image_load_error", said, prediction)
        case Stage.FAILED:
            return _request_error(500, "Runner failed", kind="runner_server_error")
        case Stage.WAITING | Stage.RUNNING | Stage.ODD:
            return _request_error(400, "Request is still in progress")


def _model_error(field: str, kind: str, said: str, prediction: Prediction) -> Response:
    asked = {"prompt": prediction.wanted.prompt, "image_url": prediction.wanted.image}
    error = BadInputError(field, kind, said, value=asked[field])
    headers = {"X-Fal-Retryable": "false"}
    return _json({"detail": [_detail(error)]}, 422, prediction.id, headers)


async def _initiate(desk: Desk, request: Request) -> Response:
    """The JavaScript client's way to hand a still over: ask where, and PUT it there."""
    asked = await desk.asked(request)
    media_type = fields.text(asked, "content_type")
    upload = desk.expect(str(asked.get("file_name", "")), media_type)
    url = desk.upload_url(request, "files", upload)
    return _json({"upload_url": f"{url}?token={upload.token}", "file_url": url}, 200)


async def _put(desk: Desk, request: Request) -> Response:
    # fal-client's own PUT carries the key along, so unlike S3 this host lets it.
    desk.shown_key(request)
    upload = desk.upload(request)
    if request.query_params.get("token") != upload.token:
        return _request_error(403, "Forbidden")
    upload.still = Still.of(await request.body())
    return Response(status_code=200)


async def _token(desk: Desk, request: Request) -> Response:
    """The Python client's way: a token for the CDN, and a POST with it."""
    desk.account(request)
    told = {
        "token": desk.upload_token(),
        "token_type": "Bearer",
        "base_url": desk.base(request),
        "expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
    }
    return _json(told, 200)


async def _post(desk: Desk, request: Request) -> Response:
    headers = request.headers
    desk.check_upload_token(headers.get("authorization", "").removeprefix("Bearer "))
    media_type = headers.get("content-type", "application/octet-stream")
    upload = desk.expect(headers.get("x-fal-file-name", ""), media_type)
    upload.still = Still.of(await request.body())
    return _json({"access_url": desk.upload_url(request, "files", upload)}, 200)
