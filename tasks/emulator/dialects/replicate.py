"""Replicate's dialect: a prediction that is listed with its input, for an hour.

From the docs (replicate.com/docs, read 2026-11) and the Python SDK, `replicate` 1.0.7.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tasks.emulator import fields, pages
from tasks.emulator.accounts import Account, Terms
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
from tasks.emulator.uploads import Upload

PAGE: Final = 100
"""Predictions on a page of the listing."""

BILLED_AT_FPS: Final = 16
"""The price is that of the length at 16 frames per second (the model's schema)."""

WORDS: Final = status_words(
    waiting="starting",
    running="processing",
    undocumented="warming_up",
    succeeded="succeeded",
    failed="failed",
)

ERRORS: Final = {
    Stage.FAILED: "Prediction interrupted; please retry (code: PA)",
    Stage.MODERATED: (
        "The input or output was flagged as sensitive. "
        "Please try again with different inputs. (E005)"
    ),
    Stage.UNREADABLE: "cannot identify image file",
}
"""From public logs; Replicate does not document them."""

INSUFFICIENT: Final = (
    "You have insufficient credit to run this model. Go to "
    "https://replicate.com/account/billing#billing to purchase credit. Once you purchase "
    "credit, please wait a few minutes before trying again."
)

LOST: Final = (404, "Not found", "The requested resource could not be found.")

REFUSED: Final[Mapping[type[RefusedError], tuple[int, str, str]]] = {
    UnauthorizedError: (
        401,
        "Unauthenticated",
        "You did not pass a valid authentication token",
    ),
    NoCreditError: (402, "Insufficient credit", INSUFFICIENT),
    UnknownModelError: LOST,
    NotFoundError: LOST,
    BrokenError: (500, "Internal server error", "Something went wrong."),
}
"""HTTP status, title and detail of each refusal."""


class Replicate:
    """A submit POSTs the input to the model; a prediction is deleted after an hour."""

    name = "replicate"
    scheme = "Bearer"
    terms = Terms(
        slots=100,
        submits_per_minute=600,
        queues=True,
        # docs, billing: failed runs are not charged.
        refunds=UNPAID_FAILURES,
        keep_s=3600.0,
    )

    def parse(
        self, offer: Offer, body: Mapping[str, Any], headers: Headers
    ) -> ClipSpec:
        del headers
        given = _given(body)
        image = fields.text(given, "image")
        resolution = fields.choice(given, "resolution", "480p", offer.resolutions)
        frames = fields.between(given, "num_frames", 81, low=81, high=121)
        fps = fields.between(given, "frames_per_second", 16, low=5, high=30)
        return ClipSpec(
            model=offer.model,
            # The URL of an uploaded file is that of its metadata.
            image=f"{image}/content" if "/v1/files/" in image else image,
            prompt=fields.text(given, "prompt"),
            seed=fields.seed(given),
            resolution=resolution,
            duration_s=round(frames / fps),
            fps=fps,
            frames=frames,
            price_usd=offer.price(resolution, (frames - 1) / BILLED_AT_FPS),
            body=given,
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        return Json(_task(base, prediction, Stage.WAITING), 201)

    def refused(self, error: RefusedError) -> Response:
        match error:
            case BadInputError():
                return _invalid(error)
            case ThrottledError():
                return _throttled(error)
            case _:
                status, title, message = worded(error, REFUSED)
                content = {"title": title, "detail": message, "status": status}
                return Json(content, status)

    def routes(self, api: EmulatedApi) -> list[BaseRoute]:
        model = "/v1/models/{owner}/{name}"
        one = "/v1/predictions/{id}"
        return [
            api.route("POST", "/v1/files", "upload", _upload),
            api.route("GET", "/v1/files/{id}", "still", _file),
            api.route("POST", f"{model}/predictions", "submit", _submit),
            api.route("GET", model, "check", _model),
            api.route("GET", "/v1/account", "check", _account),
            api.route("GET", "/v1/predictions", "list", _list),
            api.route("GET", one, "poll", pages.job(_poll)),
            *(api.route(*page) for page in pages.not_found("GET", "POST")),
        ]


async def _submit(api: EmulatedApi, request: Request) -> Response:
    body = await api.body(request)
    return await api.submit(request, _model_id(request), body)


def _poll(
    api: EmulatedApi, request: Request, prediction: Prediction, stage: Stage
) -> Response:
    return Json(_owned_task(api, request, prediction, stage))


async def _list(api: EmulatedApi, request: Request) -> Response:
    """List predictions, newest first, after the one that the cursor names."""
    listed = api.state.listed(api.account(request))
    after = request.query_params.get("cursor")
    start = next((n for n, made in enumerate(listed, 1) if made.id == after), 0)
    page = listed[start : start + PAGE]
    more = len(listed) > start + PAGE
    here = f"{api.base(request)}/v1/predictions"
    return Json(
        {
            "previous": None,
            "next": f"{here}?cursor={page[-1].id}" if more else None,
            "results": [_owned_task(api, request, made, made.stage) for made in page],
        }
    )


async def _account(api: EmulatedApi, request: Request) -> Response:
    account: Account = api.account(request)
    name = f"emulated-{account.fingerprint}"
    return Json({"type": "user", "username": name, "name": name, "github_url": None})


async def _model(api: EmulatedApi, request: Request) -> Response:
    api.account(request)
    model = _model_id(request)
    if model not in api.offers:
        raise UnknownModelError(model)
    unset: dict[str, Any] = dict.fromkeys(
        "description github_url paper_url license_url cover_image_url default_example "
        "latest_version".split()
    )
    owner, _, name = model.partition("/")
    return Json(
        {
            "url": f"https://replicate.com/{model}",
            "owner": owner,
            "name": name,
            "visibility": "public",
            "run_count": 1,
            **unset,
        }
    )


async def _upload(api: EmulatedApi, request: Request) -> Response:
    upload = await pages.take_form(api, request, "content")
    return Json(_file_of(api, request, upload), 201)


async def _file(api: EmulatedApi, request: Request) -> Response:
    api.account(request)
    return Json(_file_of(api, request, api.upload(request)))


def _model_id(request: Request) -> str:
    return f"{request.path_params['owner']}/{request.path_params['name']}"


def _given(body: Mapping[str, Any]) -> Mapping[str, Any]:
    match body.get("input"):
        case {**given}:
            return given
        case _:
            raise BadInputError("input", "missing", "input is required")


def _owned_task(
    api: EmulatedApi, request: Request, prediction: Prediction, stage: Stage
) -> dict[str, Any]:
    """Return a prediction as its owner sees it: without inputs and output once expired."""
    task = _task(api.base(request), prediction, stage)
    if stage is Stage.SUCCEEDED:
        task["output"] = api.clip_url(request, prediction)
    if api.state.expired(api.account(request), prediction):
        task |= {"input": {}, "output": None, "logs": None, "data_removed": True}
    return task


def _task(base: str, prediction: Prediction, stage: Stage) -> dict[str, Any]:
    url = f"{base}/v1/predictions/{prediction.id}"
    ended = prediction.ended_at is not None
    return {
        "id": prediction.id,
        "model": prediction.spec.model,
        "version": "hidden",
        "input": {**prediction.spec.body},
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


def _file_of(api: EmulatedApi, request: Request, upload: Upload) -> dict[str, Any]:
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
        "urls": {"get": f"{api.base(request)}/v1/files/{upload.id}"},
    }


def _throttled(error: ThrottledError) -> Response:
    seconds = 30 if error.retry_after is None else error.retry_after
    message = f"Request was throttled. Your rate limit resets in ~{seconds}s."
    return Json({"detail": message}, 429, wait_headers(error))


def _invalid(error: BadInputError) -> Response:
    field = {"type": error.kind, "field": error.field, "description": str(error)}
    content = {
        "title": "Input validation failed",
        "detail": f"- {error}\n",
        "status": 422,
        "invalid_fields": [field],
    }
    return Json(content, 422)
