"""Atlas Cloud's dialect: the model id in the body, and a delay before polls find a job.

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

from tasks.emulator import fields, pages
from tasks.emulator.accounts import Terms
from tasks.emulator.api import EmulatedApi
from tasks.emulator.predictions import (
    UNPAID_FAILURES,
    ClipSpec,
    Prediction,
    Stage,
    status_words,
)
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

WORDS: Final = status_words(
    waiting="starting",
    running="processing",
    undocumented="warming_up",
    succeeded="completed",
    failed="failed",
)

FAILURES: Final[Mapping[Stage, Mapping[str, Any]]] = {
    Stage.FAILED: {"error": "generation failed"},
    Stage.MODERATED: {"error": "input rejected by moderation", "error_code": 1039},
    Stage.UNREADABLE: {"error": "failed to download the input image"},
}

REFUSED: Final[Mapping[type[RefusedError], tuple[int, str]]] = {
    UnauthorizedError: (401, "unauthorized"),
    NoCreditError: (402, "insufficient balance"),
    ThrottledError: (429, "rate limit exceeded"),
    BadInputError: (400, "{}"),
    UnknownModelError: (404, "model not available: {}"),
    NotFoundError: (404, "{}"),
    BrokenError: (500, "internal server error"),
}
"""HTTP status and message of each refusal."""

HOUR_S: Final = 3600.0


class Atlas:
    """A submit POSTs a flat body that names the model; a poll asks for the prediction."""

    name = "atlas"
    scheme = "Bearer"
    terms = Terms(
        slots=100,
        submits_per_minute=500,
        queues=False,
        # Not documented; assumed to be the same as at other providers.
        refunds=UNPAID_FAILURES,
    )

    def parse(
        self, offer: Offer, body: Mapping[str, Any], headers: Headers
    ) -> ClipSpec:
        _hours(headers, "X-AtlasCloud-Request-Retention-Hours", low=0)
        keep_h = _hours(headers, "X-AtlasCloud-Object-Expiration-Hours", low=1)
        return _parse(offer, body, None if keep_h is None else keep_h * HOUR_S)

    def accepted(self, base: str, prediction: Prediction) -> Response:
        del base
        return Json({"code": 200, "data": {"id": prediction.id, "status": "starting"}})

    def refused(self, error: RefusedError) -> Response:
        status, message = worded(error, REFUSED)
        request_id = secrets.token_hex(8)
        headers = {"X-Request-ID": request_id, **wait_headers(error)}
        content = {"code": status, "msg": message.format(error)}
        content |= {"request_id": request_id, "data": None}
        return Json(content, status, headers)

    def routes(self, api: EmulatedApi) -> list[BaseRoute]:
        return [
            api.route("POST", "/api/v1/model/generateVideo", "submit", _submit),
            api.route("GET", "/api/v1/model/prediction/{id}", "poll", pages.job(_poll)),
            api.route("POST", "/api/v1/model/uploadMedia", "upload", _upload),
            api.route("GET", "/uploads/{id}/{filename}", "still", pages.send_still),
            api.route("GET", "/api/v1/models", "check", _models),
            api.route("POST", "/api/v1/model/calculate", "check", _price),
            api.route("GET", "/public/v1/balance", "check", _balance),
            api.route("GET", "/{page:path}", "lost", _lost),
            api.route("POST", "/{page:path}", "lost", _lost),
        ]


def _parse(offer: Offer, body: Mapping[str, Any], keep_s: float | None) -> ClipSpec:
    return offer.by_seconds(
        fields.choice(body, "resolution", "480p", offer.resolutions),
        fields.out_of(body, "duration", 5, offer.durations),
        image=fields.text(body, "image"),
        prompt=fields.text(body, "prompt"),
        seed=fields.seed(body),
        keep_s=keep_s,
    )


async def _submit(api: EmulatedApi, request: Request) -> Response:
    body = await api.body(request)
    return await api.submit(request, fields.text(body, "model"), body)


def _poll(
    api: EmulatedApi, request: Request, prediction: Prediction, stage: Stage
) -> Response:
    if api.state.expired(api.account(request), prediction):
        # Our requests ask to keep the record as long as the clip.
        raise NotFoundError("prediction not found")
    is_ready = stage is Stage.SUCCEEDED
    outputs = [api.clip_url(request, prediction)] if is_ready else None
    task = {"id": prediction.id, "status": WORDS[stage], "outputs": outputs}
    return Json({"code": 200, "data": task | {**FAILURES.get(stage, {})}})


async def _upload(api: EmulatedApi, request: Request) -> Response:
    upload = await pages.take_form(api, request)
    content = {
        "type": upload.media_type,
        "download_url": api.upload_url(request, "uploads", upload),
        "filename": upload.filename,
        "size": upload.size,
    }
    return Json({"code": 200, "data": content})


async def _models(api: EmulatedApi, request: Request) -> Response:
    del request  # needs no key
    models = [
        {
            "model": offer.model,
            "type": "Video",
            "displayName": offer.model,
            "price": {"actual": {"base_price": str(min(offer.prices_usd.values()))}},
            "display_console": True,
        }
        for offer in api.offers.values()
    ]
    return Json({"code": 200, "data": models})


async def _price(api: EmulatedApi, request: Request) -> Response:
    body = await api.body(request)
    offer = api.offer(fields.text(body, "model"))
    price = float(_parse(offer, body, None).price_usd)
    return Json({"code": 200, "data": {"price": price, "origin_price": price}})


async def _balance(api: EmulatedApi, request: Request) -> Response:
    credit = api.state.credit_usd(api.account(request))
    available = {"value": f"{credit:.6f}", "currency": "usd"}
    return Json({"object": "balance", "scope": "self", "available": available})


async def _lost(api: EmulatedApi, request: Request) -> Response:
    # Atlas answers a wrong path with 401, not 404 (docs/en/errors, read 2026-11).
    del api
    raise UnauthorizedError(f"no page {request.url.path}")


def _hours(headers: Headers, name: str, *, low: int) -> int | None:
    value = headers.get(name)
    if value is None:
        return None
    hours = int(value) if value.isdecimal() else -1
    if not low <= hours <= 336:
        raise BadInputError(name, "one_of", f"{name} must be {low} to 336: {value}")
    return hours
