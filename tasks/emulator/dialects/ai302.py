"""302.AI's dialect: WaveSpeed's API behind a prefix, beside 302.AI's own API.

From the docs (doc-en.302.ai, read 2026-11) and 302.AI's client, `cli_302ai` 1.0.5. The
HTTP statuses of its error codes are not documented: they are guesses, except for 503 with
-10008, which a public client has seen.
"""

import secrets
from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tasks.emulator import fields, pages
from tasks.emulator.accounts import Terms
from tasks.emulator.api import EmulatedApi, Handler
from tasks.emulator.dialects import wavespeed
from tasks.emulator.predictions import ClipSpec, Prediction, Stage, status_words
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
    worded,
)
from tasks.emulator.responses import Json, wait_headers

WAVESPEED: Final = "wavespeed-ai/"
RESOLD: Final = wavespeed.WaveSpeed()
"""The dialect of the pages that 302.AI passes on."""

REFUSED: Final[Mapping[type[RefusedError], tuple[int, int | None, str]]] = {
    UnauthorizedError: (401, -10001, "API key missing or invalid"),
    NoCreditError: (402, -10004, "Insufficient balance"),
    CappedError: (429, -10007, "The daily quota has been used up"),
    ThrottledError: (429, -10012, "The hourly quota has been used up"),
    BadInputError: (400, -10003, "Parameter error: {}"),
    UnknownModelError: (503, -10008, "No available models currently"),
    NotFoundError: (404, None, "{}"),
    BrokenError: (500, -1024, "Upstream timeout"),
}
"""HTTP status, code and message of each refusal."""

WORDS: Final = status_words(
    waiting="pending",
    running="processing",
    undocumented="warming_up",
    succeeded="completed",
    failed="failed",
)
ERRORS: Final = {
    Stage.FAILED: "video generation failed",
    Stage.MODERATED: "the input did not pass moderation",
    Stage.UNREADABLE: "the image could not be read",
}


class Ai302:
    """Two APIs, one account."""

    name = "302ai"
    scheme = "Bearer"
    # 302.AI documents no refunds, so the emulator refunds nothing.
    terms = Terms(slots=100, submits_per_minute=500, queues=True, refunds=frozenset())

    def parse(
        self, offer: Offer, body: Mapping[str, Any], headers: Headers
    ) -> ClipSpec:
        del headers
        if offer.model.startswith(WAVESPEED):
            return wavespeed.parse(offer, body)
        size = {resolution.upper() for resolution in offer.resolutions}
        resolution = fields.choice(body, "resolution", "720P", size).lower()
        return offer.by_seconds(
            resolution,
            fields.out_of(body, "duration", 5, offer.durations),
            image=_image(body),
            prompt=fields.text(body, "prompt"),
            seed=fields.seed(body),
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        if prediction.spec.model.startswith(WAVESPEED):
            return wavespeed.accepted(f"{base}/ws", prediction)
        content = {
            "task_id": prediction.id,
            "status": "pending",
            "created_at": prediction.accepted_date,
        }
        return Json(content, 200, {"request-id": _record_id(prediction)})

    def refused(self, error: RefusedError) -> Response:
        status, code, message = worded(error, REFUSED)
        content: dict[str, object] = {} if code is None else {"err_code": code}
        content |= {"message": message.format(error), "type": "api_error"}
        content["id"] = secrets.token_hex(8)
        return Json({"error": content}, status, wait_headers(error))

    def routes(self, api: EmulatedApi) -> list[BaseRoute]:
        put = wavespeed.put_still
        return [
            api.route("GET", "/uploads/{id}/{filename}", "still", pages.send_still),
            api.route("PUT", "/uploads/{id}/{filename}", "upload", put),
            *(
                api.route(method, f"/ws{path}", kind, _passed_on(handler))
                for method, path, kind, handler in wavespeed.PAGES
            ),
            api.route("POST", "/302/v2/video/create", "submit", _create),
            api.route("GET", "/302/v2/video/fetch/{id}", "poll", pages.job(_fetch)),
            api.route("GET", "/dashboard/balance", "check", _balance),
            api.route("GET", "/dashboard/record/{id}", "charge", _record),
            *(api.route(*page) for page in pages.not_found("GET", "POST")),
        ]


def _passed_on(handler: Handler) -> Handler:
    """Return a page of WaveSpeed's that also refuses in WaveSpeed's words."""

    async def page(api: EmulatedApi, request: Request) -> Response:
        try:
            return await handler(api, request)
        except GatewayError:
            raise
        except RefusedError as error:
            return RESOLD.refused(error)

    return page


async def _create(api: EmulatedApi, request: Request) -> Response:
    body = await api.body(request)
    return await api.submit(request, fields.text(body, "model"), body)


def _fetch(
    api: EmulatedApi, request: Request, prediction: Prediction, stage: Stage
) -> Response:
    is_ready = stage is Stage.SUCCEEDED
    return Json(
        {
            "task_id": prediction.id,
            "status": WORDS[stage],
            "video_url": api.clip_url(request, prediction) if is_ready else None,
            "model": prediction.spec.model,
            "created_at": prediction.accepted_date,
            "error": ERRORS.get(stage),
            "ai302_cost_request_ids": _record_id(prediction),
        }
    )


async def _balance(api: EmulatedApi, request: Request) -> Response:
    credit = api.state.credit_usd(api.account(request))
    return Json({"data": {"balance": f"{credit:.4f}"}})


async def _record(api: EmulatedApi, request: Request) -> Response:
    account, record = api.account(request), request.path_params["id"]
    for prediction in api.state.listed(account):
        if _record_id(prediction) == record:
            price = prediction.spec.price_usd
            return Json({"data": {"request_id": record, "cost": float(price)}})
    raise NotFoundError(f"no record {record}")


def _image(body: Mapping[str, Any]) -> str:
    """Return the still: a link or a data URL, alone or in a list of one."""
    match body.get("image"):
        case [only]:
            return fields.text({"image": only}, "image")
        case _:
            return fields.text(body, "image")


def _record_id(prediction: Prediction) -> str:
    return f"req-{prediction.id}"
