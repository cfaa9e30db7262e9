"""Runway's dialect: a version in every request, credits for money, links that expire.

From the docs (docs.dev.runwayml.com, read 2026-11) and the Python SDK, `runwayml` 5.24.0.
"""

from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import Headers, UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tasks.emulator import fields, pages
from tasks.emulator.accounts import Terms
from tasks.emulator.api import EmulatedApi
from tasks.emulator.predictions import ClipSpec, Prediction, Stage, status_words
from tasks.emulator.prices import Offer
from tasks.emulator.refusals import (
    BadInputError,
    BrokenError,
    CappedError,
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

VERSION: Final = "2024-11-06"
CREDITS_PER_USD: Final = 100
LONGEST_PROMPT: Final = 1000
UPLOADED: Final = "runway://"

RATIOS: Final = {
    "1280:720": "16:9",
    "1584:672": "16:9",
    "720:1280": "9:16",
    "1104:832": "1:1",
    "832:1104": "1:1",
    "960:960": "1:1",
}
"""The accepted ratios, and the emulator's nearest aspect ratio of each."""

WORDS: Final = status_words(
    waiting="THROTTLED",
    running="RUNNING",
    undocumented="WARMING_UP",
    succeeded="SUCCEEDED",
    failed="FAILED",
)

FAILURES: Final = {
    Stage.FAILED: (
        "INTERNAL.BAD_OUTPUT.CODE01",
        "An unexpected error occurred.",
    ),
    Stage.MODERATED: (
        "SAFETY.INPUT.IMAGE",
        "The input was rejected by content moderation.",
    ),
    Stage.UNREADABLE: ("ASSET.INVALID", "The asset could not be read."),
}
"""The codes are from docs, task failures; the texts are not documented."""

CODES: Final = {
    "missing": "invalid_type",
    "string_type": "invalid_type",
    "int_type": "invalid_type",
    "one_of": "invalid_enum_value",
    "greater_than_equal": "too_small",
    "less_than_equal": "too_big",
}
"""The API's codes of invalid fields."""

DOCS: Final = "https://docs.dev.runwayml.com/api"

REFUSED: Final[Mapping[type[RefusedError], tuple[int, str]]] = {
    UnauthorizedError: (401, "No API key was provided, or it is not valid."),
    NoCreditError: (400, "You do not have enough credits to run this task."),
    CappedError: (429, "Your daily task limit has been reached."),
    ThrottledError: (429, "Too many requests."),
    NotFoundError: (404, "{}"),
    BrokenError: (500, "Internal server error"),
}
"""HTTP status and message of each refusal."""


class Runway:
    """A submit POSTs a task; tasks over the concurrency wait as THROTTLED."""

    name = "runway"
    scheme = "Bearer"
    terms = Terms(
        slots=20,
        submits_per_minute=None,
        submits_per_day=25_000,
        queues=True,
        # Runway does not refund a task whose input moderation refuses (docs, task failures).
        refunds=frozenset({Stage.FAILED, Stage.UNREADABLE}),
        # The lifetime of a link; each poll makes a new link.
        keep_s=24 * 3600.0,
    )

    def parse(
        self, offer: Offer, body: Mapping[str, Any], headers: Headers
    ) -> ClipSpec:
        if headers.get("X-Runway-Version") != VERSION:
            message = f"X-Runway-Version: must be {VERSION}"
            raise BadInputError("X-Runway-Version", "one_of", message)
        (resolution,) = offer.resolutions
        seconds = fields.between(body, "duration", 10, low=2, high=10)
        fields.text(body, "ratio")
        return ClipSpec(
            model=offer.model,
            image=_image(body),
            prompt=_prompt(body),
            seed=_seed(body),
            resolution=resolution,
            duration_s=seconds,
            fps=offer.fps,
            frames=offer.fps * seconds,
            price_usd=offer.price(resolution, seconds),
            aspect_ratio=RATIOS[fields.choice(body, "ratio", "", RATIOS)],
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        del base
        estimate = {"credits": _credits(prediction)}
        return Json({"id": prediction.id, "estimatedCost": estimate})

    def refused(self, error: RefusedError) -> Response:
        match error:
            case BadInputError():
                code = CODES.get(error.kind, "custom")
                return _invalid(code, str(error), error.field)
            case UnknownModelError():
                return _invalid("invalid_union_discriminator", str(error), "model")
            case _:
                status, message = worded(error, REFUSED)
                content = {"error": message.format(error), "docUrl": DOCS}
                return Json(content, status, wait_headers(error))

    def routes(self, api: EmulatedApi) -> list[BaseRoute]:
        return [
            api.route("POST", "/v1/uploads", "upload", _ticket),
            api.route("POST", "/store/{id}", "upload", _store),
            api.route("GET", "/uploads/{id}/{filename}", "still", pages.send_still),
            api.route("POST", "/v1/image_to_video", "submit", _submit),
            api.route("GET", "/v1/tasks/{id}", "poll", pages.job(_poll)),
            api.route("GET", "/v1/organization", "check", _organization),
            *(api.route(*page) for page in pages.not_found("GET", "POST")),
        ]


async def _submit(api: EmulatedApi, request: Request) -> Response:
    body = await api.body(request)
    still = _image(body)
    if still.startswith(UPLOADED):
        url = f"{api.base(request)}/uploads/{still.removeprefix(UPLOADED)}"
        body = {**body, "promptImage": url}
    return await api.submit(request, fields.text(body, "model"), body)


def _poll(
    api: EmulatedApi, request: Request, prediction: Prediction, stage: Stage
) -> Response:
    task: dict[str, Any] = {
        "id": prediction.id,
        "status": WORDS[stage],
        "createdAt": prediction.accepted_date,
    }
    if prediction.ended_at is None or stage is Stage.UNDOCUMENTED:
        progress = {"progress": 0.5} if stage is Stage.RUNNING else {}
        estimate = {"credits": _credits(prediction)}
        return Json(task | progress | {"estimatedCost": estimate})
    refunded = stage in Runway.terms.refunds
    task["cost"] = {"credits": 0 if refunded else _credits(prediction)}
    match FAILURES.get(stage):
        case (code, message):
            task |= {"failureCode": code, "failure": message}
        case None if stage is Stage.SUCCEEDED:
            api.state.renew(prediction)
            signed = f"{api.clip_url(request, prediction)}?_jwt={prediction.polls}"
            task["output"] = [signed]
        case None:
            pass
    return Json(task)


async def _organization(api: EmulatedApi, request: Request) -> Response:
    account = api.account(request)
    tier = {
        "maxConcurrentGenerations": account.terms.slots,
        "maxDailyGenerations": account.terms.submits_per_day,
    }
    usage = {"dailyGenerations": api.state.submitted_today(account)}
    return Json(
        {
            "creditBalance": int(api.state.credit_usd(account) * CREDITS_PER_USD),
            "tier": {
                "maxMonthlyCreditSpend": 10_000_000,
                "models": dict.fromkeys(api.offers, tier),
            },
            "usage": {"models": dict.fromkeys(api.offers, usage)},
        }
    )


async def _ticket(api: EmulatedApi, request: Request) -> Response:
    body = await api.body(request)
    fields.choice(body, "type", "", {"ephemeral"})
    upload = api.expect(fields.text(body, "filename"), "application/octet-stream")
    key = api.upload_url(request, "uploads", upload).partition("/uploads/")[2]
    return Json(
        {
            "runwayUri": f"{UPLOADED}{key}",
            "uploadUrl": f"{api.base(request)}/store/{upload.id}",
            "fields": {"key": key, "X-Amz-Signature": upload.token},
        }
    )


async def _store(api: EmulatedApi, request: Request) -> Response:
    """Take an upload at the store: a form with all the fields of the upload's answer."""
    upload = api.upload(request)
    if api.shown_key(request):
        return _xml("InvalidArgument", 400)
    async with request.form(max_files=1) as form:
        match form.get("X-Amz-Signature"), form.get("file"):
            case str(signature), UploadFile() as file if signature == upload.token:
                upload.media_type = file.content_type or upload.media_type
                upload.still = Still.of(await file.read())
                return Response(status_code=204)
            case _:
                return _xml("AccessDenied", 403)


def _image(body: Mapping[str, Any]) -> str:
    """Return the first frame: a text, or a list of one image with a position."""
    match body.get("promptImage"):
        case [{"uri": str(uri), "position": "first"}]:
            return uri
        case _:
            return fields.text(body, "promptImage")


def _prompt(body: Mapping[str, Any]) -> str:
    if "promptText" not in body:
        return ""
    prompt = fields.text(body, "promptText")
    if len(prompt.encode("utf-16-le")) // 2 > LONGEST_PROMPT:
        message = f"String must contain at most {LONGEST_PROMPT} character(s)"
        raise BadInputError("promptText", "less_than_equal", message)
    return prompt


def _seed(body: Mapping[str, Any]) -> int | None:
    if "seed" not in body:
        return None
    return fields.between(body, "seed", 0, low=0, high=2**32 - 1)


def _credits(prediction: Prediction) -> int:
    return int(prediction.spec.price_usd * CREDITS_PER_USD)


def _invalid(code: str, message: str, field: str) -> Response:
    issue = {"code": code, "message": message, "path": [field] if field else []}
    content = {"error": "Validation of body failed", "issues": [issue], "docUrl": DOCS}
    return Json(content, 400)


def _xml(code: str, status: int) -> Response:
    content = (
        f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code></Error>'
    )
    return Response(content, status, media_type="application/xml")
