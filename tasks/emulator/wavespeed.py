"""WaveSpeed's dialect: an envelope around everything, and failures with status 200.

From the docs (wavespeed.ai/docs, read 2026-11) and the Python SDK, `wavespeed` 2.0.5.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tasks.emulator import reading
from tasks.emulator.accounts import Terms
from tasks.emulator.answers import Json
from tasks.emulator.desk import Desk, send_still
from tasks.emulator.predictions import Prediction, Stage, Wanted
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
from tasks.emulator.stills import LARGEST_STILL, Still

WORDS: Final = {
    Stage.WAITING: "created",
    Stage.RUNNING: "processing",
    Stage.ODD: "warming_up",
    Stage.SUCCEEDED: "completed",
    Stage.FAILED: "failed",
    Stage.MODERATED: "failed",
    Stage.UNREADABLE: "failed",
    Stage.CANCELLED: "deleted",
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


class WaveSpeed:
    """POST the model id as the path; poll the prediction."""

    name = "wavespeed"
    scheme = "Bearer"
    terms = Terms(
        slots=100,
        submits_per_minute=500,
        queues=True,
        refunds=frozenset(
            {Stage.FAILED, Stage.MODERATED, Stage.UNREADABLE, Stage.CANCELLED}
        ),
    )

    def wanted(
        self, offer: Offer, asked: Mapping[str, Any], headers: Headers
    ) -> Wanted:
        del headers
        resolution = _resolution(offer, asked)
        seconds = reading.out_of(asked, "duration", 5, offer.durations)
        return Wanted(
            endpoint=offer.endpoint,
            image=reading.text(asked, "image"),
            prompt=reading.text(asked, "prompt"),
            seed=reading.seed(asked),
            resolution=resolution,
            duration_s=seconds,
            fps=offer.fps,
            frames=offer.fps * seconds + 1,
            price_usd=offer.price(resolution, seconds),
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        return _enveloped(_task(base, prediction, Stage.WAITING, []))

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
        one = "/api/v3/predictions/{id}"
        return [
            desk.route("POST", "/api/v3/media/uploads", "upload", _ticket),
            desk.route("GET", "/uploads/{id}/{filename}", "still", send_still),
            desk.route("PUT", "/uploads/{id}/{filename}", "upload", _put),
            desk.route("POST", "/api/v3/media/upload/binary", "upload", _form),
            desk.route("GET", f"{one}/result", "poll", _poll),
            desk.route("GET", one, "poll", _poll),
            desk.route("DELETE", one, "cancel", _delete),
            desk.route("POST", "/api/v3/{model:path}", "submit", _submit),
            desk.route("GET", "/{page:path}", "lost", _lost),
        ]


async def _submit(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    if asked.get("enable_sync_mode"):
        said = "the emulator has no sync mode"
        raise BadInputError("enable_sync_mode", "one_of", said)
    return await desk.submit(request, request.path_params["model"], asked)


async def _poll(desk: Desk, request: Request) -> Response:
    prediction, stage = await desk.poll(request, request.path_params["id"])
    outputs = [desk.clip_url(request, prediction)]
    return _enveloped(_task(desk.base(request), prediction, stage, outputs))


async def _delete(desk: Desk, request: Request) -> Response:
    account = desk.account(request)
    gone, _ = desk.world.cancel(account, request.path_params["id"])
    return _enveloped({"id": gone.id, "status": "deleted"})


async def _lost(desk: Desk, request: Request) -> Response:
    del desk
    raise NotFoundError(f"no page {request.url.path}")


def _enveloped(content: Mapping[str, Any]) -> Response:
    return Json({"code": 200, "message": "success", "data": content})


def _task(
    base: str, prediction: Prediction, stage: Stage, outputs: list[str]
) -> dict[str, Any]:
    if prediction.deleted:
        stage = Stage.CANCELLED
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
        return reading.choice(shorter, "resolution", "480p", offer.resolutions)
    return reading.choice(asked, "resolution", "480p", offer.resolutions)


async def _ticket(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    filename = reading.text(asked, "filename")
    reading.between(asked, "size", 0, low=1, high=LARGEST_STILL)
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


async def _put(desk: Desk, request: Request) -> Response:
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
