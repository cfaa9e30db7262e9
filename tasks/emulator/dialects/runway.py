"""Runway's dialect: a version in every request, credits for money, links that die.

From the docs (docs.dev.runwayml.com, read 2026-11) and the Python SDK, `runwayml` 5.24.0.
"""

from collections.abc import Mapping
from typing import Any, Final

from starlette.datastructures import Headers, UploadFile
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
    CappedError,
    NoCreditError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    UnauthorizedError,
    UnknownModelError,
)
from tasks.emulator.responses import Json
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
"""What can be asked for, and the nearest of the shapes that clips are made in here."""

WORDS: Final = {
    Stage.WAITING: "THROTTLED",
    Stage.RUNNING: "RUNNING",
    Stage.ODD: "WARMING_UP",
    Stage.SUCCEEDED: "SUCCEEDED",
    Stage.FAILED: "FAILED",
    Stage.MODERATED: "FAILED",
    Stage.UNREADABLE: "FAILED",
}

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
"""The codes of docs, task failures; the texts are not documented."""

CODES: Final = {
    "missing": "invalid_type",
    "string_type": "invalid_type",
    "int_type": "invalid_type",
    "one_of": "invalid_enum_value",
    "greater_than_equal": "too_small",
    "less_than_equal": "too_big",
}
"""How the validator behind the API calls what is wrong."""

DOCS: Final = "https://docs.dev.runwayml.com/api"


