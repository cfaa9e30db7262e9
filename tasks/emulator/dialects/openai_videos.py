"""`/v1/videos` in the dialects of SGLang Diffusion, vLLM-Omni, FastVideo and our own worker.

From the wheels sglang 0.5.23, vllm-omni 0.30.0 and fastvideo 0.2.1, read 2026-11, and from
docs/reference/gpu-worker.md. Where they differ is data: a `Manner`.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tasks.emulator import fields
from tasks.emulator.accounts import Terms
from tasks.emulator.dialects import self_hosted
from tasks.emulator.dialects.predictions import Prediction, Stage, Wanted
from tasks.emulator.endpoint import Desk
from tasks.emulator.faults import Fault
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
from tasks.emulator.responses import Json

WORDS: Final = {
    Stage.WAITING: "queued",
    Stage.RUNNING: "in_progress",
    Stage.ODD: "warming",
    Stage.SUCCEEDED: "completed",
    Stage.FAILED: "failed",
    Stage.MODERATED: "failed",
    Stage.UNREADABLE: "failed",
}
CODES: Final = {
    Stage.FAILED: "out_of_memory",
    Stage.MODERATED: "invalid_image",
    Stage.UNREADABLE: "invalid_image",
}
"""Our own worker's."""
PAGE: Final = 20

