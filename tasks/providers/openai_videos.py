"""`/v1/videos`: the API that several engines share.

An `Engine` in each engine's own file states where it differs. Engines call nobody back,
and forget their jobs when they restart unless their own file says otherwise.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

import httpx

from manifests.catalogue.routes import Route
from manifests.jobs import Job
from manifests.lifecycle import Ticket
from tasks.providers import self_hosted
from tasks.providers.errors import ProviderError
from tasks.providers.parsing import (
    digest,
    has_model,
    path_segment,
    read_body,
    redact,
)
from tasks.providers.protocol import (
    Absent,
    AccountReport,
    Doubt,
    Exchange,
    Finished,
    Progress,
    Still,
    UnreadableError,
)
from tasks.providers.refusals import (
    Failure,
    Refusals,
    failure,
)
from tasks.providers.stills import as_data_url

VIDEOS: Final = f"{self_hosted.API}/v1/videos"
PAGE: Final = 100
PAGES: Final = 100
"""The most pages that are read of a listing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The differences between engines."""

    refusals: Refusals
    failures: tuple[Failure, ...]
    id_field: str = ""
    """The field of a submit whose value becomes the job's id."""
    echoed_field: str = ""
    """A field of a submit that decides nothing and that the listing repeats."""
    checks_model: bool = False
    """Whether a submit must name the model as the engine serves it."""
    takes_shift: bool = True
    """Whether a submit has `flow_shift`."""
    as_json: bool = False
    """Whether a submit is JSON with the still in `reference_url`, instead of a form."""


