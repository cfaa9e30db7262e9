"""LightX2V's dialect: one task at a time, a bounded queue, and 503 with two meanings.

From `lightx2v/server` in ModelTC/LightX2V at f8aee98, read 2026-11.
"""

from collections.abc import Mapping
from typing import Any, Final

import httpx
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from tasks.emulator import fields, pages
from tasks.emulator.api import EmulatedApi
from tasks.emulator.dialects import self_hosted
from tasks.emulator.predictions import ClipSpec, Prediction, status_words
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
from tasks.emulator.responses import Json

WORDS: Final = status_words(
    waiting="pending",
    running="processing",
    undocumented="warming",
    succeeded="completed",
    failed="failed",
)
QUEUE: Final = 10
"""The server's `max_queue_size`."""
DEFAULTS: Final[Mapping[str, Any]] = {
    "target_video_length": 81,
    "target_fps": 16,
    "target_shape": [480, 832],
}
"""The configuration's values; the server ignores the defaults of its schema."""


REFUSED: Final[Mapping[type[RefusedError], tuple[int, str]]] = {
    UnauthorizedError: (401, "Unauthorized"),
    NoCreditError: (401, "Unauthorized"),
    ThrottledError: (503, f"Task queue is full (max {QUEUE} tasks)"),
    BadInputError: (422, "{}"),
    NotFoundError: (404, "Task not found"),
    UnknownModelError: (404, "Task not found"),
    BrokenError: (500, "Internal Server Error"),
}
"""HTTP status and message of each refusal."""


class LightX2V:
    """A submit POSTs JSON with the still in it; its path ends with a slash."""

    name = "lightx2v"
    scheme = "Bearer"
    terms = self_hosted.TERMS

    def parse(
        self, offer: Offer, body: Mapping[str, Any], headers: Headers
    ) -> ClipSpec:
        del headers
        filled = {**DEFAULTS, **body}
        height, width = filled["target_shape"]
        shape = self_hosted.Shape(
            (width, height),
            fields.whole(filled, "target_video_length", 0),
            fields.whole(filled, "target_fps", 0),
        )
        return self_hosted.parse(
            offer,
            body,
            shape,
            image=fields.text(body, "image_path"),
            prompt=fields.text(body, "prompt"),
            seed=fields.seed(body),
            custom_id=str(body.get("task_id", "")),
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        del base
        path = prediction.spec.body.get("save_result_path", prediction.id)
        task = {"task_id": prediction.id, "task_status": "pending"}
        return Json({**task, "save_result_path": path})

    def refused(self, error: RefusedError) -> Response:
        status, message = worded(error, REFUSED)
        return _problem(status, message.format(error))

    def routes(self, api: EmulatedApi) -> list[BaseRoute]:
        one = "/v1/tasks/{id}"
        return [
            api.route("POST", "/v1/tasks/video/", "submit", _submit),
            api.route("POST", "/v1/tasks/video", "lost", _redirect),
            api.route("GET", "/v1/tasks/queue/status", "check", _queue),
            api.route("GET", f"{one}/status", "poll", _status),
            api.route("GET", f"{one}/result", "download", _result),
        ]


async def _redirect(api: EmulatedApi, request: Request) -> Response:
    return RedirectResponse(f"{api.base(request)}/v1/tasks/video/", 307)


async def _submit(api: EmulatedApi, request: Request) -> Response:
    body = await api.body(request)
    if str(image := body.get("image_path", "")).startswith("http"):
        await _check_link(image)
    tasks = api.state.listed(api.account(request))
    if (custom_id := body.get("task_id")) in {made.id for made in tasks}:
        return _problem(503, f"Task ID {custom_id} already exists")
    if sum(made.ended_at is None for made in tasks) >= QUEUE:
        raise ThrottledError("full")
    return await api.submit(request, self_hosted.only_model(api), body)


async def _check_link(image: str) -> None:
    """Check a link with HEAD, which one signed for GET refuses; the server answers 500."""
    async with httpx.AsyncClient() as client:
        if not (await client.head(image)).is_success:
            raise BrokenError("400: Image URL is not accessible")


async def _status(api: EmulatedApi, request: Request) -> Response:
    prediction, stage = await api.poll(request, request.path_params["id"])
    error = self_hosted.ERRORS.get(stage)
    return Json(
        {
            "task_id": prediction.id,
            "status": WORDS[stage],
            "start_time": prediction.accepted_date,
            "end_time": None,
            "error": error,
            "error_type": "RuntimeError" if error else None,
            "save_result_path": prediction.spec.body.get("save_result_path"),
        }
    )


async def _result(api: EmulatedApi, request: Request) -> Response:
    account = api.account(request)
    prediction = api.state.find(account, request.path_params["id"])
    return await pages.send_clip(api, request, prediction)


async def _queue(api: EmulatedApi, request: Request) -> Response:
    tasks = api.state.listed(api.account(request))
    active = sum(made.ended_at is None for made in tasks)
    counts = {"active_count": active, "queue_size": QUEUE}
    return Json({**counts, "queue_available": QUEUE - active})


def _problem(status: int, message: str) -> Response:
    return Json({"detail": message}, status)
