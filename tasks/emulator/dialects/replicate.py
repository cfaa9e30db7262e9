"""Replicate's dialect: a prediction that is listed with its input, for an hour.

From the docs (replicate.com/docs, read 2026-11) and the Python SDK, `replicate` 1.0.7.
"""

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tasks.emulator import fields
from tasks.emulator.accounts import Account, Terms
from tasks.emulator.dialects.predictions import Prediction, Stage, Wanted
from tasks.emulator.endpoint import Desk
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
from tasks.emulator.uploads import Upload

PAGE: Final = 100
"""How many predictions a page of the listing has."""

BILLED_AT_FPS: Final = 16
"""The price goes by the length at 16 frames a second (the model's schema)."""

WORDS: Final = {
    Stage.WAITING: "starting",
    Stage.RUNNING: "processing",
    Stage.ODD: "warming_up",
    Stage.SUCCEEDED: "succeeded",
    Stage.FAILED: "failed",
    Stage.MODERATED: "failed",
    Stage.UNREADABLE: "failed",
}

ERRORS: Final = {
    Stage.FAILED: "Prediction interrupted; please retry (code: PA)",
    Stage.MODERATED: (
        "The input or output was flagged as sensitive. "
        "Please try again with different inputs. (E005)"
    ),
    Stage.UNREADABLE: "cannot identify image file",
}
"""As public logs have them; no page lists them."""

INSUFFICIENT: Final = (
    "You have insufficient credit to run this model. Go to "
    "https://replicate.com/account/billing#billing to purchase credit. Once you purchase "
    "credit, please wait a few minutes before trying again."
)


