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

from tasks.emulator import fields, pages
from tasks.emulator.accounts import Terms
from tasks.emulator.api import EmulatedApi
from tasks.emulator.clips import ASPECTS
from tasks.emulator.predictions import ClipSpec, Prediction, Stage
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
    worded,
)
from tasks.emulator.responses import Json, wait_headers
from tasks.emulator.uploads import Still

LOCKED: Final = (
    "User is locked. Reason: Exhausted balance. Top up your balance at "
    "fal.ai/dashboard/billing."
)

KLING: Final = "fal-ai/kling-video/"
BILLED_AT_FPS: Final = 16
"""fal bills 16 frames as a second, for every number of frames per second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranges:
    """The ranges that a model accepts."""

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


REFUSED: Final[Mapping[type[RefusedError], tuple[int, str, str | None]]] = {
    UnauthorizedError: (
        401,
        "Authentication is required to access this application.",
        None,
    ),
    NoCreditError: (403, LOCKED, None),
    ThrottledError: (429, "Too many requests", None),
    UnknownModelError: (404, "Application {!r} not found", None),
    NotFoundError: (404, "Request not found", None),
    BrokenError: (500, "Internal error", "internal_error"),
}
"""HTTP status, message and type of each refusal."""


class Fal:
    """A submit POSTs to the endpoint's id; a poll asks for the status, then the result."""

    name = "fal"
    scheme = "Key"
    terms = Terms(
        slots=40,
        submits_per_minute=None,
        queues=True,
        # 5xx are not billed; 422, for moderation and bad stills, may be (docs).
        refunds=frozenset({Stage.FAILED}),
    )

    def parse(
        self, offer: Offer, body: Mapping[str, Any], headers: Headers
    ) -> ClipSpec:
        if offer.model.startswith(KLING):
            return _parse_kling(offer, body, headers)
        ranges = RANGES.get(offer.model, RANGES_2_2)
        frames, fps = _length(ranges, body)
        default = "720p" if "720p" in offer.resolutions else "480p"
        resolution = fields.choice(body, "resolution", default, offer.resolutions)
        low, high = ranges.frames
        billed = fields.between(body, "num_frames", 81, low=low, high=high)
        return ClipSpec(
            model=offer.model,
            image=fields.text(body, "image_url"),
            prompt=fields.text(body, "prompt"),
            seed=fields.seed(body),
            resolution=resolution,
            duration_s=round(frames / fps),
            fps=fps,
            frames=frames,
            price_usd=offer.price(resolution, billed / BILLED_AT_FPS),
            aspect_ratio=fields.choice(body, "aspect_ratio", "auto", ranges.aspects),
            keep_s=_keep_s(headers),
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        content = {"status": "IN_QUEUE", "queue_position": 0}
        return _json(content | _urls(base, prediction), 200, prediction.id)

    def refused(self, error: RefusedError) -> Response:
        if isinstance(error, BadInputError):
            return _json({"detail": [_detail(error)]}, 422)
        status, message, kind = worded(error, REFUSED)
        message = message.format(str(error))
        return _request_error(status, message, kind=kind, headers=wait_headers(error))

    def routes(self, api: EmulatedApi) -> list[BaseRoute]:
        # After a submit, fal's URLs have owner and alias, without the endpoint's sub-path.
        one = "/{owner}/{alias}/requests/{id}"
        return [
            api.route("POST", "/storage/upload/initiate", "upload", _initiate),
            api.route("GET", "/files/{id}/{filename}", "still", pages.send_still),
            api.route("PUT", "/files/{id}/{filename}", "upload", _put),
            api.route("POST", "/storage/auth/token", "upload", _token),
            api.route("POST", "/files/upload", "upload", _post),
            api.route("GET", "/v1/models/pricing", "check", _pricing),
            api.route("GET", f"{one}/status", "poll", pages.job(_status)),
            api.route("GET", one, "poll", _result),
            api.route("POST", "/{model:path}", "submit", _submit),
        ]


def _parse_kling(offer: Offer, body: Mapping[str, Any], headers: Headers) -> ClipSpec:
    """Kling takes seconds as text, and neither frames nor a seed (docs, 2026-11)."""
    (resolution,) = offer.resolutions
    lengths = {str(seconds) for seconds in offer.durations}
    fields.share(body, "cfg_scale")
    return offer.by_seconds(
        resolution,
        int(fields.choice(body, "duration", "5", lengths)),
        image=fields.text(body, "image_url"),
        prompt=fields.text(body, "prompt"),
        seed=None,
        keep_s=_keep_s(headers),
    )


async def _submit(api: EmulatedApi, request: Request) -> Response:
    body = await api.body(request)
    return await api.submit(request, request.path_params["model"], body)


async def _pricing(api: EmulatedApi, request: Request) -> Response:
    """The platform API: the price of a second of each endpoint's largest size."""
    api.account(request)
    models = request.query_params.getlist("endpoint_id")
    offers = [api.offers[model] for model in models if model in api.offers]
    prices = [
        {
            "endpoint_id": offer.model,
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
    # The SDK recognises fal's own errors by this header; a gateway's lack it.
    mark = {"x-fal-request-id": request_id or secrets.token_hex(16)}
    return Json(content, status, {**mark, **(headers or {})})


def _request_error(
    status: int,
    message: str,
    *,
    kind: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error of the request: `detail` is a text. A model's error has a list."""
    if kind is None:
        return _json({"detail": message}, status, headers=headers)
    marked = {"X-Fal-Error-Type": kind, **(headers or {})}
    return _json({"detail": message, "error_type": kind}, status, headers=marked)


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
    owner, alias = prediction.spec.model.split("/")[:2]
    url = f"{base}/{owner}/{alias}/requests/{prediction.id}"
    return {
        "request_id": prediction.id,
        "response_url": url,
        "status_url": f"{url}/status",
        "cancel_url": f"{url}/cancel",
    }


def _length(ranges: Ranges, body: Mapping[str, Any]) -> tuple[int, int]:
    """Return frames and frames per second, with the frames that the model interpolates."""
    low, high = ranges.frames
    frames = fields.between(body, "num_frames", 81, low=low, high=high)
    low, high = ranges.fps
    fps = fields.between(body, "frames_per_second", 16, low=low, high=high)
    if not ranges.interpolates:
        return frames, fps
    between = fields.between(body, "num_interpolated_frames", 1, low=0, high=4)
    faster = body.get("adjust_fps_for_interpolation", True) is not False
    return frames + (frames - 1) * between, fps * (between + 1) if faster else fps


def _keep_s(headers: Headers) -> float | None:
    name = "X-Fal-Object-Lifecycle-Preference"
    value = headers.get(name)
    if value is None:
        return None
    try:
        match orjson.loads(value):
            case {"expiration_duration_seconds": int(seconds)}:
                return float(seconds)
            case {"expiration_duration_seconds": None}:
                return float("inf")
            case other:
                raise BadInputError(name, "one_of", f"{name}: {other}")
    except orjson.JSONDecodeError:
        raise BadInputError(name, "json_invalid", f"{name}: {value}") from None


def _status(
    api: EmulatedApi, request: Request, prediction: Prediction, stage: Stage
) -> Response:
    content: dict[str, Any] = {"logs": [], **_urls(api.base(request), prediction)}
    match stage:
        case Stage.WAITING:
            content["queue_position"] = api.position(request, prediction)
            return _json({"status": "IN_QUEUE"} | content, 202, prediction.id)
        case Stage.RUNNING:
            return _json({"status": "IN_PROGRESS"} | content, 202, prediction.id)
        case Stage.UNDOCUMENTED:
            return _json({"status": "WARMING_UP"} | content, 202, prediction.id)
        case Stage.FAILED:
            content |= {"error": "Runner failed", "error_type": "runner_server_error"}
        case Stage.SUCCEEDED | Stage.MODERATED | Stage.UNREADABLE:
            pass  # only the result shows a model's errors
    content["metrics"] = {"inference_time": prediction.inference_s}
    return _json({"status": "COMPLETED"} | content, 200, prediction.id)


async def _result(api: EmulatedApi, request: Request) -> Response:
    prediction, stage = await api.poll(request, request.path_params["id"])
    match stage:
        case Stage.SUCCEEDED:
            video = {
                "url": api.clip_url(request, prediction),
                "content_type": "video/mp4",
                "file_name": "clip.mp4",
                "file_size": len(await api.clip(prediction)),
            }
            seeded = not prediction.spec.model.startswith(KLING)
            seed = {"seed": prediction.seed} if seeded else {}
            return _json({"video": video} | seed, 200, prediction.id)
        case Stage.MODERATED:
            message = "The content could not be processed: it was flagged by a checker."
            return _model_error(
                "prompt", "content_policy_violation", message, prediction
            )
        case Stage.UNREADABLE:
            message = "Failed to load the image."
            return _model_error("image_url", "image_load_error", message, prediction)
        case Stage.FAILED:
            return _request_error(500, "Runner failed", kind="runner_server_error")
        case Stage.WAITING | Stage.RUNNING | Stage.UNDOCUMENTED:
            return _request_error(400, "Request is still in progress")


def _model_error(
    field: str, kind: str, message: str, prediction: Prediction
) -> Response:
    inputs = {"prompt": prediction.spec.prompt, "image_url": prediction.spec.image}
    error = BadInputError(field, kind, message, value=inputs[field])
    headers = {"X-Fal-Retryable": "false"}
    return _json({"detail": [_detail(error)]}, 422, prediction.id, headers)


async def _initiate(api: EmulatedApi, request: Request) -> Response:
    """Start an upload as the JavaScript client does: ask for a URL, and PUT there."""
    body = await api.body(request)
    media_type = fields.text(body, "content_type")
    upload = api.expect(str(body.get("file_name", "")), media_type)
    url = api.upload_url(request, "files", upload)
    return _json({"upload_url": f"{url}?token={upload.token}", "file_url": url}, 200)


async def _put(api: EmulatedApi, request: Request) -> Response:
    # fal-client's own PUT carries the key, so this host accepts it, unlike S3.
    api.shown_key(request)
    upload = api.upload(request)
    if request.query_params.get("token") != upload.token:
        return _request_error(403, "Forbidden")
    upload.still = Still.of(await request.body())
    return Response(status_code=200)


async def _token(api: EmulatedApi, request: Request) -> Response:
    """Give the Python client a token for the CDN, which it uses in a POST."""
    api.account(request)
    content = {
        "token": api.upload_token(),
        "token_type": "Bearer",
        "base_url": api.base(request),
        "expires_at": (datetime.now(UTC) + timedelta(hours=1)).isoformat(),
    }
    return _json(content, 200)


async def _post(api: EmulatedApi, request: Request) -> Response:
    headers = request.headers
    api.check_upload_token(headers.get("authorization", "").removeprefix("Bearer "))
    media_type = headers.get("content-type", "application/octet-stream")
    upload = api.expect(headers.get("x-fal-file-name", ""), media_type)
    upload.still = Still.of(await request.body())
    return _json({"access_url": api.upload_url(request, "files", upload)}, 200)
