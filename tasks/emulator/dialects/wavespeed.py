"""WaveSpeed's dialect: an envelope around every answer, and failures with status 200.

From the docs (wavespeed.ai/docs, read 2026-11) and the Python SDK, `wavespeed` 2.0.5.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tasks.emulator import fields, pages
from tasks.emulator.accounts import Terms
from tasks.emulator.api import EmulatedApi, Handler
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
from tasks.emulator.uploads import LARGEST_STILL, Still

WORDS: Final = status_words(
    waiting="created",
    running="processing",
    undocumented="warming_up",
    succeeded="completed",
    failed="failed",
)

FAILURES: Final = {
    Stage.FAILED: (1405, "Request failed. Please check your input parameters"),
    Stage.MODERATED: (1200, "Content flagged as potentially sensitive"),
    Stage.UNREADABLE: (1402, "Failed to fetch the media"),
}
"""The task codes of wavespeed.ai/docs/error-codes; the texts are not documented."""

SIGNED = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Expires=3600&X-Amz-Signature="

# An S3 host refuses a request that is signed in its URL and carries a key as well.
TWO_PROOFS: Final = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>InvalidArgument</Code>'
    b"<Message>Only one auth mechanism allowed</Message></Error>"
)
BAD_SIGNATURE: Final = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SignatureDoesNotMatch</Code>'
    b"</Error>"
)


REFUSED: Final[Mapping[type[RefusedError], tuple[int, str]]] = {
    UnauthorizedError: (401, "Unauthorized: authentication failed"),
    NoCreditError: (400, "Insufficient credits. Please top up."),
    ThrottledError: (429, "Too Many Requests"),
    BadInputError: (400, "{}"),
    UnknownModelError: (404, "model not found: {}"),
    NotFoundError: (404, "{}"),
    BrokenError: (500, "Internal Server Error"),
}
"""HTTP status and message of each refusal."""


def parse(offer: Offer, body: Mapping[str, Any]) -> ClipSpec:
    return offer.by_seconds(
        _resolution(offer, body),
        fields.out_of(body, "duration", 5, offer.durations),
        image=fields.text(body, "image"),
        prompt=fields.text(body, "prompt"),
        seed=fields.seed(body),
    )


class WaveSpeed:
    """A submit POSTs to the model's id; a poll asks for the prediction."""

    name = "wavespeed"
    scheme = "Bearer"
    terms = Terms(
        slots=100,
        submits_per_minute=500,
        queues=True,
        refunds=UNPAID_FAILURES,
    )

    def parse(
        self, offer: Offer, body: Mapping[str, Any], headers: Headers
    ) -> ClipSpec:
        del headers
        return parse(offer, body)

    def accepted(self, base: str, prediction: Prediction) -> Response:
        return accepted(base, prediction)

    def refused(self, error: RefusedError) -> Response:
        status, message = worded(error, REFUSED)
        content = {"code": status, "message": message.format(error)}
        return Json(content, status, wait_headers(error))

    def routes(self, api: EmulatedApi) -> list[BaseRoute]:
        return [
            api.route("GET", "/uploads/{id}/{filename}", "still", pages.send_still),
            api.route("PUT", "/uploads/{id}/{filename}", "upload", put_still),
            *(api.route(*page) for page in PAGES),
            *(api.route(*page) for page in pages.not_found("GET")),
        ]


def accepted(base: str, prediction: Prediction) -> Response:
    return _enveloped(_task(base, prediction, Stage.WAITING, []))


async def _submit(api: EmulatedApi, request: Request) -> Response:
    body = await api.body(request)
    if body.get("enable_sync_mode"):
        message = "the emulator has no sync mode"
        raise BadInputError("enable_sync_mode", "one_of", message)
    return await api.submit(request, request.path_params["model"], body)


def _poll(
    api: EmulatedApi, request: Request, prediction: Prediction, stage: Stage
) -> Response:
    outputs = [api.clip_url(request, prediction)]
    return _enveloped(_task(_here(request), prediction, stage, outputs))


async def _balance(api: EmulatedApi, request: Request) -> Response:
    credit = api.state.credit_usd(api.account(request))
    return _enveloped({"balance": float(credit)})


async def _models(api: EmulatedApi, request: Request) -> Response:
    api.account(request)
    listed = [
        {
            "model_id": offer.model,
            "name": offer.model,
            "type": "image-to-video",
            "base_price": float(min(offer.prices_usd.values())),
        }
        for offer in api.offers.values()
    ]
    return _enveloped(listed)


async def _price(api: EmulatedApi, request: Request) -> Response:
    body = await api.body(request)
    offer = api.offer(fields.text(body, "model_id"))
    try:
        price = float(parse(offer, body.get("inputs") or {}).price_usd)
    except BadInputError:  # without a field, the lowest price is the answer
        price = float(min(offer.prices_usd.values()))
    prices = {"price": price, "discounted_price": price, "discount_rate": 1}
    return _enveloped({"model_id": offer.model, **prices, "currency": "USD"})


