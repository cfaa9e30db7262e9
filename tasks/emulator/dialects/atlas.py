"""Atlas Cloud's dialect: the model id in the body, a prediction that may not be there yet.

From the docs (atlascloud.ai/docs, read 2026-11) and Atlas Cloud's ComfyUI nodes and MCP
server, whose source is the nearest thing to an SDK.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tasks.emulator import fields
from tasks.emulator.accounts import Terms
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

WORDS: Final = {
    Stage.WAITING: "starting",
    Stage.RUNNING: "processing",
    Stage.ODD: "warming_up",
    Stage.SUCCEEDED: "completed",
    Stage.FAILED: "failed",
    Stage.MODERATED: "failed",
    Stage.UNREADABLE: "failed",
}

FAILURES: Final[Mapping[Stage, Mapping[str, Any]]] = {
    Stage.FAILED: {"error": "generation failed"},
    Stage.MODERATED: {"error": "input rejected by moderation", "error_code": 1039},
    Stage.UNREADABLE: {"error": "failed to download the input image"},
}

HOUR_S: Final = 3600.0


class Atlas:
    """POST a flat body with the model in it; poll the prediction."""

    name = "atlas"
    scheme = "Bearer"
    terms = Terms(
        slots=100,
        submits_per_minute=500,
        queues=False,
        # Not documented; assumed to be as for everybody else's failed tasks.
        refunds=frozenset({Stage.FAILED, Stage.MODERATED, Stage.UNREADABLE}),
    )

    def wanted(
        self, offer: Offer, asked: Mapping[str, Any], headers: Headers
    ) -> Wanted:
        _hours(headers, "X-AtlasCloud-Request-Retention-Hours", low=0)
        keep_h = _hours(headers, "X-AtlasCloud-Object-Expiration-Hours", low=1)
        return _wanted(offer, asked, None if keep_h is None else keep_h * HOUR_S)

    def accepted(self, base: str, prediction: Prediction) -> Response:
        del base
        return Json({"code": 200, "data": {"id": prediction.id, "status": "starting"}})

    def refused(self, error: RefusedError) -> Response:
        match error:
            case UnauthorizedError():
                status, said = 401, "unauthorized"
            case NoCreditError():
                status, said = 402, "insufficient balance"
            case ThrottledError():
                status, said = 429, "rate limit exceeded"
            case BadInputError():
                status, said = 400, str(error)
            case UnknownModelError():
                status, said = 404, f"model not available: {error}"
            case NotFoundError():
                status, said = 404, str(error)
            case BrokenError():
                status, said = 500, "internal server error"
            case _:
                raise error
        return _refusal(status, said, getattr(error, "retry_after", None))

    def routes(self, desk: Desk) -> list[BaseRoute]:
        return [
            desk.route("POST", "/api/v1/model/generateVideo", "submit", _submit),
            desk.route("GET", "/api/v1/model/prediction/{id}", "poll", _poll),
            desk.route("POST", "/api/v1/model/uploadMedia", "upload", _upload),
            desk.route("GET", "/uploads/{id}/{filename}", "still", send_still),
            desk.route("GET", "/api/v1/models", "check", _models),
            desk.route("POST", "/api/v1/model/calculate", "check", _price),
            desk.route("GET", "/public/v1/balance", "check", _balance),
            desk.route("GET", "/{page:path}", "lost", _lost),
            desk.route("POST", "/{page:path}", "lost", _lost),
        ]


def _wanted(offer: Offer, asked: Mapping[str, Any], keep_s: float | None) -> Wanted:
    resolution = fields.choice(asked, "resolution", "480p", offer.resolutions)
    seconds = fields.out_of(asked, "duration", 5, offer.durations)
    return Wanted(
        endpoint=offer.endpoint,
        image=fields.text(asked, "image"),
        prompt=fields.text(asked, "prompt"),
        seed=fields.seed(asked),
        resolution=resolution,
        duration_s=seconds,
        fps=offer.fps,
        frames=offer.fps * seconds + 1,
        price_usd=offer.price(resolution, seconds),
        keep_s=keep_s,
    )


async def _submit(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    return await desk.submit(request, fields.text(asked, "model"), asked)


async def _poll(desk: Desk, request: Request) -> Response:
    prediction, stage = await desk.poll(request, request.path_params["id"])
    if desk.world.expired(desk.account(request), prediction):
        # Its record is kept for so long, too, by whoever asks as we do.
        raise NotFoundError("prediction not found")
    done = stage is Stage.SUCCEEDED
    outputs = [desk.clip_url(request, prediction)] if done else None
    task = {"id": prediction.id, "status": WORDS[stage], "outputs": outputs}
    return Json({"code": 200, "data": task | {**FAILURES.get(stage, {})}})


async def _upload(desk: Desk, request: Request) -> Response:
    upload = await desk.form(request)
    told = {
        "type": upload.media_type,
        "download_url": desk.upload_url(request, "uploads", upload),
        "filename": upload.filename,
        "size": upload.size,
    }
    return Json({"code": 200, "data": told})


async def _models(desk: Desk, request: Request) -> Response:
    del request  # no key is needed
    models = [
        {
            "model": offer.endpoint,
            "type": "Video",
            "displayName": offer.endpoint,
            "price": {"actual": {"base_price": str(min(offer.prices_usd.values()))}},
            "display_console": True,
        }
        for offer in desk.offers.values()
    ]
    return Json({"code": 200, "data": models})


async def _price(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    model = fields.text(asked, "model")
    if (offer := desk.offers.get(model)) is None:
        raise UnknownModelError(model)
    price = float(_wanted(offer, asked, None).price_usd)
    return Json({"code": 200, "data": {"price": price, "origin_price": price}})


async def _balance(desk: Desk, request: Request) -> Response:
    credit = desk.world.credit_usd(desk.account(request))
    told = {"value": f"{credit:.6f}", "currency": "usd"}
    return Json({"object": "balance", "scope": "self", "available": told})


async def _lost(desk: Desk, request: Request) -> Response:
    # A wrong path is a 401 at Atlas, not a 404 (docs/en/errors, read 2026-11).
    del desk
    raise UnauthorizedError(f"no page {request.url.path}")


def _refusal(status: int, said: str, retry_after: int | None) -> Response:
    request_id = secrets.token_hex(8)
    headers = {"X-Request-ID": request_id}
    if retry_after is not None:
        headers["Retry-After"] = str(retry_after)
    body = {"code": status, "msg": said, "request_id": request_id, "data": None}
    return Json(body, status, headers)


def _hours(headers: Headers, name: str, *, low: int) -> int | None:
    asked = headers.get(name)
    if asked is None:
        return None
    hours = int(asked) if asked.isdecimal() else -1
    if not low <= hours <= 336:
        raise BadInputError(name, "one_of", f"{name} must be {low} to 336: {asked}")
    return hours
