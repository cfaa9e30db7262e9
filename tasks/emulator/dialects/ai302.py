"""302.AI's dialect: WaveSpeed's API behind a prefix, and an API of its own beside it.

From the docs (doc-en.302.ai, read 2026-11) and 302.AI's client, `cli_302ai` 1.0.5. Which
HTTP status goes with which of its error codes is not documented: these are guesses, but
for 503 with -10008, which a public client has seen.
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
from tasks.emulator.dialects import wavespeed
from tasks.emulator.dialects.predictions import Prediction, Stage, Wanted
from tasks.emulator.endpoint import Desk, Handler, send_still
from tasks.emulator.prices import Offer
from tasks.emulator.refusals import (
    BadInputError,
    BrokenError,
    CappedError,
    GatewayError,
    NoCreditError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    UnauthorizedError,
    UnknownModelError,
)
from tasks.emulator.responses import Json

WAVESPEED: Final = "wavespeed-ai/"
BEHIND: Final = wavespeed.WaveSpeed()
"""Who words what is passed on."""

WORDS: Final = {
    Stage.WAITING: "pending",
    Stage.RUNNING: "processing",
    Stage.ODD: "warming_up",
    Stage.SUCCEEDED: "completed",
    Stage.FAILED: "failed",
    Stage.MODERATED: "failed",
    Stage.UNREADABLE: "failed",
}
ERRORS: Final = {
    Stage.FAILED: "video generation failed",
    Stage.MODERATED: "the input did not pass moderation",
    Stage.UNREADABLE: "the image could not be read",
}


class Ai302:
    """Two doors, one account."""

    name = "302ai"
    scheme = "Bearer"
    # Of refunds 302.AI says nothing: none is the dearest guess.
    terms = Terms(slots=100, submits_per_minute=500, queues=True, refunds=frozenset())

    def wanted(
        self, offer: Offer, asked: Mapping[str, Any], headers: Headers
    ) -> Wanted:
        del headers
        if offer.endpoint.startswith(WAVESPEED):
            return wavespeed.wanted(offer, asked)
        size = {resolution.upper() for resolution in offer.resolutions}
        resolution = fields.choice(asked, "resolution", "720P", size).lower()
        seconds = fields.out_of(asked, "duration", 5, offer.durations)
        return Wanted(
            endpoint=offer.endpoint,
            image=_image(asked),
            prompt=fields.text(asked, "prompt"),
            seed=fields.seed(asked),
            resolution=resolution,
            duration_s=seconds,
            fps=offer.fps,
            frames=offer.fps * seconds + 1,
            price_usd=offer.price(resolution, seconds),
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        if prediction.wanted.endpoint.startswith(WAVESPEED):
            return wavespeed.accepted(f"{base}/ws", prediction)
        told = {
            "task_id": prediction.id,
            "status": "pending",
            "created_at": prediction.accepted_date,
        }
        return Json(told, 200, {"request-id": _record_id(prediction)})

    def refused(self, error: RefusedError) -> Response:
        headers: dict[str, str] = {}
        match error:
            case UnauthorizedError():
                status, code, said = 401, -10001, "API key missing or invalid"
            case NoCreditError():
                status, code, said = 402, -10004, "Insufficient balance"
            case CappedError():
                status, code, said = 429, -10007, "The daily quota has been used up"
            case ThrottledError(retry_after=retry_after):
                status, code, said = 429, -10012, "The hourly quota has been used up"
                if retry_after is not None:
                    headers["Retry-After"] = str(retry_after)
            case BadInputError():
                status, code, said = 400, -10003, f"Parameter error: {error}"
            case UnknownModelError():
                status, code, said = 503, -10008, "No available models currently"
            case NotFoundError():
                status, code, said = 404, None, str(error)
            case BrokenError():
                status, code, said = 500, -1024, "Upstream timeout"
            case _:
                raise error
        return _refusal(status, code, said, headers)

    def routes(self, desk: Desk) -> list[BaseRoute]:
        put = wavespeed.put_still
        return [
            desk.route("GET", "/uploads/{id}/{filename}", "still", send_still),
            desk.route("PUT", "/uploads/{id}/{filename}", "upload", put),
            *(
                desk.route(method, f"/ws{path}", kind, _passed_on(handler))
                for method, path, kind, handler in wavespeed.PAGES
            ),
            desk.route("POST", "/302/v2/video/create", "submit", _create),
            desk.route("GET", "/302/v2/video/fetch/{id}", "poll", _fetch),
            desk.route("GET", "/dashboard/balance", "check", _balance),
            desk.route("GET", "/dashboard/record/{id}", "charge", _record),
            desk.route("GET", "/{page:path}", "lost", _lost),
            desk.route("POST", "/{page:path}", "lost", _lost),
        ]


def _passed_on(handler: Handler) -> Handler:
    """A page of WaveSpeed's, refusals and all."""

    async def page(desk: Desk, request: Request) -> Response:
        try:
            return await handler(desk, request)
        except GatewayError:
            raise
        except RefusedError as error:
            return BEHIND.refused(error)

    return page


async def _create(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    return await desk.submit(request, fields.text(asked, "model"), asked)


async def _fetch(desk: Desk, request: Request) -> Response:
    prediction, stage = await desk.poll(request, request.path_params["id"])
    done = stage is Stage.SUCCEEDED
    return Json(
        {
            "task_id": prediction.id,
            "status": WORDS[stage],
            "video_url": desk.clip_url(request, prediction) if done else None,
            "model": prediction.wanted.endpoint,
            "created_at": prediction.accepted_date,
            "error": ERRORS.get(stage),
            "ai302_cost_request_ids": _record_id(prediction),
        }
    )


async def _balance(desk: Desk, request: Request) -> Response:
    credit = desk.world.credit_usd(desk.account(request))
    return Json({"data": {"balance": f"{credit:.4f}"}})


async def _record(desk: Desk, request: Request) -> Response:
    account, wanted = desk.account(request), request.path_params["id"]
    for prediction in desk.world.listed(account):
        if _record_id(prediction) == wanted:
            price = prediction.wanted.price_usd
            return Json({"data": {"request_id": wanted, "cost": float(price)}})
    raise NotFoundError(f"no record {wanted}")


async def _lost(desk: Desk, request: Request) -> Response:
    del desk
    raise NotFoundError(f"no page {request.url.path}")


def _image(asked: Mapping[str, Any]) -> str:
    """The still: a link, or base64 after `data:`; alone, or in a list of one."""
    match asked.get("image"):
        case [only]:
            return fields.text({"image": only}, "image")
        case _:
            return fields.text(asked, "image")


def _record_id(prediction: Prediction) -> str:
    return f"req-{prediction.id}"


def _refusal(
    status: int, code: int | None, said: str, headers: Mapping[str, str]
) -> Response:
    error = {"message": said, "type": "api_error", "id": secrets.token_hex(8)}
    told = error if code is None else {"err_code": code, **error}
    return Json({"error": told}, status, {**headers})
