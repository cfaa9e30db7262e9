"""WaveSpeed's dialect: an envelope around everything, and failures with status 200.

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

from tasks.emulator import fields
from tasks.emulator.accounts import Terms
from tasks.emulator.dialects.predictions import Prediction, Stage, Wanted
from tasks.emulator.endpoint import Desk, Handler, send_still
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
from tasks.emulator.uploads import LARGEST_STILL, Still

WORDS: Final = {
    Stage.WAITING: "created",
    Stage.RUNNING: "processing",
    Stage.ODD: "warming_up",
    Stage.SUCCEEDED: "completed",
    Stage.FAILED: "failed",
    Stage.MODERATED: "failed",
    Stage.UNREADABLE: "failed",
}

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


def wanted(offer: Offer, asked: Mapping[str, Any]) -> Wanted:
    resolution = _resolution(offer, asked)
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
    )


class WaveSpeed:
    """POST the model id as the path; poll the prediction."""

    name = "wavespeed"
    scheme = "Bearer"
    terms = Terms(
        slots=100,
        submits_per_minute=500,
        queues=True,
        refunds=frozenset({Stage.FAILED, Stage.MODERATED, Stage.UNREADABLE}),
    )

    def wanted(
        self, offer: Offer, asked: Mapping[str, Any], headers: Headers
    ) -> Wanted:
        del headers
        return wanted(offer, asked)

    def accepted(self, base: str, prediction: Prediction) -> Response:
        return accepted(base, prediction)

    def refused(self, error: RefusedError) -> Response:
        headers: dict[str, str] = {}
        match error:
            case UnauthorizedError():
                status, said = 401, "Unauthorized: authentication failed"
            case NoCreditError():
                status, said = 400, "Insufficient credits. Please top up."
            case ThrottledError(retry_after=retry_after):
                status, said = 429, "Too Many Requests"
                if retry_after is not None:
                    headers["Retry-After"] = str(retry_after)
            case BadInputError():
                status, said = 400, str(error)
            case UnknownModelError():
                status, said = 404, f"model not found: {error}"
            case NotFoundError():
                status, said = 404, str(error)
            case BrokenError():
                status, said = 500, "Internal Server Error"
            case _:
                raise error
        return Json({"code": status, "message": said}, status, headers)

    def routes(self, desk: Desk) -> list[BaseRoute]:
        return [
            desk.route("GET", "/uploads/{id}/{filename}", "still", send_still),
            desk.route("PUT", "/uploads/{id}/{filename}", "upload", put_still),
            *(desk.route(*page) for page in PAGES),
            desk.route("GET", "/{page:path}", "lost", _lost),
        ]


def accepted(base: str, prediction: Prediction) -> Response:
    return _enveloped(_task(base, prediction, Stage.WAITING, []))


async def _submit(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    if asked.get("enable_sync_mode"):
        said = "the emulator has no sync mode"
        raise BadInputError("enable_sync_mode", "one_of", said)
    return await desk.submit(request, request.path_params["model"], asked)


async def _poll(desk: Desk, request: Request) -> Response:
    prediction, stage = await desk.poll(request, request.path_params["id"])
    outputs = [desk.clip_url(request, prediction)]
    return _enveloped(_task(_here(request), prediction, stage, outputs))


async def _lost(desk: Desk, request: Request) -> Response:
    del desk
    raise NotFoundError(f"no page {request.url.path}")


async def _balance(desk: Desk, request: Request) -> Response:
    credit = desk.world.credit_usd(desk.account(request))
    return _enveloped({"balance": float(credit)})


async def _models(desk: Desk, request: Request) -> Response:
    desk.account(request)
    listed = [
        {
            "model_id": offer.endpoint,
            "name": offer.endpoint,
            "type": "image-to-video",
            "base_price": float(min(offer.prices_usd.values())),
        }
        for offer in desk.offers.values()
    ]
    return _enveloped(listed)


async def _price(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    model = fields.text(asked, "model_id")
    if (offer := desk.offers.get(model)) is None:
        raise UnknownModelError(model)
    try:
        price = float(wanted(offer, asked.get("inputs") or {}).price_usd)
    except BadInputError:  # what is not there is not missed: it names the lowest price
        price = float(min(offer.prices_usd.values()))
    told = {"model_id": model, "price": price, "discounted_price": price}
    return _enveloped(told | {"discount_rate": 1, "currency": "USD"})


async def _listing(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    page = fields.between(asked, "page", 1, low=1, high=2**31)
    size = fields.between(asked, "page_size", 100, low=1, high=100)
    after = _moment(asked, "created_after", "0001-01-01T00:00:00Z")
    before = _moment(asked, "created_before", "9999-01-01T00:00:00Z")
    found = [
        made
        for made in desk.world.listed(desk.account(request))
        if after <= datetime.fromisoformat(made.accepted_date) <= before
        and made.wanted.endpoint == asked.get("model", made.wanted.endpoint)
    ]
    items = [_listed(desk, request, made) for made in found[(page - 1) * size :][:size]]
    return _enveloped({"page": page, "items": items})


def _moment(asked: Mapping[str, Any], field: str, default: str) -> datetime:
    said = asked.get(field, default)
    try:
        moment = datetime.fromisoformat(said)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (TypeError, ValueError):
        raise BadInputError(field, "date", f"{field}: not a date: {said}") from None


def _listed(desk: Desk, request: Request, made: Prediction) -> dict[str, Any]:
    """An item of a listing: as documented, it does not say what was asked for."""
    outputs = [desk.clip_url(request, made)]
    task = _task(_here(request), made, made.stage, outputs)
    kept = "id model outputs status created_at executionTime timings".split()
    return {fact: task[fact] for fact in kept}


def _here(request: Request) -> str:
    """Its own address, as this client reached it: maybe through who resells it."""
    return str(request.url).partition("/api/v3")[0]


def _enveloped(content: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Response:
    return Json({"code": 200, "message": "success", "data": content})


def _task(
    base: str, prediction: Prediction, stage: Stage, outputs: list[str]
) -> dict[str, Any]:
    code, error = FAILURES.get(stage, (None, ""))
    ran_ms = round(prediction.inference_s * 1000)
    done = stage is Stage.SUCCEEDED
    return {
        "id": prediction.id,
        "model": prediction.wanted.endpoint,
        "outputs": outputs if done else [],
        "urls": {"get": f"{base}/api/v3/predictions/{prediction.id}/result"},
        "has_nsfw_contents": [False] if done else [],
        "status": WORDS[stage],
        "created_at": prediction.accepted_date,
        "error": error,
        "executionTime": ran_ms,
        "timings": {"inference": ran_ms},
    } | ({} if code is None else {"code": code})


def _resolution(offer: Offer, asked: Mapping[str, Any]) -> str:
    """By `resolution`, or by `size` where a model has that: 832*480, or 480*832."""
    if len(offer.resolutions) == 1:
        return next(iter(offer.resolutions))
    sides = re.findall(r"\d+", str(asked.get("size", "")))
    if "resolution" not in asked and sides:
        shorter = {"resolution": f"{min(map(int, sides))}p"}
        return fields.choice(shorter, "resolution", "480p", offer.resolutions)
    return fields.choice(asked, "resolution", "480p", offer.resolutions)


async def _ticket(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    filename = fields.text(asked, "filename")
    fields.between(asked, "size", 0, low=1, high=LARGEST_STILL)
    media_type = str(asked.get("content_type") or "application/octet-stream")
    upload = desk.expect(filename, media_type)
    url = desk.upload_url(request, "uploads", upload)
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


async def put_still(desk: Desk, request: Request) -> Response:
    upload = desk.upload(request)
    if desk.shown_key(request):
        return Response(TWO_PROOFS, 400, media_type="application/xml")
    signed = request.query_params.get("X-Amz-Signature") == upload.token
    if not signed or request.headers.get("content-type") != upload.media_type:
        return Response(BAD_SIGNATURE, 403, media_type="application/xml")
    upload.still = Still.of(await request.body())
    return Response(status_code=200)


async def _form(desk: Desk, request: Request) -> Response:
    """How stills were handed over before there were tickets."""
    upload = await desk.form(request)
    return _enveloped(
        {
            "type": upload.media_type,
            "download_url": desk.upload_url(request, "uploads", upload),
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
    ("GET", "/api/v3/predictions/{id}/result", "poll", _poll),
    ("GET", "/api/v3/predictions/{id}", "poll", _poll),
    ("POST", "/api/v3/{model:path}", "submit", _submit),
)
"""Its API: method, path, kind, and who answers."""