async def _listing(api: EmulatedApi, request: Request) -> Response:
    body = await api.body(request)
    page = fields.between(body, "page", 1, low=1, high=2**31)
    size = fields.between(body, "page_size", 100, low=1, high=100)
    after = _moment(body, "created_after", "0001-01-01T00:00:00Z")
    before = _moment(body, "created_before", "9999-01-01T00:00:00Z")
    found = [
        made
        for made in api.state.listed(api.account(request))
        if after <= datetime.fromisoformat(made.accepted_date) <= before
        and made.spec.model == body.get("model", made.spec.model)
    ]
    items = [_listed(api, request, made) for made in found[(page - 1) * size :][:size]]
    return _enveloped({"page": page, "items": items})


def _moment(body: Mapping[str, Any], field: str, default: str) -> datetime:
    value = body.get(field, default)
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        raise BadInputError(field, "date", f"{field}: not a date: {value}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _listed(api: EmulatedApi, request: Request, made: Prediction) -> dict[str, Any]:
    """Return an item of a listing, which as documented has no inputs."""
    outputs = [api.clip_url(request, made)]
    task = _task(_here(request), made, made.stage, outputs)
    names = "id model outputs status created_at executionTime timings".split()
    return {name: task[name] for name in names}


def _here(request: Request) -> str:
    """Return the API's address as this client reached it, perhaps at a reseller's."""
    return str(request.url).partition("/api/v3")[0]


def _enveloped(content: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Response:
    return Json({"code": 200, "message": "success", "data": content})


def _task(
    base: str, prediction: Prediction, stage: Stage, outputs: list[str]
) -> dict[str, Any]:
    code, error = FAILURES.get(stage, (None, ""))
    ran_ms = round(prediction.inference_s * 1000)
    is_ready = stage is Stage.SUCCEEDED
    return {
        "id": prediction.id,
        "model": prediction.spec.model,
        "outputs": outputs if is_ready else [],
        "urls": {"get": f"{base}/api/v3/predictions/{prediction.id}/result"},
        "has_nsfw_contents": [False] if is_ready else [],
        "status": WORDS[stage],
        "created_at": prediction.accepted_date,
        "error": error,
        "executionTime": ran_ms,
        "timings": {"inference": ran_ms},
    } | ({} if code is None else {"code": code})


def _resolution(offer: Offer, body: Mapping[str, Any]) -> str:
    """Return the resolution of `resolution` or of `size`, such as 832*480 or 480*832."""
    if len(offer.resolutions) == 1:
        return next(iter(offer.resolutions))
    sides = re.findall(r"\d+", str(body.get("size", "")))
    if "resolution" not in body and sides:
        shorter = {"resolution": f"{min(map(int, sides))}p"}
        return fields.choice(shorter, "resolution", "480p", offer.resolutions)
    return fields.choice(body, "resolution", "480p", offer.resolutions)


async def _ticket(api: EmulatedApi, request: Request) -> Response:
    body = await api.body(request)
    filename = fields.text(body, "filename")
    fields.between(body, "size", 0, low=1, high=LARGEST_STILL)
    media_type = str(body.get("content_type") or "application/octet-stream")
    upload = api.expect(filename, media_type)
    url = api.upload_url(request, "uploads", upload)
    return _enveloped(
        {
            "download_url": url,
            "upload": {
                "method": "PUT",
                "url": f"{url}?{SIGNED}{upload.token}",
                "headers": {"Content-Type": media_type},
            },
        }
    )


async def put_still(api: EmulatedApi, request: Request) -> Response:
    upload = api.upload(request)
    if api.shown_key(request):
        return Response(TWO_PROOFS, 400, media_type="application/xml")
    signed = request.query_params.get("X-Amz-Signature") == upload.token
    if not signed or request.headers.get("content-type") != upload.media_type:
        return Response(BAD_SIGNATURE, 403, media_type="application/xml")
    upload.still = Still.of(await request.body())
    return Response(status_code=200)


async def _form(api: EmulatedApi, request: Request) -> Response:
    """Take an upload by the older way, a form."""
    upload = await pages.take_form(api, request)
    return _enveloped(
        {
            "type": upload.media_type,
            "download_url": api.upload_url(request, "uploads", upload),
            "filename": upload.filename,
            "size": upload.size,
        }
    )


PAGES: Final[Sequence[tuple[str, str, str, Handler]]] = (
    ("POST", "/api/v3/media/uploads", "upload", _ticket),
    ("POST", "/api/v3/media/upload/binary", "upload", _form),
    ("GET", "/api/v3/balance", "check", _balance),
    ("GET", "/api/v3/models", "check", _models),
    ("POST", "/api/v3/model/price", "check", _price),
    ("POST", "/api/v3/predictions", "list", _listing),
    ("GET", "/api/v3/predictions/{id}/result", "poll", pages.job(_poll)),
    ("GET", "/api/v3/predictions/{id}", "poll", pages.job(_poll)),
    ("POST", "/api/v3/{model:path}", "submit", _submit),
)
"""The pages of the API: method, path, kind and handler."""
