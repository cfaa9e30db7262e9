"""The worker's `/v1/videos` API; docs/reference/gpu-worker.md explains each answer."""

import hmac
import math
import re
import time
import uuid
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from tasks.worker.job_spec import JobSpecError, parse_form
from tasks.worker.job_store import FullError, TakenError
from tasks.worker.jobs import Job
from tasks.worker.worker import NotNowError, Worker

LARGEST_BODY: Final = 12_000_000
MOST_LISTED: Final = 100
PROMETHEUS: Final = "text/plain; version=0.0.4; charset=utf-8"


class Api:
    """The HTTP handlers of one worker."""

    def __init__(self, worker: Worker, now: Callable[[], float] = time.time) -> None:
        self._worker = worker
        self._store = worker.store
        self._now = now

    def app(self, key: str | None) -> ASGIApp:
        routes = [
            Route("/v1/videos", self.submit, methods=["POST"]),
            Route("/v1/videos", self.listed),
            Route("/v1/videos/{id}", self.shown),
            Route("/v1/videos/{id}", self.deleted, methods=["DELETE"]),
            Route("/v1/videos/{id}/content", self.content),
            Route("/v1/models", self.models),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
        ]
        handlers: Mapping[Any, Any] = {HTTPException: _foreign}
        app = Starlette(routes=routes, exception_handlers=handlers)
        return app if key is None else _Locked(app, key)

    async def submit(self, request: Request) -> Response:
        # A chunked body has any length, whatever its Content-Length says.
        chunked = "transfer-encoding" in request.headers
        if chunked or not 0 < _length(request) <= LARGEST_BODY:
            why = f"Content-Length is not 1 to {LARGEST_BODY}"
            return _error(422, "invalid_request", why)
        async with request.form(max_files=1, max_fields=32) as form:
            fields = {
                name: text for name, text in form.items() if isinstance(text, str)
            }
            file = form.get("input_reference")
            still = await file.read() if isinstance(file, UploadFile) else None
        return await run_in_threadpool(self._taken, fields, still)

    def _taken(self, fields: Mapping[str, str], still: bytes | None) -> Response:
        try:
            model = self._worker.model()
            spec = parse_form(fields, still, model, f"vid-{uuid.uuid4().hex}")
            job = self._worker.take(spec, still or b"")
        except JobSpecError as exc:
            return _error(422, "invalid_request", str(exc))
        except TakenError as exc:
            return _error(409, "id_taken", str(exc))
        except FullError as exc:
            return _later("queue_full", str(exc), self._worker.a_clip_s())
        except NotNowError as exc:
            return _later(exc.code, str(exc), exc.again_s)
        return JSONResponse(self._plain(job))

    def shown(self, request: Request) -> Response:
        job = self._store.job(request.path_params["id"])
        return _unknown(request) if job is None else JSONResponse(self._plain(job))

    def listed(self, request: Request) -> Response:
        query = request.query_params
        limit, order = query.get("limit", "20"), query.get("order", "desc")
        if not (re.fullmatch(r"[0-9]{1,3}", limit) and 1 <= int(limit) <= MOST_LISTED):
            message = f"limit {limit[:40]!r} is not 1 to {MOST_LISTED}"
            return _error(422, "invalid_request", message)
        if order not in {"asc", "desc"}:
            return _error(422, "invalid_request", f"order {order!r} is not asc or desc")
        jobs = self._store.jobs(
            limit=int(limit) + 1, after=query.get("after"), newest_first=order == "desc"
        )
        shown = jobs[: int(limit)]
        listed = [self._plain(job) for job in shown]
        more = len(jobs) > len(shown)
        return JSONResponse({"object": "list", "data": listed, "has_more": more})

    def deleted(self, request: Request) -> Response:
        id_ = request.path_params["id"]
        if not self._worker.delete(id_):
            return _unknown(request)
        return JSONResponse({"id": id_, "object": "video.deleted", "deleted": True})

    def content(self, request: Request) -> Response:
        job = self._store.job(request.path_params["id"])
        if job is None:
            return _unknown(request)
        match job.status:
            case "failed":
                code, why = job.error or ("worker_error", "")
                return _error(422, code, why)
            case "completed":
                return self._clip(job, told=request.method == "GET")
            case _:
                return _error(404, "not_ready", f"{job.id} is {job.status}")

    def _clip(self, job: Job, *, told: bool) -> Response:
        """The clip as a response; `told` is true for GET, after which it counts as fetched."""
        path = self._store.clip(job.id)
        if job.gone or not path.exists():
            return _error(410, "gone", f"the clip of {job.id} was fetched and let go")
        then = (
            BackgroundTask(self._store.fetched, job.id, self._now()) if told else None
        )
        return FileResponse(path, media_type="video/mp4", background=then)

    def models(self, _: Request) -> Response:
        model = {"id": self._worker.name, "object": "model"}
        return JSONResponse({"object": "list", "data": [model]})

    def health(self, _: Request) -> Response:
        phase, reason = self._worker.phase()
        health = {"status": phase, "queued": self._store.queued()}
        if reason:
            health["reason"] = reason
        return JSONResponse(health, 200 if phase in {"ready", "draining"} else 503)

    def metrics(self, _: Request) -> Response:
        metrics = self._worker.metrics
        if metrics is None:
            return PlainTextResponse("", 503)
        return Response(metrics.text(), media_type=PROMETHEUS)

    def _plain(self, job: Job) -> dict[str, Any]:
        spec, error = job.spec, job.error
        took_s = (job.completed_at or 0) - (job.started_at or 0)
        done = job.status == "completed"
        return {
            "id": job.id,
            "object": "video",
            "model": self._worker.name,
            "status": job.status,
            "progress": 100 if done else self._worker.progress(job.id),
            "created_at": int(job.created_at),
            "started_at": _whole(job.started_at),
            "completed_at": _whole(job.completed_at),
            "size": f"{spec.shape.width}x{spec.shape.height}",
            "seconds": spec.seconds,
            "seed": spec.seed,
            "error": error and {"code": error[0], "message": error[1]},
            "stage_durations": job.stages,
            "peak_memory_mb": job.peak_mb,
            "inference_time_s": round(took_s, 3) if done and job.started_at else None,
        }


class _Locked:
    """Requires the key for every path except `/health`."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._wanted = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] != "/health":
            shown = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(shown, self._wanted):
                refusal = _error(401, "unauthorized", "no key, or another")
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _length(request: Request) -> int:
    length = request.headers.get("content-length", "")
    return int(length) if length.isdecimal() else 0


def _whole(moment: float | None) -> int | None:
    return None if moment is None else int(moment)


def _error(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> Response:
    body = {"error": {"code": code, "message": message}}
    return JSONResponse(body, status, headers)


def _later(code: str, message: str, again_s: float) -> Response:
    return _error(503, code, message, {"retry-after": str(max(1, math.ceil(again_s)))})


def _unknown(request: Request) -> Response:
    return _error(404, "not_found", f"no job {request.path_params['id']!r} is here")


def _foreign(_: Request, exc: HTTPException) -> Response:
    """The answer to a request that the framework refuses: a bad path, method or form."""
    known = {400: "invalid_request", 404: "not_found"}
    status = 422 if exc.status_code == HTTPStatus.BAD_REQUEST else exc.status_code
    return _error(status, known.get(exc.status_code, "refused"), str(exc.detail))
