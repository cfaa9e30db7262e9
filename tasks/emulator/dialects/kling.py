"""Kling's dialect: its own codes beside HTTP's, and tasks by either of two names.

From its API documentation (kling.ai/document-api: image2video, error codes, concurrency
rules, read 2026-11) and its official ComfyUI nodes (KwaiVGI/ComfyUI-KLingAI-API).
"""

import secrets
from collections.abc import Collection, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import jwt
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
    BusyError,
    NoCreditError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    UnauthorizedError,
    UnknownModelError,
)
from tasks.emulator.responses import Json

CLIPS: Final = "/v1/videos/image2video"
MODES: Final = ("std", "pro")
LONGEST_PROMPT: Final = 2500
UNIT_USD: Final = Decimal("0.14")

WORDS: Final = {
    Stage.WAITING: "submitted",
    Stage.RUNNING: "processing",
    Stage.ODD: "warming_up",
    Stage.SUCCEEDED: "succeed",
    Stage.FAILED: "failed",
    Stage.MODERATED: "failed",
    Stage.UNREADABLE: "failed",
}
REASONS: Final = {
    Stage.FAILED: "Generation failed",
    Stage.MODERATED: "Failure to pass the risk control system",
    Stage.UNREADABLE: "Image pixel is invalid",
}
"""The second and the third are from public reports; none is documented."""


class TokenError(UnauthorizedError):
    """The token will not do; `code` is Kling's for why."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Kling:
    """POST a flat body; poll the task, by Kling's id or the customer's own."""

    name = "kling"
    scheme = "Bearer"
    terms = Terms(
        slots=20,
        submits_per_minute=500,
        queues=False,
        refunds=frozenset({Stage.FAILED, Stage.MODERATED, Stage.UNREADABLE}),
        keep_s=30 * 24 * 3600.0,
    )

    def key_of(self, token: str, keys: Collection[str] | None) -> str:
        unproved = _claims(token)
        issuer = str(unproved.get("iss", ""))
        if keys is None:
            return issuer
        for key in keys:
            access, _, secret = key.partition(":")
            if access == issuer:
                _claims(token, secret)
                return key
        raise TokenError(1002, "access key not found")

    def wanted(
        self, offer: Offer, asked: Mapping[str, Any], headers: Headers
    ) -> Wanted:
        del headers
        (resolution,) = offer.resolutions
        lengths = {str(seconds) for seconds in offer.durations}
        seconds = int(fields.choice(asked, "duration", "5", lengths))
        _prompt(asked, "negative_prompt")
        fields.share(asked, "cfg_scale")
        return Wanted(
            endpoint=offer.endpoint,
            image=_image(asked),
            prompt=_prompt(asked, "prompt"),
            seed=None,
            resolution=resolution,
            duration_s=seconds,
            fps=offer.fps,
            frames=offer.fps * seconds + 1,
            price_usd=offer.price(resolution, seconds),
            reference=_reference(asked),
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        del base
        return _enveloped(_named(prediction) | {"task_status": "submitted"})

    def refused(self, error: RefusedError) -> Response:
        match error:
            case TokenError(code=code):
                status, said = 401, str(error)
            case UnauthorizedError():
                status, code, said = 401, 1000, "Authentication failed"
            case NoCreditError():
                status, code, said = 429, 1102, "Account balance not enough"
            case BusyError():
                status, code = 429, 1303
                said = "parallel task over resource pack limit"
            case ThrottledError():  # no daily cap is documented
                status, code, said = 429, 1302, "Too many requests"
            case BadInputError():
                status, code, said = 400, 1201, str(error)
            case UnknownModelError():
                status, code, said = 404, 1203, f"model is not found: {error}"
            case NotFoundError():
                status, code, said = 404, 1203, str(error)
            case BrokenError():
                status, code, said = 500, 5000, "Internal server error"
            case _:
                raise error
        wait = getattr(error, "retry_after", None)
        headers = {} if wait is None else {"Retry-After": str(wait)}
        body = {"code": code, "message": said, "request_id": secrets.token_hex(16)}
        return Json(body, status, headers)

    def routes(self, desk: Desk) -> list[BaseRoute]:
        return [
            desk.route("POST", CLIPS, "submit", _submit),
            desk.route("GET", CLIPS, "list", _list),
            desk.route("GET", f"{CLIPS}/{{id}}", "poll", _poll),
            desk.route("GET", "/{page:path}", "lost", _lost),
            desk.route("POST", "/{page:path}", "lost", _lost),
        ]


async def _submit(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    # Where none is named, it is the first model, which is not on our price list.
    model = str(asked.get("model_name") or "kling-v1")
    if not any(endpoint.startswith(f"{model}/") for endpoint in desk.offers):
        raise UnknownModelError(model)
    mode = fields.choice(asked, "mode", "std", MODES)
    # No await until it is accepted: two of one name cannot both find it free.
    _unused(desk, desk.account(request), _reference(asked))
    return await desk.submit(request, f"{model}/{mode}", asked)


async def _poll(desk: Desk, request: Request) -> Response:
    name = _known_as(desk, desk.account(request), request.path_params["id"])
    prediction, stage = await desk.poll(request, name)
    return _enveloped(_task(desk, request, prediction, stage))


async def _list(desk: Desk, request: Request) -> Response:
    account = desk.account(request)
    page = _number(request, "pageNum", 1, most=1000)
    size = _number(request, "pageSize", 30, most=500)
    there = desk.world.listed(account)[(page - 1) * size : page * size]
    return _enveloped([_task(desk, request, each, each.stage) for each in there])


async def _lost(desk: Desk, request: Request) -> Response:
    del desk
    raise NotFoundError(f"no page {request.url.path}")


def _claims(token: str, secret: str | None = None) -> dict[str, Any]:
    """What a token says; with a secret, only if it is signed with it and still good."""
    try:
        if secret is None:
            return jwt.decode(token, options={"verify_signature": False})
        needed = ["iss", "exp", "nbf"]
        return jwt.decode(token, secret, ["HS256"], options={"require": needed})
    except jwt.ExpiredSignatureError:
        raise TokenError(1004, "Authorization is expired") from None
    except jwt.ImmatureSignatureError:
        raise TokenError(1003, "Authorization is not yet valid") from None
    except jwt.PyJWTError:
        raise TokenError(1002, "Authorization is invalid") from None


def _image(asked: Mapping[str, Any]) -> str:
    image = fields.text(asked, "image")
    if image.startswith("data:"):
        said = "image: base64 must come without a prefix"
        raise BadInputError("image", "value_error", said)
    return image


def _prompt(asked: Mapping[str, Any], field: str) -> str:
    match asked.get(field):
        case None:
            return ""
        case str(prompt) if len(prompt) <= LONGEST_PROMPT:
            return prompt
        case _:
            said = f"{field}: must be a text of up to {LONGEST_PROMPT} characters"
            raise BadInputError(field, "string_type", said)


def _reference(asked: Mapping[str, Any]) -> str:
    match asked.get("external_task_id"):
        case None:
            return ""
        case str(reference):
            return reference
        case _:
            said = "external_task_id: must be a text"
            raise BadInputError("external_task_id", "string_type", said)


def _unused(desk: Desk, account: Account, reference: str) -> None:
    """Nothing says what the second of one name is told: inferred from "must be unique"."""
    if not reference:
        return
    try:
        desk.world.referred(account, reference)
    except NotFoundError:
        return
    said = "external_task_id: is taken by another task"
    raise BadInputError("external_task_id", "value_error", said)


def _known_as(desk: Desk, account: Account, name: str) -> str:
    """Kling's id of the task that is called so by Kling or by the customer."""
    try:
        return desk.world.find(account, name).id
    except NotFoundError:
        return desk.world.referred(account, name).id