class Runway:
    """POST a task, ask how it is: whatever is over the concurrency is THROTTLED."""

    name = "runway"
    scheme = "Bearer"
    terms = Terms(
        slots=20,
        submits_per_minute=None,
        submits_per_day=25_000,
        queues=True,
        # What moderation refuses of the input is not refunded (docs, task failures).
        refunds=frozenset({Stage.FAILED, Stage.UNREADABLE}),
        # A link's life: whoever asks for the task again is given a fresh one.
        keep_s=24 * 3600.0,
    )

    def wanted(
        self, offer: Offer, asked: Mapping[str, Any], headers: Headers
    ) -> Wanted:
        if headers.get("X-Runway-Version") != VERSION:
            said = f"X-Runway-Version: must be {VERSION}"
            raise BadInputError("X-Runway-Version", "one_of", said)
        (resolution,) = offer.resolutions
        seconds = fields.between(asked, "duration", 10, low=2, high=10)
        fields.text(asked, "ratio")
        return Wanted(
            endpoint=offer.endpoint,
            image=_image(asked),
            prompt=_prompt(asked),
            seed=_seed(asked),
            resolution=resolution,
            duration_s=seconds,
            fps=offer.fps,
            frames=offer.fps * seconds,
            price_usd=offer.price(resolution, seconds),
            aspect_ratio=RATIOS[fields.choice(asked, "ratio", "", RATIOS)],
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        del base
        estimate = {"credits": _credits(prediction)}
        return Json({"id": prediction.id, "estimatedCost": estimate})

    def refused(self, error: RefusedError) -> Response:
        match error:
            case UnauthorizedError():
                return _refusal(401, "No API key was provided, or it is not valid.")
            case NoCreditError():
                said = "You do not have enough credits to run this task."
                return _refusal(400, said)
            case CappedError():
                return _refusal(429, "Your daily task limit has been reached.")
            case ThrottledError(retry_after=retry_after):
                wait = {} if retry_after is None else {"Retry-After": str(retry_after)}
                return _refusal(429, "Too many requests.", headers=wait)
            case BadInputError():
                return _invalid(
                    CODES.get(error.kind, "custom"), str(error), error.field
                )
            case UnknownModelError():
                return _invalid("invalid_union_discriminator", str(error), "model")
            case NotFoundError():
                return _refusal(404, str(error))
            case BrokenError():
                return _refusal(500, "Internal server error")
            case _:
                raise error

    def routes(self, desk: Desk) -> list[BaseRoute]:
        return [
            desk.route("POST", "/v1/uploads", "upload", _ticket),
            desk.route("POST", "/store/{id}", "upload", _store),
            desk.route("GET", "/uploads/{id}/{filename}", "still", send_still),
            desk.route("POST", "/v1/image_to_video", "submit", _submit),
            desk.route("GET", "/v1/tasks/{id}", "poll", _poll),
            desk.route("GET", "/v1/organization", "check", _organization),
            desk.route("GET", "/{page:path}", "lost", _lost),
            desk.route("POST", "/{page:path}", "lost", _lost),
        ]


async def _submit(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    still = _image(asked)
    if still.startswith(UPLOADED):
        kept = f"{desk.base(request)}/uploads/{still.removeprefix(UPLOADED)}"
        asked = {**asked, "promptImage": kept}
    return await desk.submit(request, fields.text(asked, "model"), asked)


async def _poll(desk: Desk, request: Request) -> Response:
    prediction, stage = await desk.poll(request, request.path_params["id"])
    task: dict[str, Any] = {
        "id": prediction.id,
        "status": WORDS[stage],
        "createdAt": prediction.accepted_date,
    }
    if prediction.ended_at is None or stage is Stage.ODD:
        progress = {"progress": 0.5} if stage is Stage.RUNNING else {}
        estimate = {"credits": _credits(prediction)}
        return Json(task | progress | {"estimatedCost": estimate})
    refunded = stage in Runway.terms.refunds
    task["cost"] = {"credits": 0 if refunded else _credits(prediction)}
    match FAILURES.get(stage):
        case (code, said):
            task |= {"failureCode": code, "failure": said}
        case None if stage is Stage.SUCCEEDED:
            desk.world.renew(prediction)
            signed = f"{desk.clip_url(request, prediction)}?_jwt={prediction.polls}"
            task["output"] = [signed]
        case None:
            pass
    return Json(task)


async def _organization(desk: Desk, request: Request) -> Response:
    account = desk.account(request)
    tier = {
        "maxConcurrentGenerations": account.terms.slots,
        "maxDailyGenerations": account.terms.submits_per_day,
    }
    usage = {"dailyGenerations": desk.world.submitted_today(account)}
    return Json(
        {
            "creditBalance": int(desk.world.credit_usd(account) * CREDITS_PER_USD),
            "tier": {
                "maxMonthlyCreditSpend": 10_000_000,
                "models": dict.fromkeys(desk.offers, tier),
            },
            "usage": {"models": dict.fromkeys(desk.offers, usage)},
        }
    )


async def _ticket(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    fields.choice(asked, "type", "", {"ephemeral"})
    upload = desk.expect(fields.text(asked, "filename"), "application/octet-stream")
    kept = desk.upload_url(request, "uploads", upload).partition("/uploads/")[2]
    return Json(
        {
            "runwayUri": f"{UPLOADED}{kept}",
            "uploadUrl": f"{desk.base(request)}/store/{upload.id}",
            "fields": {"key": kept, "X-Amz-Signature": upload.token},
        }
    )


async def _store(desk: Desk, request: Request) -> Response:
    """The store behind an upload, to which a form is posted with all its fields."""
    upload = desk.upload(request)
    if desk.shown_key(request):
        return _xml("InvalidArgument", 400)
    async with request.form(max_files=1) as form:
        match form.get("X-Amz-Signature"), form.get("file"):
            case str(signature), UploadFile() as file if signature == upload.token:
                upload.media_type = file.content_type or upload.media_type
                upload.still = Still.of(await file.read())
                return Response(status_code=204)
            case _:
                return _xml("AccessDenied", 403)


async def _lost(desk: Desk, request: Request) -> Response:
    del desk
    raise NotFoundError(f"no page {request.url.path}")


def _image(asked: Mapping[str, Any]) -> str:
    """The first frame: a text, or a list of one that says where it stands."""
    match asked.get("promptImage"):
        case [{"uri": str(uri), "position": "first"}]:
            return uri
        case _:
            return fields.text(asked, "promptImage")


def _prompt(asked: Mapping[str, Any]) -> str:
    if "promptText" not in asked:
        return ""
    prompt = fields.text(asked, "promptText")
    if len(prompt.encode("utf-16-le")) // 2 > LONGEST_PROMPT:
        said = f"String must contain at most {LONGEST_PROMPT} character(s)"
        raise BadInputError("promptText", "less_than_equal", said)
    return prompt


def _seed(asked: Mapping[str, Any]) -> int | None:
    if "seed" not in asked:
        return None
    return fields.between(asked, "seed", 0, low=0, high=2**32 - 1)


def _credits(prediction: Prediction) -> int:
    return int(prediction.wanted.price_usd * CREDITS_PER_USD)


def _refusal(
    status: int, said: str, headers: Mapping[str, str] | None = None
) -> Response:
    return Json({"error": said, "docUrl": DOCS}, status, headers)


def _invalid(code: str, said: str, field: str) -> Response:
    issue = {"code": code, "message": said, "path": [field] if field else []}
    body = {"error": "Validation of body failed", "issues": [issue], "docUrl": DOCS}
    return Json(body, 400)


def _xml(code: str, status: int) -> Response:
    body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code></Error>'
    return Response(body, status, media_type="application/xml")
