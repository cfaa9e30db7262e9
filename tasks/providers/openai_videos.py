"""`/v1/videos`: what the engines that speak it have in common.

Where they differ is data: an `Engine`, in the file of each. None of them is told where to
call back, and none keeps a job over its restart, unless its own file says so.
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
"""How much of a listing is read, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """How one engine differs from the others."""

    refusals: Refusals
    failures: tuple[Failure, ...]
    named: str = ""
    """The field of a submit in which it takes our own name for a job as the job's id."""
    echoed: str = ""
    """The field of a submit that decides nothing, and that its listing repeats."""
    serves: bool = False
    """Whether `model` has to be the name that it is served under."""
    shifts: bool = True
    """Whether a submit says `flow_shift`."""
    as_json: bool = False
    """Whether a submit is JSON with the still in `reference_url`, and not a form."""


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
        """There are no uploads: what `submit` takes is the still itself."""
        yield from ()
        return as_data_url(still)

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        asked = self._asked(job, seed, reference)
        if self.engine.as_json:
            self_hosted.picture(image_url)
            body = {**asked, "reference_url": image_url}
            request = self._request("POST", "", json=body)
        else:
            still = self_hosted.picture(image_url)
            request = self_hosted.form(VIDEOS, self.key, asked, still)
        match said := read_body((yield request)):
            case {"id": str(remote), "status": str()} if remote:
                return Ticket(self.name, remote)
            case _:
                raise self._unreadable(said)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        match said := read_body(
            (yield self._request("GET", f"/{path_segment(ticket.id)}"))
        ):
            case {"status": "completed", "url": str(store)} if store:
                # Its own address says 400 of a clip that went to a store (SGLang, S3).
                return Finished(store, stages=_stages(said))
            case {"status": "completed"}:
                seed = said.get("seed")
                url = f"{VIDEOS}/{path_segment(ticket.id)}/content"
                known = seed if isinstance(seed, int) else None
                return Finished(url, known, stages=_stages(said))
            case {"status": "queued" | "in_progress"}:
                return None
            case {"status": "failed" | "cancelled" | "deleted"}:
                return failure(
                    self.engine.failures, said, self_hosted.why(said, self.key)
                )
            case _:
                raise self._unreadable(said)

    def fetch(self, url: str) -> httpx.Request:
        return self_hosted.fetched(url, self.key)

    def check(self) -> Exchange[AccountReport]:
        """Whether it is up, whether it takes our key, and whether it serves the model."""
        yield httpx.Request("GET", f"{self_hosted.API}/health")
        yield self._request("GET", "?limit=1")
        if not self.engine.serves:
            return AccountReport()
        models = httpx.URL(f"{self_hosted.API}/v1/models")
        asked = httpx.Request("GET", models, headers=self_hosted.headers(self.key))
        return AccountReport(
            has_model=has_model(self.route, read_body((yield asked)), "id")
        )

    def judge(self, response: httpx.Response) -> ProviderError | None:
        said = read_body(response)
        its_own = isinstance(said, dict) and self.engine.refusals.mark in said
        finds = self_hosted.FINDS in response.request.extensions
        if response.status_code == 404 and its_own and finds:
            return None
        # vLLM-Omni answers a poll of a job that failed with HTTP 500, and the job.
        if response.is_success or _is_job(said):
            return None
        code = response.status_code
        return self.engine.refusals.verdict(response, said, code=code, key=self.key)

    def mark(self, job: Job, image_url: str, seed: int, reference: str) -> str:
        del image_url, seed
        if self.engine.named or self.engine.echoed:
            return reference
        width, height = self_hosted.size(self.route, job)
        return digest([job.prompt, f"{width}x{height}"])

    def find(self, doubt: Doubt) -> Exchange[Ticket | Absent | None]:
        """By our own name where it takes one; else among those that it lists."""
        if self.engine.named:
            asked = self._request("GET", f"/{path_segment(doubt.mark)}", finds=True)
            if _is_job(read_body((yield asked))):
                return Ticket(self.name, doubt.mark)
            return Absent(f"{self.name}: no job is called {doubt.mark}")
        listed = yield from self._all()
        ours = [*self._alike(listed, doubt)]
        if not ours:
            return Absent(f"not among the jobs that {self.name} lists")
        # One with the same prompt may be another row's.
        if self.engine.echoed and len(ours) == 1:
            return Ticket(self.name, ours[0])
        return None

    def _alike(self, listed: list[dict[str, Any]], doubt: Doubt) -> Iterator[str]:
        for job in listed:
            told = job.get(self.engine.echoed) if self.engine.echoed else _digest(job)
            if told == doubt.mark and job["id"] not in doubt.known:
                yield job["id"]

    def _all(self) -> Exchange[list[dict[str, Any]]]:
        """All jobs that it has in memory: whatever its clock says, and its last restart."""
        found: list[dict[str, Any]] = []
        path = f"?limit={PAGE}&order=desc"
        for _ in range(PAGES):
            match said := read_body((yield self._request("GET", path))):
                case {"data": [*page]}:
                    found += page
                case _:
                    raise self._unreadable(said)
            if len(page) < PAGE:
                break
            path = f"?limit={PAGE}&order=desc&after={path_segment(page[-1]['id'])}"
        return found

    def _asked(self, job: Job, seed: int, reference: str) -> dict[str, object]:
        """All that decides about the clip: what goes unsaid has a default of the engine's."""
        engine, how = self.engine, self.route.sampling
        width, height = self_hosted.size(self.route, job)
        asked: dict[str, object] = {
            "prompt": job.prompt,
            "negative_prompt": job.negative_prompt or self_hosted.NEGATIVE,
            "size": f"{width}x{height}",
            "num_frames": self_hosted.frames(self.route, job),
            "fps": self.route.fps,
            "seed": seed,
            "num_inference_steps": how.steps,
            "guidance_scale": how.cfg_high,
            "guidance_scale_2": how.cfg_low,
        }
        if engine.shifts:
            asked["flow_shift"] = how.shift
        if engine.serves:
            asked["model"] = self.route.endpoints[job.resolution]
        if named := engine.named or engine.echoed:
            asked[named] = reference
        return asked

    def _request(
        self, method: str, path: str, *, json: object = None, finds: bool = False
    ) -> httpx.Request:
        return httpx.Request(
            method,
            f"{VIDEOS}{path}",
            headers=self_hosted.headers(self.key),
            json=json,
            extensions={self_hosted.FINDS: True} if finds else None,
        )

    def _unreadable(self, said: Any) -> UnreadableError:
        return UnreadableError(self.name, redact(said, self.key))


def _stages(job: Mapping[str, Any]) -> dict[str, float]:
    """The seconds of each stage, or of all, as far as this engine tells."""
    told: Any = job.get("stage_durations") or {"all": job.get("inference_time_s")}
    match told:
        case {**stages}:
            known = ((name, took) for name, took in stages.items())
            return {
                str(name): round(float(took), 3)
                for name, took in known
                if isinstance(took, int | float) and not isinstance(took, bool)
            }
        case _:
            return {}


def _is_job(said: Any) -> bool:
    match said:
        case {"id": str(remote), "status": str()}:
            return bool(remote)
        case _:
            return False


def _digest(job: dict[str, Any]) -> str:
    """As `OpenAiVideos.mark`, of an engine whose listing repeats the prompt."""
    return digest([job.get("prompt"), job.get("size")])
