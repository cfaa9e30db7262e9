"""`/v1/videos` in the dialects of SGLang Diffusion, vLLM-Omni, FastVideo and our own worker.

From the wheels sglang 0.5.23, vllm-omni 0.30.0 and fastvideo 0.2.1, read 2026-11, and from
docs/reference/gpu-worker.md. A `Variant` states the differences.
"""

import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tasks.emulator import fields, pages
from tasks.emulator.accounts import Terms
from tasks.emulator.api import EmulatedApi
from tasks.emulator.dialects import self_hosted
from tasks.emulator.faults import Fault
from tasks.emulator.predictions import ClipSpec, Prediction, Stage, status_words
from tasks.emulator.prices import Offer
from tasks.emulator.refusals import (
    AwayError,
    BadInputError,
    BrokenError,
    NoCreditError,
    NotFoundError,
    RefusedError,
    ThrottledError,
    UnauthorizedError,
    UnknownModelError,
)
from tasks.emulator.responses import Json, wait_headers

WORDS: Final = status_words(
    waiting="queued",
    running="in_progress",
    undocumented="warming",
    succeeded="completed",
    failed="failed",
)
CODES: Final = {
    Stage.FAILED: "out_of_memory",
    Stage.MODERATED: "invalid_image",
    Stage.UNREADABLE: "invalid_image",
}
"""The codes of Nightreel's own worker."""
PAGE: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The differences between engines."""

    name: str
    wrapped: bool
    """Whether a refusal is `{"error": {"code", "message"}}` instead of `{"detail"}`."""
    invalid: int = 400
    """The HTTP status of a bad field."""
    full: int = 429
    """The HTTP status of a full queue; most queues have no end, but a proxy may send it."""
    prefix: str = ""
    """The prefix of the engine's ids."""
    takes_ids: bool = False
    """Whether a submit may name the job's id."""
    takes_json: bool = False
    checks_model: bool = False
    """Whether a submit must name the engine's own model."""
    echoed: tuple[str, ...] = ("model",)
    """The fields of a submit that its jobs repeat."""
    frames: int | None = None
    """The frames of a submit without `num_frames`; None refuses it."""
    fps: int | None = None
    reports_running: bool = True
    """Whether a running job has another status than a queued one."""
    fails_by_status: bool = False
    """Whether the poll of a failed job has the HTTP status of the failure."""
    failed_content: int = 404
    """The HTTP status of the download of a failed job."""
    stores: bool = False
    """Whether the engine may move clips to a store."""


SGLANG: Final = Variant(
    name="sglang", wrapped=False, takes_json=True, frames=96, fps=24, stores=True
)
VLLM_OMNI: Final = Variant(
    name="vllm-omni",
    wrapped=True,
    prefix="video_gen_",
    checks_model=True,
    echoed=("model", "prompt"),
    frames=81,
    fps=24,
    fails_by_status=True,
    failed_content=422,
)
FASTVIDEO: Final = Variant(
    name="fastvideo",
    wrapped=False,
    takes_json=True,
    frames=125,
    fps=24,
    reports_running=False,
    failed_content=500,
)
NIGHTREEL: Final = Variant(
    name="nightreel",
    wrapped=True,
    invalid=422,
    full=503,
    takes_ids=True,
    echoed=(),
    failed_content=422,
)


