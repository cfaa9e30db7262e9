"""`/v1/videos`: the API that several engines share.

Each engine's own file states where it differs. Engines call nobody back, and forget their
jobs when they restart unless their own file says otherwise.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import httpx

from manifests.jobs import Job
from manifests.lifecycle import Ticket
from tasks.providers import self_hosted
from tasks.providers.listings import absence, all_items, settled
from tasks.providers.parsing import (
    digest,
    has_model,
    path_segment,
    read_body,
    remote_id,
    status_words,
)
from tasks.providers.protocol import (
    AccountReport,
    Doubt,
    Exchange,
    Finished,
    Found,
    Progress,
)
from tasks.providers.self_hosted import SelfHosted

PAGE: Final = 100
FIRST_PAGE: Final = f"?limit={PAGE}&order=desc"


@dataclass(frozen=True, slots=True)
class OpenAiVideos(SelfHosted):
    """A submit is a form with the still in it; a clip is at its job's own address."""

    api: ClassVar = f"{self_hosted.API}/v1/videos"
    poll_path: ClassVar = "/{}"
    clip_path: ClassVar = "/{}/content"
    words: ClassVar = status_words(
        waiting="queued in_progress",
        ready="completed",
        failed="failed cancelled deleted",
    )
    id_field: ClassVar[str] = ""
    """The field of a submit whose value becomes the job's id."""
    echoed_field: ClassVar[str] = ""
    """A field of a submit that decides nothing and that the listing repeats."""
    checks_model: ClassVar[bool] = False
    """Whether a submit must name the model as the engine serves it."""
    takes_shift: ClassVar[bool] = True
    """Whether a submit has `flow_shift`."""
    as_json: ClassVar[bool] = False
    """Whether a submit is JSON with the still in `reference_url`, instead of a form."""

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        fields = self._fields(job, seed, reference)
        still = self_hosted.decode_still(image_url)
        if self.as_json:
            content = {**fields, "reference_url": image_url}
            request = self._request("POST", "", json=content)
        else:
            request = self._form(fields, still)
        body = read_body((yield request))
        if self._is_job(body):
            return Ticket(self.name, remote_id(body["id"]))
        raise self._unreadable(body)

    def check(self) -> Exchange[AccountReport]:
        """Ask whether it is up, accepts our key, and serves the model."""
        yield httpx.Request("GET", f"{self_hosted.API}/health")
        yield self._request("GET", "?limit=1")
        if not self.checks_model:
            return AccountReport()
        url = f"{self_hosted.API}/v1/models"
        models = read_body((yield httpx.Request("GET", url, headers=self._auth())))
        return AccountReport(has_model=has_model(self.route, models, "id"))

    def mark(self, job: Job, image_url: str, seed: int, reference: str) -> str:
        del image_url, seed
        if self.id_field or self.echoed_field:
            return reference
        width, height = self_hosted.size(self.route, job)
        return digest([job.prompt, f"{width}x{height}"])

    def find(self, doubt: Doubt) -> Exchange[Found]:
        """Look for the job by its id, or among the jobs that the engine lists."""
        if self.id_field:
            return (yield from SelfHosted.find(self, doubt))
        listed = yield from all_items(self._request("GET", FIRST_PAGE), self._read_page)
        if listed is None:
            return None
        jobs = [(remote_id(job["id"]), job) for job in listed]
        # Without an echoed reference, a job with the same prompt may be another row's.
        return settled(
            self.name,
            [(remote, job) for remote, job in jobs if remote not in doubt.known],
            is_it=lambda job: self._echoes(job, doubt) and bool(self.echoed_field),
            may_be=lambda job: self._echoes(job, doubt),
            absent=absence(
                {remote for remote, _ in jobs},
                doubt,
                f"not among the jobs that {self.name} lists",
                reaches_back=True,
            ),
        )

    def _echoes(self, job: Mapping[str, Any], doubt: Doubt) -> bool:
        """Whether a listed job has the mark of a submit."""
        echoed = self.echoed_field
        return doubt.mark == (job.get(echoed) if echoed else _mark(job))

    def _read_page(
        self, answer: httpx.Response
    ) -> tuple[list[dict[str, Any]], httpx.Request | None]:
        match body := read_body(answer):
            case {"data": [*page]}:
                pass
            case _:
                raise self._unreadable(body)
        if len(page) < PAGE:
            return page, None
        last = remote_id(page[-1]["id"])
        after = f"{FIRST_PAGE}&after={path_segment(last)}"
        return page, self._request("GET", after)

    def _fields(self, job: Job, seed: int, reference: str) -> dict[str, object]:
        """Return every setting of the clip: engines have defaults for missing ones."""
        sampling = self.route.sampling
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
        if self.takes_shift:
            fields["flow_shift"] = sampling.shift
        if self.checks_model:
            fields["model"] = self.route.endpoints[job.resolution]
        if field_name := self.id_field or self.echoed_field:
            fields[field_name] = reference
        return fields

    def _form(
        self, fields: Mapping[str, object], still: tuple[str, bytes, str]
    ) -> httpx.Request:
        """Return a submit as a form; equal fields, equal bytes."""
        text = {name: str(value) for name, value in fields.items()}
        boundary = digest([text, len(still[1])])
        kind = {"content-type": f"multipart/form-data; boundary={boundary}"}
        form = {"input_reference": still}
        request = self._request("POST", "", headers=kind, data=text, files=form)
        request.read()
        return request

    def _finished(self, ticket: Ticket, job: Mapping[str, Any]) -> Progress:
        match job:
            case {"url": str(url)} if _is_reachable(url):
                # SGLang moved the clip to S3; its own address answers 400.
                place = httpx.URL(f"{self.api}/{path_segment(ticket.id)}").join(url)
                return Finished(str(place), stages=_stages(job))
            case _:
                seed = job.get("seed")
                url = f"{self.api}{self.clip_path.format(path_segment(ticket.id))}"
                return Finished(
                    url, seed if isinstance(seed, int) else None, stages=_stages(job)
                )

    def _has_job(self, body: Any, code: int) -> bool:
        # vLLM-Omni answers a poll of a failed job with HTTP 500 and the job.
        del code
        return self._is_job(body)

    def _is_job(self, body: Any) -> bool:
        match body:
            case {"id": value, "status": str()}:
                return bool(remote_id(value))
            case _:
                return False


def _is_reachable(url: str) -> bool:
    """Whether a link leads to a clip: a URL, or a path at the engine's own address.

    `0.0.0.0` and a file's name mean the engine's own machine: the clip is asked for at its
    job's address.
    """
    if url.startswith("/"):
        return True
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    nowhere = {"", "0.0.0.0", "::"}  # noqa: S104 - nothing is bound to it
    return parts.scheme in {"http", "https"} and parts.host not in nowhere


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


def _mark(job: Mapping[str, Any]) -> str:
    """Return `OpenAiVideos.mark` of a listed job that repeats its prompt."""
    return digest([job.get("prompt"), job.get("size")])