def _number(request: Request, name: str, default: int, *, most: int) -> int:
    said = request.query_params.get(name, str(default))
    if not said.isdecimal() or not 1 <= int(said) <= most:
        raise BadInputError(name, "one_of", f"{name}: must be 1 to {most}")
    return int(said)


def _enveloped(content: object) -> Response:
    said = {"code": 0, "message": "SUCCEED", "request_id": secrets.token_hex(16)}
    return Json(said | {"data": content})


def _named(prediction: Prediction) -> dict[str, Any]:
    reference = prediction.wanted.reference
    made_ms = round(datetime.fromisoformat(prediction.accepted_date).timestamp() * 1000)
    ended_at = prediction.ended_at or prediction.accepted_at
    ran_ms = round((ended_at - prediction.accepted_at) * 1000)
    return {
        "task_id": prediction.id,
        "task_info": {"external_task_id": reference} if reference else {},
        "created_at": made_ms,
        "updated_at": made_ms + ran_ms,
    }


def _task(
    desk: Desk, request: Request, prediction: Prediction, stage: Stage
) -> dict[str, Any]:
    wanted = prediction.wanted
    task: dict[str, Any] = _named(prediction) | {
        "task_status": WORDS[stage],
        "task_status_msg": REASONS.get(stage, ""),
        "task_result": {},
    }
    if stage is Stage.SUCCEEDED:
        # After 30 days the link is dead; that the task then says so is not documented.
        clip = {
            "id": f"v-{prediction.id}",
            "url": desk.clip_url(request, prediction),
            "duration": str(wanted.duration_s),
        }
        units = (wanted.price_usd / UNIT_USD).normalize()
        task["task_result"] = {"videos": [clip]}
        task["final_unit_deduction"] = f"{units:f}"
    return task