class Replicate:
    """POST the input to the model; poll the prediction before it is forgotten."""

    name = "replicate"
    scheme = "Bearer"
    terms = Terms(
        slots=100,
        submits_per_minute=600,
        queues=True,
        # docs, billing: runs that fail are not charged, canceled ones may be.
        refunds=frozenset({Stage.FAILED, Stage.MODERATED, Stage.UNREADABLE}),
        keep_s=3600.0,
    )

    def wanted(
        self, offer: Offer, asked: Mapping[str, Any], headers: Headers
    ) -> Wanted:
        del headers
        given = _given(asked)
        image = fields.text(given, "image")
        resolution = fields.choice(given, "resolution", "480p", offer.resolutions)
        frames = fields.between(given, "num_frames", 81, low=81, high=121)
        fps = fields.between(given, "frames_per_second", 16, low=5, high=30)
        return Wanted(
            endpoint=offer.endpoint,
            # A file that was handed over is named by its page.
            image=f"{image}/content" if "/v1/files/" in image else image,
            prompt=fields.text(given, "prompt"),
            seed=fields.seed(given),
            resolution=resolution,
            duration_s=round(frames / fps),
            fps=fps,
            frames=frames,
            price_usd=offer.price(resolution, (frames - 1) / BILLED_AT_FPS),
            asked=given,
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        return Json(_task(base, prediction, Stage.WAITING), 201)

    def refused(self, error: RefusedError) -> Response:
        match error:
            case UnauthorizedError():
                said = "You did not pass a valid authentication token"
                return _problem(401, "Unauthenticated", said)
            case NoCreditError():
                return _problem(402, "Insufficient credit", INSUFFICIENT)
            case ThrottledError(retry_after=retry_after):
                return _throttled(retry_after)
            case BadInputError():
                return _invalid(error)
            case UnknownModelError() | NotFoundError():
                said = "The requested resource could not be found."
                return _problem(404, "Not found", said)
            case BrokenError():
                return _problem(500, "Internal server error", "Something went wrong.")
            case _:
                raise error

    def routes(self, desk: Desk) -> list[BaseRoute]:
        model = "/v1/models/{owner}/{name}"
        one = "/v1/predictions/{id}"
        return [
            desk.route("POST", "/v1/files", "upload", _upload),
            desk.route("GET", "/v1/files/{id}", "still", _file),
            desk.route("POST", f"{model}/predictions", "submit", _submit),
            desk.route("GET", model, "check", _model),
            desk.route("GET", "/v1/account", "check", _account),
            desk.route("GET", "/v1/predictions", "list", _list),
            desk.route("GET", one, "poll", _poll),
            desk.route("GET", "/{page:path}", "lost", _lost),
            desk.route("POST", "/{page:path}", "lost", _lost),
        ]


async def _submit(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    return await desk.submit(request, _endpoint(request), asked)


async def _poll(desk: Desk, request: Request) -> Response:
    prediction, stage = await desk.poll(request, request.path_params["id"])
    return Json(_told(desk, request, prediction, stage))


async def _list(desk: Desk, request: Request) -> Response:
    """The newest first; a page begins after the prediction that its cursor names."""
    mine = desk.world.listed(desk.account(request))
    after = request.query_params.get("cursor")
    start = next((n for n, made in enumerate(mine, 1) if made.id == after), 0)
    page = mine[start : start + PAGE]
    more = len(mine) > start + PAGE
    here = f"{desk.base(request)}/v1/predictions"
    return Json(
        {
            "previous": None,
            "next": f"{here}?cursor={page[-1].id}" if more else None,
            "results": [_told(desk, request, made, made.stage) for made in page],
        }
    )


async def _account(desk: Desk, request: Request) -> Response:
    account: Account = desk.account(request)
    name = f"emulated-{account.fingerprint}"
    return Json({"type": "user", "username": name, "name": name, "github_url": None})


async def _model(desk: Desk, request: Request) -> Response:
    desk.account(request)
    endpoint = _endpoint(request)
    if endpoint not in desk.offers:
        raise UnknownModelError(endpoint)
    told: dict[str, Any] = dict.fromkeys(
        "description github_url paper_url license_url cover_image_url default_example "
        "latest_version".split()
    )
    owner, _, name = endpoint.partition("/")
    return Json(
        {
            "url": f"https://replicate.com/{endpoint}",
            "owner": owner,
            "name": name,
            "visibility": "public",
            "run_count": 1,
            **told,
        }
    )


async def _upload(desk: Desk, request: Request) -> Response:
    upload = await desk.form(request, "content")
    return Json(_file_of(desk, request, upload), 201)


async def _file(desk: Desk, request: Request) -> Response:
    desk.account(request)
    return Json(_file_of(desk, request, desk.upload(request)))


async def _lost(desk: Desk, request: Request) -> Response:
    del desk
    raise NotFoundError(f"no page {request.url.path}")


def _endpoint(request: Request) -> str:
    return f"{request.path_params['owner']}/{request.path_params['name']}"


def _given(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    match asked.get("input"):
        case {**given}:
            return given
        case _:
            raise BadInputError("input", "missing", "input is required")


def _told(
    desk: Desk, request: Request, prediction: Prediction, stage: Stage
) -> dict[str, Any]:
    """A prediction as its owner sees it: without what went in and came out, in time."""
    task = _task(desk.base(request), prediction, stage)
    if stage is Stage.SUCCEEDED:
        task["output"] = desk.clip_url(request, prediction)
    if desk.world.expired(desk.account(request), prediction):
        task |= {"input": {}, "output": None, "logs": None, "data_removed": True}
    return task


def _task(base: str, prediction: Prediction, stage: Stage) -> dict[str, Any]:
    url = f"{base}/v1/predictions/{prediction.id}"
    ended = prediction.ended_at is not None
    return {
        "id": prediction.id,
        "model": prediction.wanted.endpoint,
        "version": "hidden",
        "input": {**prediction.wanted.asked},
        "logs": "",
        "output": None,
        "data_removed": False,
        "error": ERRORS.get(stage),
        "source": "api",
        "status": WORDS[stage],
        "created_at": prediction.accepted_date,
        "started_at": _date(prediction, prediction.started_at),
        "completed_at": _date(prediction, prediction.ended_at),
        "metrics": {"predict_time": prediction.inference_s} if ended else {},
        "urls": {"get": url, "cancel": f"{url}/cancel"},
    }


def _date(prediction: Prediction, at: float | None) -> str | None:
    if at is None:
        return None
    accepted = datetime.fromisoformat(prediction.accepted_date)
    moment = accepted + timedelta(seconds=at - prediction.accepted_at)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _file_of(desk: Desk, request: Request, upload: Upload) -> dict[str, Any]:
    sha256 = upload.still.sha256 if upload.still else ""
    return {
        "id": upload.id,
        "name": upload.filename,
        "content_type": upload.media_type,
        "size": upload.size,
        "etag": sha256[:32],
        "checksums": {"sha256": sha256},
        "metadata": {},
        "created_at": "2026-11-22T10:00:00.000Z",
        "expires_at": "2026-11-23T10:00:00.000Z",
        "urls": {"get": f"{desk.base(request)}/v1/files/{upload.id}"},
    }


def _problem(status: int, title: str, said: str) -> Response:
    return Json({"title": title, "detail": said, "status": status}, status)


def _throttled(retry_after: int | None) -> Response:
    seconds = 30 if retry_after is None else math.ceil(retry_after)
    said = f"Request was throttled. Your rate limit resets in ~{seconds}s."
    wait = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return Json({"detail": said}, 429, wait)


def _invalid(error: BadInputError) -> Response:
    field = {"type": error.kind, "field": error.field, "description": str(error)}
    body = {
        "title": "Input validation failed",
        "detail": f"- {error}\n",
        "status": 422,
        "invalid_fields": [field],
    }
    return Json(body, 422)