@dataclass(frozen=True, slots=True)
class OpenAiVideos:
    """A submit is a form with the still in it; a clip is at its job's own address."""

    name: ClassVar[str]
    hosts: ClassVar = frozenset({self_hosted.HOST})
    engine: ClassVar[Engine]

    route: Route
    key: str = field(repr=False)
    hook: str = ""

    def upload(self, still: Still) -> Exchange[str]:
        """Return the still as a data URL: the engines have no uploads."""
        yield from ()
        return as_data_url(still)

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        fields = self._fields(job, seed, reference)
        still = self_hosted.decode_still(image_url)
        if self.engine.as_json:
            content = {**fields, "reference_url": image_url}
            request = self._request("POST", "", json=content)
        else:
            request = self_hosted.form_request(VIDEOS, self.key, fields, still)
        match body := read_body((yield request)):
            case {"id": str(remote), "status": str()} if remote:
                return Ticket(self.name, remote)
            case _:
                raise self._unreadable(body)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        path = f"/{path_segment(ticket.id)}"
        match body := read_body((yield self._request("GET", path))):
            case {"status": "completed", "url": str(url)} if url:
                # SGLang moved the clip to S3; its own address answers 400.
                return Finished(url, stages=_stages(body))
            case {"status": "completed"}:
                seed = body.get("seed")
                return Finished(
                    f"{VIDEOS}{path}/content",
                    seed if isinstance(seed, int) else None,
                    stages=_stages(body),
                )
            case {"status": "queued" | "in_progress"}:
                return None
            case {"status": "failed" | "cancelled" | "deleted"}:
                reason = self_hosted.end_reason(body, self.key)
                return failure(self.engine.failures, body, reason)
            case _:
                raise self._unreadable(body)

    def fetch(self, url: str) -> httpx.Request:
        return self_hosted.clip_request(url, self.key)

    def check(self) -> Exchange[AccountReport]:
        """Ask whether it is up, accepts our key, and serves the model."""
        yield httpx.Request("GET", f"{self_hosted.API}/health")
        yield self._request("GET", "?limit=1")
        if not self.engine.checks_model:
            return AccountReport()
        url, headers = (
            f"{self_hosted.API}/v1/models",
            self_hosted.auth_headers(self.key),
        )
        models = read_body((yield httpx.Request("GET", url, headers=headers)))
        return AccountReport(has_model=has_model(self.route, models, "id"))

    def judge(self, response: httpx.Response) -> ProviderError | None:
        body, code = read_body(response), response.status_code
        refusals = self.engine.refusals
        finds = self_hosted.FINDS in response.request.extensions
        if code == 404 and refusals.is_own(body) and finds:
            return None
        # vLLM-Omni answers a poll of a failed job with HTTP 500 and the job.
        if response.is_success or _is_job(body):
            return None
        return refusals.verdict(response, body, code=code, key=self.key)

    def mark(self, job: Job, image_url: str, seed: int, reference: str) -> str:
        del image_url, seed
        if self.engine.id_field or self.engine.echoed_field:
            return reference
        width, height = self_hosted.size(self.route, job)
        return digest([job.prompt, f"{width}x{height}"])

    def find(self, doubt: Doubt) -> Exchange[Ticket | Absent | None]:
        """Look for the job by its id, or among the jobs that the engine lists."""
        if self.engine.id_field:
            path = f"/{path_segment(doubt.mark)}"
            if _is_job(read_body((yield self._request("GET", path, finds=True)))):
                return Ticket(self.name, doubt.mark)
            return Absent(f"{self.name}: no job is called {doubt.mark}")
        listed = yield from self._list()
        if listed is None:
            return None
        matching = [*self._matching(listed, doubt)]
        if not matching:
            return Absent(f"not among the jobs that {self.name} lists")
        # Without an echoed reference, a job with the same prompt may be another row's.
        if self.engine.echoed_field and len(matching) == 1:
            return Ticket(self.name, matching[0])
        return None

    def _matching(self, listed: list[dict[str, Any]], doubt: Doubt) -> Iterator[str]:
        echoed = self.engine.echoed_field
        for job in listed:
            mark = job.get(echoed) if echoed else _mark(job)
            if mark == doubt.mark and job["id"] not in doubt.known:
                yield job["id"]

    def _list(self) -> Exchange[list[dict[str, Any]] | None]:
        """Return all jobs since the engine's start; None if the listing does not end."""
        found: list[dict[str, Any]] = []
        path = f"?limit={PAGE}&order=desc"
        for _ in range(PAGES):
            match body := read_body((yield self._request("GET", path))):
                case {"data": [*page]}:
                    found += page
                case _:
                    raise self._unreadable(body)
            if len(page) < PAGE:
                return found
            path = f"?limit={PAGE}&order=desc&after={path_segment(page[-1]['id'])}"
        return None

    def _fields(self, job: Job, seed: int, reference: str) -> dict[str, object]:
        """Return every setting of the clip: engines have defaults for missing ones."""
        engine, sampling = self.engine, self.route.sampling
        width, height = self_hosted.size(self.route, job)
        fields: dict[str, object] = {
            "prompt": job.prompt,
            "negative_prompt": job.negative_prompt or self_hosted.NEGATIVE,
            "size": f"{width}x{height}",
            "num_frames": self_hosted.frames(self.route, job),
            "fps": self.route.fps,
            "seed": seed,
            "num_inference_steps": sampling.steps,
            "guidance_scale": sampling.cfg_high,
            "guidance_scale_2": sampling.cfg_low,
        }
        if engine.takes_shift:
            fields["flow_shift"] = sampling.shift
        if engine.checks_model:
            fields["model"] = self.route.endpoints[job.resolution]
        if field_name := engine.id_field or engine.echoed_field:
            fields[field_name] = reference
        return fields

    def _request(
        self, method: str, path: str, *, json: object = None, finds: bool = False
    ) -> httpx.Request:
        return httpx.Request(
            method,
            f"{VIDEOS}{path}",
            headers=self_hosted.auth_headers(self.key),
            json=json,
            extensions={self_hosted.FINDS: True} if finds else None,
        )

    def _unreadable(self, body: Any) -> UnreadableError:
        return UnreadableError(self.name, redact(body, self.key))


def _stages(job: Mapping[str, Any]) -> dict[str, float]:
    """Return the seconds of each stage, or of all together, that the engine reports."""
    stages: Any = job.get("stage_durations") or {"all": job.get("inference_time_s")}
    match stages:
        case {**durations}:
            return {
                str(name): round(float(seconds), 3)
                for name, seconds in durations.items()
                if isinstance(seconds, int | float) and not isinstance(seconds, bool)
            }
        case _:
            return {}


def _is_job(body: Any) -> bool:
    match body:
        case {"id": str(remote), "status": str()}:
            return bool(remote)
        case _:
            return False


def _mark(job: dict[str, Any]) -> str:
    """Return `OpenAiVideos.mark` of a listed job that repeats its prompt."""
    return digest([job.get("prompt"), job.get("size")])