@dataclass(frozen=True, slots=True)
class OpenAiVideos:
    """A submit POSTs a form with the still in it; a clip is at its job's address."""

    variant: Variant
    scheme: str = "Bearer"
    terms: Terms = self_hosted.TERMS

    @property
    def name(self) -> str:
        return self.variant.name

    def parse(
        self, offer: Offer, body: Mapping[str, Any], headers: Headers
    ) -> ClipSpec:
        del headers
        variant = self.variant
        if variant.checks_model and body.get("model") not in {None, offer.model}:
            message = f"Model mismatch: expected {offer.model}, got {body['model']}"
            raise BadInputError("model", "value_error", message)
        fps = self_hosted.whole(body, "fps", variant.fps)
        shape = self_hosted.Shape(
            self_hosted.parse_size(body.get("size", "")),
            self_hosted.whole(body, "num_frames", variant.frames),
            fps,
        )
        own_id = f"{variant.prefix}{secrets.token_hex(16)}"
        return self_hosted.parse(
            offer,
            body,
            shape,
            image=body.get("input_reference") or body.get("reference_url", ""),
            prompt=fields.text(body, "prompt"),
            seed=self_hosted.whole(body, "seed", 1024),
            custom_id=str(body.get("id") or own_id) if variant.takes_ids else own_id,
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        del base
        return Json(self._job(prediction, Stage.WAITING))

    def refused(self, error: RefusedError) -> Response:
        variant = self.variant
        match error:
            case UnauthorizedError() | NoCreditError():
                return self._problem(401, "unauthorized", "Unauthorized")
            case AwayError():
                return self._problem(503, "draining", "draining", {"Retry-After": "1"})
            case ThrottledError():
                wait = wait_headers(error)
                return self._problem(variant.full, "queue_full", "queue is full", wait)
            case BadInputError():
                return self._problem(variant.invalid, "invalid_request", str(error))
            case NotFoundError() | UnknownModelError():
                return self._problem(404, "not_found", "Video not found")
            case BrokenError():
                return self._problem(500, "internal", "Internal Server Error")
            case _:
                raise error

    def routes(self, api: EmulatedApi) -> list[BaseRoute]:
        one = "/v1/videos/{id}"
        return [
            api.route("POST", "/v1/videos", "submit", self._submit),
            api.route("GET", "/v1/videos", "list", self._list),
            api.route("GET", one, "poll", self._poll),
            api.route("GET", f"{one}/content", "download", self._content),
            api.route("GET", "/v1/models", "check", _models),
            api.route("GET", "/health", "check", _health),
        ]

    async def _submit(self, api: EmulatedApi, request: Request) -> Response:
        account = api.account(request)
        body = await self._body(api, request)
        if self.variant.takes_ids:
            with suppress(NotFoundError):
                known = api.state.find(account, str(body.get("id")))
                if known.spec.body == body:
                    return Json(self._job(known, known.stage))
                message = f"id: {known.id} is another request's"
                return self._problem(409, "id_taken", message)
        return await api.submit(request, self_hosted.only_model(api), body)

    async def _body(self, api: EmulatedApi, request: Request) -> Mapping[str, Any]:
        kind = request.headers.get("content-type", "")
        if self.variant.takes_json and kind.startswith("application/json"):
            # `input_reference` would be a path on the server.
            return await api.body(request)
        return await self_hosted.read_form(request, "input_reference")

    async def _poll(self, api: EmulatedApi, request: Request) -> Response:
        prediction, stage = await api.poll(request, request.path_params["id"])
        has_failed = stage in self_hosted.ERRORS
        status = 500 if has_failed and self.variant.fails_by_status else 200
        job = self._job(prediction, stage)
        if stage is Stage.SUCCEEDED and self._is_stored(prediction):
            job["url"] = api.clip_url(request, prediction)
        return Json(job, status)

    async def _list(self, api: EmulatedApi, request: Request) -> Response:
        query = request.query_params
        listed = api.state.listed(api.account(request))
        jobs = [self._job(made, made.stage) for made in listed]
        after = [n for n, job in enumerate(jobs, 1) if job["id"] == query.get("after")]
        start = after[0] if after else 0
        page = jobs[start : start + int(query.get("limit", PAGE))]
        return Json(
            {"object": "list", "data": page, "has_more": len(jobs) > start + len(page)}
        )

    async def _content(self, api: EmulatedApi, request: Request) -> Response:
        account, remote = api.account(request), request.path_params["id"]
        prediction = api.state.find(account, remote)
        if prediction.stage in self_hosted.ERRORS:
            return self._problem(self.variant.failed_content, "failed", "failed")
        if self._is_stored(prediction):
            url = api.clip_url(request, prediction)
            message = (
                "Video has been uploaded to cloud storage. Please use the cloud URL"
            )
            return self._problem(400, "stored", f"{message}: {url}")
        return await pages.send_clip(api, request, prediction)

    def _job(self, made: Prediction, stage: Stage) -> dict[str, Any]:
        """Return a job as polls and listings show it."""
        variant, body = self.variant, made.spec.body
        if stage is Stage.RUNNING and not variant.reports_running:
            stage = Stage.WAITING
        error = self_hosted.ERRORS.get(stage)
        echoed = {name: body[name] for name in variant.echoed if name in body}
        code = {"code": CODES[stage]} if error and variant.wrapped else {}
        return {
            "id": made.id,
            "object": "video",
            "model": made.spec.model,
            **echoed,
            "status": WORDS[stage],
            "progress": 100 if stage is Stage.SUCCEEDED else 0,
            "created_at": int(datetime.fromisoformat(made.accepted_date).timestamp()),
            "size": body["size"],
            "seconds": str(made.spec.duration_s),
            "seed": made.seed,
            "error": {**code, "message": error} if error else None,
            "inference_time_s": made.inference_s,
        }

    def _problem(
        self,
        status: int,
        code: str,
        message: str,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        if self.variant.wrapped:
            return Json({"error": {"code": code, "message": message}}, status, headers)
        return Json({"detail": message}, status, headers)

    def _is_stored(self, prediction: Prediction) -> bool:
        return self.variant.stores and prediction.fault is Fault.STORE


async def _models(api: EmulatedApi, request: Request) -> Response:
    api.account(request)
    models = [{"id": model, "object": "model"} for model in api.offers]
    return Json({"object": "list", "data": models})


async def _health(api: EmulatedApi, request: Request) -> Response:
    del api, request
    return Json({"status": "ready"})
