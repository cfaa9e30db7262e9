"""ComfyUI's dialect: a graph is posted, checked, queued, and looked up by its id.

From `server.py`, `execution.py` and `comfy_execution/jobs.py` in Comfy-Org/ComfyUI, read
2026-11. It understands the nodes of one kind of graph: Wan 2.2 from a still to a video.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID, uuid4

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tasks.emulator.dialects import self_hosted
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

WORDS: Final = {
    Stage.WAITING: "pending",
    Stage.RUNNING: "in_progress",
    Stage.ODD: "warming",
    Stage.SUCCEEDED: "completed",
    Stage.FAILED: "failed",
    Stage.MODERATED: "failed",
    Stage.UNREADABLE: "failed",
}
NODES: Final = frozenset(
    "CLIPLoader CLIPTextEncode VAELoader LoadImage WanImageToVideo UNETLoader "
    "LoraLoaderModelOnly ModelSamplingSD3 KSamplerAdvanced VAEDecode CreateVideo "
    "SaveVideo".split()
)
SAVES: Final = "SaveVideo"

Graph = Mapping[str, Mapping[str, Any]]


class ComfyUi:
    """POST a still, then a graph that names it; the clip is among a node's `images`."""

    name = "comfyui"
    scheme = "Bearer"
    terms = self_hosted.TERMS

    def wanted(
        self, offer: Offer, asked: Mapping[str, Any], headers: Headers
    ) -> Wanted:
        del headers
        graph = _checked(asked.get("prompt"))
        video, created = _one(graph, "WanImageToVideo"), _one(graph, "CreateVideo")
        size = _number(video, "width"), _number(video, "height")
        shape = self_hosted.Shape(
            size, _number(video, "length"), _number(created, "fps")
        )
        samplers = [node for node in graph.values() if _adds_noise(node)]
        if not samplers:
            raise BadInputError("prompt", "prompt_no_outputs", "Prompt has no outputs")
        positive = graph[video["positive"][0]]["inputs"]["text"]
        return self_hosted.wanted(
            offer,
            asked,
            shape,
            # As the emulator's stills are called: by a URL with their id and their name.
            image=f"http://input/{_one(graph, 'LoadImage')['image']}",
            prompt=positive,
            seed=_number(samplers[0]["inputs"], "noise_seed"),
            named=_uuid(asked.get("prompt_id")),
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        del base
        return Json({"prompt_id": prediction.id, "number": 1, "node_errors": {}})

    def refused(self, error: RefusedError) -> Response:
        match error:
            case UnauthorizedError() | NoCreditError():
                return _problem(401, "unauthorized", "Unauthorized")
            case ThrottledError(retry_after=retry_after):
                wait = {} if retry_after is None else {"Retry-After": str(retry_after)}
                return Json({"error": {"type": "busy", "message": "busy"}}, 429, wait)
            case BadInputError(kind="image_too_small"):
                return _problem(400, "value_smaller_than_min", str(error))
            case BadInputError():
                return _problem(400, error.kind, str(error))
            case NotFoundError() | UnknownModelError():
                return Json({"error": "Job not found"}, 404)
            case BrokenError():
                return _problem(500, "internal", "Server got itself in trouble")
            case _:
                raise error

    def routes(self, desk: Desk) -> list[BaseRoute]:
        one = "/api/jobs/{id}"
        return [
            desk.route("POST", "/upload/image", "upload", _upload),
            desk.route("POST", "/prompt", "submit", _submit),
            desk.route("GET", one, "poll", _job),
            desk.route("GET", "/view", "download", _view),
            desk.route("GET", "/system_stats", "check", _stats),
            desk.route("GET", "/object_info/{kind}", "check", _kind),
        ]


async def _upload(desk: Desk, request: Request) -> Response:
    """Where it is kept here is its subfolder: stills of two names never meet."""
    upload = await desk.form(request, "image")
    said = {"name": upload.filename, "subfolder": upload.id}
    return Json({**said, "type": "input"})


async def _submit(desk: Desk, request: Request) -> Response:
    """It does not look whether it has the id: the same one again is queued again."""
    return await desk.submit(request, self_hosted.only(desk), await desk.asked(request))


async def _job(desk: Desk, request: Request) -> Response:
    prediction, stage = await desk.poll(request, request.path_params["id"])
    said: dict[str, Any] = {"id": prediction.id, "status": WORDS[stage]}
    if error := self_hosted.ERRORS.get(stage):
        said["execution_error"] = {
            "prompt_id": prediction.id,
            "node_type": "LoadImage"
            if error == self_hosted.NO_IMAGE
            else "KSamplerAdvanced",
            "exception_message": error,
            "exception_type": "RuntimeError",
        }
    if stage is Stage.SUCCEEDED:
        graph = prediction.wanted.asked["prompt"]
        [node] = [name for name, each in graph.items() if each["class_type"] == SAVES]
        named = f"{prediction.id}_00001_.mp4"
        clip = {"filename": named, "subfolder": "nightreel", "type": "output"}
        said["outputs"] = {node: {"images": [clip], "animated": [True]}}
    return Json(said)


async def _view(desk: Desk, request: Request) -> Response:
    account = desk.account(request)
    named = request.query_params.get("filename", "").partition("_")[0]
    return await desk.clip(request, desk.world.find(account, named))


async def _stats(desk: Desk, request: Request) -> Response:
    desk.account(request)
    return Json({"system": {"comfyui_version": "0.0"}, "devices": []})


async def _kind(desk: Desk, request: Request) -> Response:
    desk.account(request)
    kind = request.path_params["kind"]
    return Json({kind: {"input": {}}} if kind in NODES else {})


def _checked(prompt: Any) -> Graph:
    match prompt:
        case {**graph} if graph:
            pass
        case _:
            raise BadInputError("prompt", "no_prompt", "No prompt provided")
    kinds = {node.get("class_type") for node in graph.values()}
    if unknown := kinds - NODES:
        said = f"Node {unknown.pop()!r} not found"
        raise BadInputError("prompt", "missing_node_type", said)
    if SAVES not in kinds:
        raise BadInputError("prompt", "prompt_no_outputs", "Prompt has no outputs")
    return graph


def _one(graph: Graph, kind: str) -> Mapping[str, Any]:
    """The inputs of the one node of its kind."""
    found = [node["inputs"] for node in graph.values() if node["class_type"] == kind]
    if len(found) != 1:
        said = f"{len(found)} nodes {kind}"
        raise BadInputError("prompt", "prompt_outputs_failed_validation", said)
    return found[0]


def _number(inputs: Mapping[str, Any], field: str) -> int:
    match inputs.get(field):
        case int(value):
            return value
        case other:
            said = f"Failed to convert an input value to a INT value: {field}, {other}"
            raise BadInputError(field, "invalid_input_type", said)


def _adds_noise(node: Mapping[str, Any]) -> bool:
    return node["inputs"].get("add_noise") == "enable"


def _uuid(named: Any) -> str:
    try:
        good = named is None or str(UUID(named)) == named
    except (ValueError, TypeError, AttributeError):
        good = False
    if not good:
        said = "job id must be a UUID in canonical lowercase hyphenated form"
        raise BadInputError("prompt_id", "invalid_prompt_id", said)
    return named or str(uuid4())


def _problem(status: int, kind: str, said: str) -> Response:
    error: dict[str, object] = {
        "type": kind,
        "message": said,
        "details": "",
        "extra_info": {},
    }
    return Json({"error": error, "node_errors": {}}, status)
