"""LightX2V's dialect: one task at a time, a queue with an end, and 503 for two things.

From `lightx2v/server` in ModelTC/LightX2V at f8aee98, read 2026-11.
"""

from collections.abc import Mapping
from typing import Any, Final

import httpx
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute

from tasks.emulator import fields
from tasks.emulator.dialects import self_hosted
from tasks.emulator.dialects.predictions import Prediction, Stage, Wanted
from tasks.emulator.endpoint import Desk
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
    Stage.WAITING: "pending",
    Stage.RUNNING: "processing",
    Stage.ODD: "warming",
    Stage.SUCCEEDED: "completed",
    Stage.FAILED: "failed",
    Stage.MODERATED: "failed",
    Stage.UNREADABLE: "failed",
}
QUEUE: Final = 10
"""Its `max_queue_size`."""
UNSAID: Final[Mapping[str, Any]] = {
    "target_video_length": 81,
    "target_fps": 16,
    "target_shape": [480, 832],
}
"""Its configuration's; the defaults of its schema are never applied."""


class LightX2V:
    """POST JSON with the still in it, to a path with a slash at its end."""

    name = "lightx2v"
    scheme = "Bearer"
    terms = self_hosted.TERMS

    def wanted(
        self, offer: Offer, asked: Mapping[str, Any], headers: Headers
    ) -> Wanted:
        del headers
        given = {**UNSAID, **asked}
        height, width = given["target_shape"]
        shape = self_hosted.Shape(
            (width, height),
            fields.whole(given, "target_video_length", 0),
            fields.whole(given, "target_fps", 0),
        )
        return self_hosted.wanted(
            offer,
            asked,
            shape,
            image=fields.text(asked, "image_path"),
            prompt=fields.text(asked, "prompt"),
            seed=fields.seed(asked),
            named=str(asked.get("task_id", "")),
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        del base
        path = prediction.wanted.asked.get("save_result_path", prediction.id)
        said = {"task_id": prediction.id, "task_status": "pending"}
        return Json({**said, "save_result_path": path})

    def refused(self, error: RefusedError) -> Response:
        match error:
            case UnauthorizedError() | NoCreditError():
                return _problem(401, "Unauthorized")
            case AwayError() | ThrottledError():
                return _problem(503, f"Task queue is full (max {QUEUE} tasks)")
            case BadInputError():
                return _problem(422, str(error))
            case NotFoundError() | UnknownModelError():
                return _problem(404, "Task not found")
            case BrokenError():
                return _problem(500, "Internal Server Error")
            case _:
                raise error

    def routes(self, desk: Desk) -> list[BaseRoute]:
        one = "/v1/tasks/{id}"
        return [
            desk.route("POST", "/v1/tasks/video/", "submit", _submit),
            desk.route("POST", "/v1/tasks/video", "lost", _redirected),
            desk.route("GET", "/v1/tasks/queue/status", "check", _queue),
            desk.route("GET", f"{one}/status", "poll", _status),
            desk.route("GET", f"{one}/result", "download", _result),
        ]


async def _redirected(desk: Desk, request: Request) -> Response:
    return RedirectResponse(f"{desk.base(request)}/v1/tasks/video/", 307)


async def _submit(desk: Desk, request: Request) -> Response:
    asked = await desk.asked(request)
    if str(image := asked.get("image_path", "")).startswith("http"):
        await _looked_at(image)
    mine = desk.world.listed(desk.account(request))
    if (named := asked.get("task_id")) in {made.id for made in mine}:
        return _problem(503, f"Task ID {named} already exists")
    if sum(made.ended_at is None for made in mine) >= QUEUE:
        raise ThrottledError("full")
    return await desk.submit(request, self_hosted.only(desk), asked)


async def _looked_at(image: str) -> None:
    """By HEAD, which a link that is signed for GET refuses; and the 400 comes out as 500."""
    async with httpx.AsyncClient() as client:
        if not (await client.head(image)).is_success:
            raise BrokenError("400: Image URL is not accessible")


async def _status(desk: Desk, request: Request) -> Response:
    prediction, stage = await desk.poll(request, request.path_params["id"])
    error = self_hosted.ERRORS.get(stage)
    return Json(
        {
            "task_id": prediction.id,
            "status": WORDS[stage],
            "start_time": prediction.accepted_date,
            "end_time": None,
            "error": error,
            "error_type": "RuntimeError" if error else None,
            "save_result_path": prediction.wanted.asked.get("save_result_path"),
        }
    )


async def _result(desk: Desk, request: Request) -> Response:
    account = desk.account(request)
    prediction = desk.world.find(account, request.path_params["id"])
    return await desk.clip(request, prediction)


async def _queue(desk: Desk, request: Request) -> Response:
    mine = desk.world.listed(desk.account(request))
    active = sum(made.ended_at is None for made in mine)
    said = {"active_count": active, "queue_size": QUEUE}
    return Json({**said, "queue_available": QUEUE - active})


def _problem(status: int, said: str) -> Response:
    return Json({"detail": said}, status)
