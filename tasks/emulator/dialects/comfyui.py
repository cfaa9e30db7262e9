"""ComfyUI's dialect: a client POSTs a graph, and asks for it by its id.

From `server.py`, `execution.py` and `comfy_execution/jobs.py` in Comfy-Org/ComfyUI, read
2026-11. It knows the nodes of one kind of graph: Wan 2.2 from a still to a video.
"""

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID, uuid4

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from tasks.emulator import pages
from tasks.emulator.api import EmulatedApi
from tasks.emulator.dialects import self_hosted
from tasks.emulator.predictions import ClipSpec, Prediction, Stage, status_words
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
from tasks.emulator.responses import Json, wait_headers

WORDS: Final = status_words(
    waiting="pending",
    running="in_progress",
    undocumented="warming",
    succeeded="completed",
    failed="failed",
)
NODES: Final = frozenset(
    "CLIPLoader CLIPTextEncode VAELoader LoadImage WanImageToVideo UNETLoader "
    "LoraLoaderModelOnly ModelSamplingSD3 KSamplerAdvanced VAEDecode CreateVideo "
    "SaveVideo".split()
)
SAVES: Final = "SaveVideo"

Graph = Mapping[str, Mapping[str, Any]]


class ComfyUi:
    """A client uploads a still, then POSTs a graph that names it."""

    name = "comfyui"
    scheme = "Bearer"
    terms = self_hosted.TERMS

    def parse(
        self, offer: Offer, body: Mapping[str, Any], headers: Headers
    ) -> ClipSpec:
        del headers
        graph = _checked(body.get("prompt"))
        video, created = _one(graph, "WanImageToVideo"), _one(graph, "CreateVideo")
        size = _number(video, "width"), _number(video, "height")
        shape = self_hosted.Shape(
            size, _number(video, "length"), _number(created, "fps")
        )
        samplers = [node for node in graph.values() if _adds_noise(node)]
        if not samplers:
            raise BadInputError("prompt", "prompt_no_outputs", "Prompt has no outputs")
        positive = graph[video["positive"][0]]["inputs"]["text"]
        return self_hosted.parse(
            offer,
            body,
            shape,
            # The emulator knows an uploaded still by a URL with its id and its name.
            image=f"http://input/{_one(graph, 'LoadImage')['image']}",
            prompt=positive,
            seed=_number(samplers[0]["inputs"], "noise_seed"),
            custom_id=_uuid(body.get("prompt_id")),
        )

    def accepted(self, base: str, prediction: Prediction) -> Response:
        del base
        return Json({"prompt_id": prediction.id, "number": 1, "node_errors": {}})

    def refused(self, error: RefusedError) -> Response:
        match error:
            case UnauthorizedError() | NoCreditError():
                return _problem(401, "unauthorized", "Unauthorized")
            case ThrottledError():
                busy = {"error": {"type": "busy", "message": "busy"}}
                return Json(busy, 429, wait_headers(error))
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

    def routes(self, api: EmulatedApi) -> list[BaseRoute]:
        one = "/api/jobs/{id}"
        return [
            api.route("POST", "/upload/image", "upload", _upload),
            api.route("POST", "/prompt", "submit", _submit),
            api.route("GET", one, "poll", pages.job(_job)),
            api.route("GET", "/view", "download", _view),
            api.route("GET", "/system_stats", "check", _stats),
            api.route("GET", "/object_info/{kind}", "check", _kind),
        ]


async def _upload(api: EmulatedApi, request: Request) -> Response:
    """Store a still in a subfolder of its id, so that names never collide."""
    upload = await pages.take_form(api, request, "image")
    place = {"name": upload.filename, "subfolder": upload.id}
    return Json({**place, "type": "input"})


async def _submit(api: EmulatedApi, request: Request) -> Response:
    """Queue the graph, even if another one has the same id."""
    return await api.submit(
        request, self_hosted.only_model(api), await api.body(request)
    )


def _job(
    api: EmulatedApi, request: Request, prediction: Prediction, stage: Stage
) -> Response:
    job: dict[str, Any] = {"id": prediction.id, "status": WORDS[stage]}
    if error := self_hosted.ERRORS.get(stage):
        job["execution_error"] = {
            "prompt_id": prediction.id,
            "node_type": "LoadImage"
            if error == self_hosted.NO_IMAGE
            else "KSamplerAdvanced",
            "exception_message": error,
            "exception_type": "RuntimeError",
        }
    if stage is Stage.SUCCEEDED:
        graph = prediction.spec.body["prompt"]
        [node] = [name for name, each in graph.items() if each["class_type"] == SAVES]
        filename = f"{prediction.id}_00001_.mp4"
        clip = {"filename": filename, "subfolder": "nightreel", "type": "output"}
        job["outputs"] = {node: {"images": [clip], "animated": [True]}}
        if _is_cached(api, request, prediction):
            job["outputs"] = {}
    return Json(job)


def _is_cached(api: EmulatedApi, request: Request, prediction: Prediction) -> bool:
    """Whether the same graph was made before: nothing runs, and nothing is listed."""
    return any(
        made is not prediction
        and made.image == prediction.image
        and _without_still(made) == _without_still(prediction)
        and made.stage is Stage.SUCCEEDED
        and made.accepted_at < prediction.accepted_at
        for made in api.state.listed(api.account(request))
    )


def _without_still(prediction: Prediction) -> Graph:
    """Return a graph without its still, which has another name after each upload."""
    graph: Graph = prediction.spec.body["prompt"]
    return {
        name: node for name, node in graph.items() if node["class_type"] != "LoadImage"
    }


async def _view(api: EmulatedApi, request: Request) -> Response:
    account = api.account(request)
    remote = request.query_params.get("filename", "").partition("_")[0]
    return await pages.send_clip(api, request, api.state.find(account, remote))


async def _stats(api: EmulatedApi, request: Request) -> Response:
    api.account(request)
    return Json({"system": {"comfyui_version": "0.0"}, "devices": []})


async def _kind(api: EmulatedApi, request: Request) -> Response:
    api.account(request)
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
        message = f"Node {unknown.pop()!r} not found"
        raise BadInputError("prompt", "missing_node_type", message)
    if SAVES not in kinds:
        raise BadInputError("prompt", "prompt_no_outputs", "Prompt has no outputs")
    return graph


def _one(graph: Graph, kind: str) -> Mapping[str, Any]:
    """Return the inputs of the only node of a kind."""
    found = [node["inputs"] for node in graph.values() if node["class_type"] == kind]
    if len(found) != 1:
        message = f"{len(found)} nodes {kind}"
        raise BadInputError("prompt", "prompt_outputs_failed_validation", message)
    return found[0]


def _number(inputs: Mapping[str, Any], field: str) -> int:
    match inputs.get(field):
        case int(value):
            return value
        case other:
            message = (
                f"Failed to convert an input value to a INT value: {field}, {other}"
            )
            raise BadInputError(field, "invalid_input_type", message)


def _adds_noise(node: Mapping[str, Any]) -> bool:
    return node["inputs"].get("add_noise") == "enable"


def _uuid(value: Any) -> str:
    try:
        good = value is None or str(UUID(value)) == value
    except (ValueError, TypeError, AttributeError):
        good = False
    if not good:
        message = "job id must be a UUID in canonical lowercase hyphenated form"
        raise BadInputError("prompt_id", "invalid_prompt_id", message)
    return value or str(uuid4())


def _problem(status: int, kind: str, message: str) -> Response:
    error: dict[str, object] = {
        "type": kind,
        "message": message,
        "details": "",
        "extra_info": {},
    }
    return Json({"error": error, "node_errors": {}}, status)