Page = Callable[["OpenAiVideos", Desk, Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How one of them differs from the others."""

    name: str
    wrapped: bool
    """Whether a refusal is `{"error": {"code", "message"}}`, and not `{"detail"}`."""
    invalid: int = 400
    full: int = 429
    """What a full queue is told; most have no end, and a proxy may say it in their place."""
    prefix: str = ""
    """Of its ids."""
    takes_ids: bool = False
    takes_json: bool = False
    serves: bool = False
    """Whether `model` has to be the one that it was started with."""
    told_of: tuple[str, ...] = ("model",)
    """The fields of a submit that its jobs repeat."""
    frames: int | None = None
    """How many it makes where a submit does not say; None asks for them."""
    fps: int | None = None
    works: bool = True
    """Whether it ever says that it is at work on a job."""
    fails_by_status: bool = False
    """Whether the poll of a job that failed has the failure's own HTTP status."""
    failed_content: int = 404
    stores: bool = False
    """Whether it may put clips into a store."""


SGLANG: Final = Manner(
    name="sglang", wrapped=False, takes_json=True, frames=96, fps=24, stores=True
)
VLLM_OMNI: Final = Manner(
    name="vllm-omni",
    wrapped=True,
    prefix="video_gen_",
    serves=True,
    told_of=("model", "prompt"),
    frames=81,
    fps=24,
    fails_by_status=True,
    failed_content=422,
)
FASTVIDEO: Final = Manner(
    name="fastvideo",
    wrapped=False,
    takes_json=True,
    frames=125,
    fps=24,
    works=False,
    failed_content=500,
)
NIGHTREEL: Final = Manner(
    name="nightreel",
    wrapped=True,
    invalid=422,
    full=503,
    takes_ids=True,
    told_of=(),
    failed_content=422,
)


@dataclass(frozen=True, slots=True)
class OpenAiVideos:
    """POST a form with the still in it; the clip is at the job's own address."""

    manner: Manner
    scheme: str = "Bearer"
    terms: Terms = self_hosted.TERMS

    @property
    def name(self) -> str:
        return self.manner.name

    def wanted(
        self, offer: Offer, asked: Mapping[str, Any], headers: Headers
    ) -> Wanted:
        del headers
        how = self.manner
        if how.serves and asked.get("model") not in {None, offer.endpoint}:
            said = f"Model mismatch: expected {offer.endpoint}, got {asked['model']}"
            raise BadInputError("model", "value_error", said)
        fps = self_hosted.whole(asked, "fps", how.fps)
        shape = self_hosted.Shape(
            self_hosted.sized(asked.get("size", "")),
            self_hosted.whole(asked, "num_frames", how.frames),
            fps,
        )
        own_id = f"{how.prefix}{secrets.token_hex(16)}"
        named = str(asked.get("id") or own_id) if how.takes_ids else own_id
        return self_hosted.wanted(
            offer,
            asked,
            shape,
            image=asked.get("input_reference") or asked.get("reference_url", ""),
            prompt=fields.text(asked, "prompt"),
            seed=self_hosted.whole(asked, "seed", 1024),
            named=named,
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        del base
        return Json(self.job(prediction, Stage.WAITING))

    def refused(self, error: RefusedError) -> Response:
        how = self.manner
        match error:
            case UnauthorizedError() | NoCreditError():
                return self.problem(401, "unauthorized", "Unauthorized")
            case AwayError():
                return self.problem(503, "draining", "draining", wait_s=1)
            case ThrottledError(retry_after=retry_after):
                said = "queue is full"
                return self.problem(how.full, "queue_full", said, wait_s=retry_after)
            case BadInputError():
                return self.problem(how.invalid, "invalid_request", str(error))
            case NotFoundError() | UnknownModelError():
                return self.problem(404, "not_found", "Video not found")
            case BrokenError():
                return self.problem(500, "internal", "Internal Server Error")
            case _:
                raise error

    def problem(
        self, status: int, code: str, said: str, *, wait_s: int | None = None
    ) -> Response:
        wait = {} if wait_s is None else {"Retry-After": str(wait_s)}
        if self.manner.wrapped:
            return Json({"error": {"code": code, "message": said}}, status, wait)
        return Json({"detail": said}, status, wait)

    def job(self, made: Prediction, stage: Stage) -> dict[str, Any]:
        """A job as a poll and a listing have it."""
        how = self.manner
        if stage is Stage.RUNNING and not how.works:
            stage = Stage.WAITING
        asked = made.wanted.asked
        error = self_hosted.ERRORS.get(stage)
        told = {name: asked[name] for name in how.told_of if name in asked}
        code = {"code": CODES[stage]} if error and how.wrapped else {}
        return {
            "id": made.id,
            "object": "video",
            "model": made.wanted.endpoint,
            **told,
            "status": WORDS[stage],
            "progress": 100 if stage is Stage.SUCCEEDED else 0,
            "created_at": int(_unix(made)),
            "size": asked["size"],
            "seconds": str(made.wanted.duration_s),
            "seed": made.seed,
            "error": {**code, "message": error} if error else None,
            "inference_time_s": made.inference_s,
        }

    def routes(self, desk: Desk) -> list[BaseRoute]:
        one = "/v1/videos/{id}"

        def at(method: str, path: str, kind: str, page: Page) -> BaseRoute:
            return desk.route(method, path, kind, lambda d, r: page(self, d, r))

        return [
            at("POST", "/v1/videos", "submit", _submit),
            at("GET", "/v1/videos", "list", _list),
            at("GET", one, "poll", _poll),
            at("GET", f"{one}/content", "download", _content),
            at("GET", "/v1/models", "check", _models),
            at("GET", "/health", "check", _health),
        ]


async def _submit(speaks: OpenAiVideos, desk: Desk, request: Request) -> Response:
    desk.account(request)
    asked = await _asked(speaks, desk, request)
    if speaks.manner.takes_ids and (known := _known(desk, request, asked.get("id"))):
        if known.wanted.asked == asked:
            return Json(speaks.job(known, known.stage))
        said = f"id: {known.id} is another request's"
        return speaks.problem(409, "id_taken", said)
    return await desk.submit(request, self_hosted.only(desk), asked)


async def _asked(
    speaks: OpenAiVideos, desk: Desk, request: Request
) -> Mapping[str, Any]:
    if not speaks.manner.takes_json:
        return await self_hosted.filled(request, "input_reference")
    if request.headers.get("content-type", "").startswith("application/json"):
        # `input_reference` would be a path on the server.
        return await desk.asked(request)
    return await self_hosted.filled(request, "input_reference")


def _known(desk: Desk, request: Request, named: object) -> Prediction | None:
    try:
        return desk.world.find(desk.account(request), str(named))
    except NotFoundError:
        return None


async def _poll(speaks: OpenAiVideos, desk: Desk, request: Request) -> Response:
    prediction, stage = await desk.poll(request, request.path_params["id"])
    failed = self_hosted.ERRORS.get(stage) is not None
    status = 500 if failed and speaks.manner.fails_by_status else 200
    job = speaks.job(prediction, stage)
    if stage is Stage.SUCCEEDED and _is_stored(speaks, prediction):
        job["url"] = desk.clip_url(request, prediction)
    return Json(job, status)


async def _list(speaks: OpenAiVideos, desk: Desk, request: Request) -> Response:
    asked = request.query_params
    mine = desk.world.listed(desk.account(request))
    jobs = [speaks.job(made, made.stage) for made in mine]
    after = [n for n, job in enumerate(jobs, 1) if job["id"] == asked.get("after")]
    start = after[0] if after else 0
    page = jobs[start : start + int(asked.get("limit", PAGE))]
    return Json(
        {"object": "list", "data": page, "has_more": len(jobs) > start + len(page)}
    )


async def _content(speaks: OpenAiVideos, desk: Desk, request: Request) -> Response:
    account, remote = desk.account(request), request.path_params["id"]
    prediction = desk.world.find(account, remote)
    if prediction.stage in self_hosted.ERRORS:
        return speaks.problem(speaks.manner.failed_content, "failed", "failed")
    if _is_stored(speaks, prediction):
        place = desk.clip_url(request, prediction)
        said = "Video has been uploaded to cloud storage. Please use the cloud URL: "
        return speaks.problem(400, "stored", f"{said}{place}")
    return await desk.clip(request, prediction)


async def _models(speaks: OpenAiVideos, desk: Desk, request: Request) -> Response:
    del speaks
    desk.account(request)
    models = [{"id": each, "object": "model"} for each in desk.offers]
    return Json({"object": "list", "data": models})


async def _health(speaks: OpenAiVideos, desk: Desk, request: Request) -> Response:
    del speaks, desk, request
    return Json({"status": "ready"})


def _is_stored(speaks: OpenAiVideos, prediction: Prediction) -> bool:
    return speaks.manner.stores and prediction.fault is Fault.STORE


def _unix(made: Prediction) -> float:
    return datetime.fromisoformat(made.accepted_date).timestamp()
