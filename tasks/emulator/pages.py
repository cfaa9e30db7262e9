"""The pages that emulated providers share: jobs, stills, clips, and unknown paths."""

from collections.abc import Callable, Sequence
from typing import Final

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import BaseRoute

from tasks.emulator.api import EmulatedApi, Handler
from tasks.emulator.faults import Fault
from tasks.emulator.predictions import Prediction, Stage
from tasks.emulator.refusals import BadInputError, NotFoundError
from tasks.emulator.responses import HalfAnswer, dripping, web_page
from tasks.emulator.uploads import Still, Upload

REFUSALS: Final = 7
"""The downloads that `REFUSED_CLIP` and `PAGE_CLIP` spoil: one more than a client tries in a row."""

JobView = Callable[[EmulatedApi, Request, Prediction, Stage], Response]
"""Returns a job as its owner sees it in a poll."""


def routes(api: EmulatedApi) -> list[BaseRoute]:
    """Return all routes of a provider, with that of its clips."""
    clip = api.route("GET", "/clips/{id}/clip.mp4", "download", _download)
    return [clip, *api.routes()]


def job(view: JobView) -> Handler:
    """Return the page that polls a job by the id in its path."""

    async def page(api: EmulatedApi, request: Request) -> Response:
        prediction, stage = await api.poll(request, request.path_params["id"])
        return view(api, request, prediction, stage)

    return page


async def take_form(api: EmulatedApi, request: Request, field: str = "file") -> Upload:
    """Store the file of a form as an upload. Raises BadInputError."""
    api.account(request)
    async with request.form(max_files=1) as form:
        match form.get(field):
            case UploadFile() as file:
                media_type = file.content_type or "application/octet-stream"
                upload = api.expect(file.filename or "", media_type)
                upload.still = Still.of(await file.read())
                return upload
            case _:
                raise BadInputError(field, "missing", f"{field}: field required")


def not_found(*methods: str) -> Sequence[tuple[str, str, str, Handler]]:
    """Return pages for all other paths, which answer "not found"."""
    return [(method, "/{page:path}", "lost", _lost) for method in methods]


async def _lost(api: EmulatedApi, request: Request) -> Response:
    del api
    raise NotFoundError(f"no page {request.url.path}")


async def send_still(api: EmulatedApi, request: Request) -> Response:
    """Send an uploaded still to any client that knows its URL."""
    upload = api.upload(request)
    if upload.still is None:
        raise NotFoundError("nothing was uploaded here")
    return Response(upload.still.content, media_type=upload.media_type)


async def _download(api: EmulatedApi, request: Request) -> Response:
    api.shown_key(request)
    return await _sent(api, request.path_params["id"])


async def send_clip(
    api: EmulatedApi, request: Request, prediction: Prediction
) -> Response:
    """Return the clip, for a provider whose downloads need the key."""
    api.account(request)
    return await _sent(api, prediction.id)


async def _sent(api: EmulatedApi, prediction_id: str) -> Response:
    prediction = api.state.download(prediction_id)
    fault = prediction.fault if prediction.downloads == 1 else None
    if prediction.fault is Fault.REFUSED_CLIP and prediction.downloads <= REFUSALS:
        return web_page(b"<!doctype html><title>403 Forbidden</title>", 403)
    if prediction.fault is Fault.PAGE_CLIP and prediction.downloads <= REFUSALS:
        return web_page(b"<!doctype html><title>One moment</title>", 200)
    clip = await api.clip(prediction)
    match fault:
        case Fault.TRUNCATED_CLIP:
            return Response(clip[: len(clip) * 2 // 3], media_type="video/mp4")
        case Fault.CUT_CLIP:
            return HalfAnswer(clip, media_type="video/mp4")
        case Fault.HTML_CLIP:
            return web_page(b"<!doctype html><title>One moment</title>", 200)
        case Fault.EMPTY_CLIP:
            return Response(b"", media_type="video/mp4")
        case Fault.DRIP_CLIP:
            length = {"content-length": str(len(clip))}
            return StreamingResponse(dripping(clip), headers=length)
        case _:
            return Response(clip, media_type="video/mp4")
