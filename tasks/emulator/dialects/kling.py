"""Kling's dialect: codes beside HTTP's, and tasks known by two names.

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
    BusyError,
    NoCreditError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    UnauthorizedError,
    UnknownModelError,
    worded,
)
from tasks.emulator.responses import Json, wait_headers

CLIPS: Final = "/v1/videos/image2video"
MODES: Final = ("std", "pro")
LONGEST_PROMPT: Final = 2500
UNIT_USD: Final = Decimal("0.14")

WORDS: Final = status_words(
    waiting="submitted",
    running="processing",
    undocumented="warming_up",
    succeeded="succeed",
    failed="failed",
)
REASONS: Final = {
    Stage.FAILED: "Generation failed",
    Stage.MODERATED: "Failure to pass the risk control system",
    Stage.UNREADABLE: "Image pixel is invalid",
}
"""The second and third are from public reports; Kling documents none of them."""


REFUSED: Final[Mapping[type[RefusedError], tuple[int, int, str]]] = {
    UnauthorizedError: (401, 1000, "Authentication failed"),
    NoCreditError: (429, 1102, "Account balance not enough"),
    BusyError: (429, 1303, "parallel task over resource pack limit"),
    # Kling documents no daily cap.
    ThrottledError: (429, 1302, "Too many requests"),
    BadInputError: (400, 1201, "{}"),
    UnknownModelError: (404, 1203, "model is not found: {}"),
    NotFoundError: (404, 1203, "{}"),
    BrokenError: (500, 5000, "Internal server error"),
}
"""HTTP status, Kling's code and message of each refusal."""


class TokenError(UnauthorizedError):
    """The token is invalid; `code` is Kling's code of the reason."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Kling:
    """A submit POSTs a flat body; a poll names Kling's id or the customer's."""

    name = "kling"
    scheme = "Bearer"
    terms = Terms(
        slots=20,
        submits_per_minute=500,
        queues=False,
        refunds=UNPAID_FAILURES,
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

    def parse(
        self, offer: Offer, body: Mapping[str, Any], headers: Headers
    ) -> ClipSpec:
        del headers
        (resolution,) = offer.resolutions
        lengths = {str(seconds) for seconds in offer.durations}
        _prompt(body, "negative_prompt")
        fields.share(body, "cfg_scale")
        return offer.by_seconds(
            resolution,
            int(fields.choice(body, "duration", "5", lengths)),
            image=_image(body),
            prompt=_prompt(body, "prompt"),
            seed=None,
            reference=_reference(body),
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        del base
        return _enveloped(_names(prediction) | {"task_status": "submitted"})

    def refused(self, error: RefusedError) -> Response:
        status, code, message = worded(error, REFUSED)
        if isinstance(error, TokenError):
            code, message = error.code, "{}"
        content = {"code": code, "message": message.format(error)}
        content["request_id"] = secrets.token_hex(16)
        return Json(content, status, wait_headers(error))

    def routes(self, api: EmulatedApi) -> list[BaseRoute]:
        return [
            api.route("POST", CLIPS, "submit", _submit),
            api.route("GET", CLIPS, "list", _list),
            api.route("GET", f"{CLIPS}/{{id}}", "poll", _poll),
            *(api.route(*page) for page in pages.not_found("GET", "POST")),
        ]


async def _submit(api: EmulatedApi, request: Request) -> Response:
    body = await api.body(request)
    # Without a model, Kling uses its first one, which is not on our price list.
    model = str(body.get("model_name") or "kling-v1")
    if not any(offered.startswith(f"{model}/") for offered in api.offers):
        raise UnknownModelError(model)
    mode = fields.choice(body, "mode", "std", MODES)
    # There is no await before the acceptance, so two equal references cannot both pass.
    _unused(api, api.account(request), _reference(body))
    return await api.submit(request, f"{model}/{mode}", body)


async def _poll(api: EmulatedApi, request: Request) -> Response:
    name = _task_id(api, api.account(request), request.path_params["id"])
    prediction, stage = await api.poll(request, name)
    return _enveloped(_task(api, request, prediction, stage))


async def _list(api: EmulatedApi, request: Request) -> Response:
    account = api.account(request)
    page = _number(request, "pageNum", 1, most=1000)
    size = _number(request, "pageSize", 30, most=500)
    there = api.state.listed(account)[(page - 1) * size : page * size]
    return _enveloped([_task(api, request, each, each.stage) for each in there])


def _claims(token: str, secret: str | None = None) -> dict[str, Any]:
    """Return a token's claims; with a secret, verify its signature and its times."""
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


def _image(body: Mapping[str, Any]) -> str:
    image = fields.text(body, "image")
    if image.startswith("data:"):
        message = "image: base64 must come without a prefix"
        raise BadInputError("image", "value_error", message)
    return image


def _prompt(body: Mapping[str, Any], field: str) -> str:
    match body.get(field):
        case None:
            return ""
        case str(prompt) if len(prompt) <= LONGEST_PROMPT:
            return prompt
        case _:
            message = f"{field}: must be a text of up to {LONGEST_PROMPT} characters"
            raise BadInputError(field, "string_type", message)


def _reference(body: Mapping[str, Any]) -> str:
    match body.get("external_task_id"):
        case None:
            return ""
        case str(reference):
            return reference
        case _:
            message = "external_task_id: must be a text"
            raise BadInputError("external_task_id", "string_type", message)


def _unused(api: EmulatedApi, account: Account, reference: str) -> None:
    """Refuse a reference that is in use: inferred from the docs' "must be unique"."""
    if not reference:
        return
    try:
        api.state.referred(account, reference)
    except NotFoundError:
        return
    message = "external_task_id: is taken by another task"
    raise BadInputError("external_task_id", "value_error", message)


def _task_id(api: EmulatedApi, account: Account, name: str) -> str:
    """Return Kling's id of the task with this id or this reference."""
    try:
        return api.state.find(account, name).id
    except NotFoundError:
        return api.state.referred(account, name).id


def _number(request: Request, name: str, default: int, *, most: int) -> int:
    value = request.query_params.get(name, str(default))
    if not value.isdecimal() or not 1 <= int(value) <= most:
        raise BadInputError(name, "one_of", f"{name}: must be 1 to {most}")
    return int(value)


def _enveloped(content: object) -> Response:
    envelope = {"code": 0, "message": "SUCCEED", "request_id": secrets.token_hex(16)}
    return Json(envelope | {"data": content})


def _names(prediction: Prediction) -> dict[str, Any]:
    reference = prediction.spec.reference
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
    api: EmulatedApi, request: Request, prediction: Prediction, stage: Stage
) -> dict[str, Any]:
    spec = prediction.spec
    task: dict[str, Any] = _names(prediction) | {
        "task_status": WORDS[stage],
        "task_status_msg": REASONS.get(stage, ""),
        "task_result": {},
    }
    if stage is Stage.SUCCEEDED:
        # The link expires after 30 days; Kling does not document the task's answer then.
        clip = {
            "id": f"v-{prediction.id}",
            "url": api.clip_url(request, prediction),
            "duration": str(spec.duration_s),
        }
        units = (spec.price_usd / UNIT_USD).normalize()
        task["task_result"] = {"videos": [clip]}
        task["final_unit_deduction"] = f"{units:f}"
    return task
