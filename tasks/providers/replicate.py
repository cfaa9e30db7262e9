"""Replicate: https://replicate.com/docs, read 2026-11, and its SDK, replicate 1.0.7.

It counts a clip in frames, and deletes it after an hour.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import httpx

from manifests.jobs import Job
from manifests.lifecycle import Ticket
from storage.media import Still
from tasks.providers import listings
from tasks.providers.job_failures import always, failures, says
from tasks.providers.parsing import (
    digest,
    path_segment,
    read_body,
    remote_id,
    status_words,
)
from tasks.providers.predictions import NO_MODEL, PredictionApi
from tasks.providers.protocol import (
    AccountReport,
    Doubt,
    Exchange,
    Found,
    Gone,
    Progress,
)
from tasks.providers.refusals import Refusals, refusal
from tasks.providers.stills import as_file
from tasks.providers.submissions import Submission, frames

Prediction = Mapping[str, Any]
Predictions = Sequence[Prediction]

FRAMES: Final = (81, 121)
"""The fewest and the most frames of a clip (the model's schema, read 2026-11)."""

MODELS: Final = "/v1/models/"
"""The path below which 404 is an answer: there is no such model."""

SENSITIVE: Final = re.compile("NSFW|sensitive|flagged|safety", re.IGNORECASE)
UNOFFICIAL: Final = re.compile("version is required")
BUY_CREDIT: Final = (
    "buy credit at https://replicate.com/account/billing, and wait a few minutes before "
    "the next run"
)
NAME_OFFICIAL: Final = (
    "name one of Replicate's official models in the route's endpoints"
)
REFUSALS: Final = Refusals(
    provider="replicate",
    mark="detail",
    uploads="/files",
    table=(
        refusal("auth", 401, fix="check the token"),
        refusal("credit", 402, fix=BUY_CREDIT),
        refusal("permission", 404, submit_only=True, fix=NO_MODEL),
        refusal("permission", 422, says=UNOFFICIAL, fix=NAME_OFFICIAL),
        refusal("invalid", 422),
        refusal("throttled", 429),
    ),
)


def _has_failed(task: Mapping[str, Any]) -> bool:
    return str(task["status"]).lower() == "failed"


FAILURES: Final = (
    *failures(
        (
            "content",
            "`failed`, where the error says NSFW, sensitive, flagged or safety",
            lambda task: _has_failed(task) and says(SENSITIVE)(task),
        ),
        ("server", "`failed`", _has_failed),
        charged=False,
        source="docs, billing: a run that fails is not charged, read 2026-11",
    ),
    *failures(
        ("stopped", "`canceled`, `aborted`", always),
        charged=None,
        source="docs, billing: a run that is canceled may be charged, read 2026-11",
    ),
)


@dataclass(frozen=True, slots=True)
class Replicate(PredictionApi):
    """The model is in the path of a submit; a listing repeats each prediction's input."""

    name: ClassVar = "replicate"
    api: ClassVar = "https://api.replicate.com/v1"
    hosts: ClassVar = frozenset({"api.replicate.com"})
    refusals: ClassVar = REFUSALS
    failures: ClassVar = FAILURES
    task_path: ClassVar = "/predictions/{}"
    words: ClassVar = status_words(
        waiting="starting processing",
        ready="succeeded",
        failed="failed canceled aborted",
    )

    def upload(self, still: Still) -> Exchange[str]:
        request = self._request("POST", "/files", files={"content": as_file(still)})
        return self._link(request, "urls", "get")

    def _submit_request(self, asked: Submission) -> httpx.Request:
        fields: dict[str, object] = {"input": self._input(asked)}
        if self.hook:
            fields |= {"webhook": self.hook, "webhook_events_filter": ["completed"]}
        return self._post(f"/models/{self._model(asked.job)}/predictions", fields)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        task = yield from self._look(ticket.id)
        is_ready = self.words.meaning(task.fields["status"]) == "ready"
        is_removed = task.fields.get("data_removed") is True
        if is_ready and is_removed and not task.link:
            # docs, data retention, read 2026-11
            return Gone("results are kept one hour")
        return self._progress(task)

    def _is_expected(self, response: httpx.Response, body: Any, code: int) -> bool:
        request = response.request
        asks_model = request.method == "GET" and request.url.path.startswith(MODELS)
        return code == 404 and asks_model and REFUSALS.is_own(body)

    def _has_task(self, response: httpx.Response, body: Any) -> bool:
        """Whether the answer to a submit has a prediction, whatever its HTTP status."""
        match body:
            case {"id": value, "status": str()}:
                return bool(value) and REFUSALS.step(response.request) == "submit"
            case _:
                return False

    def check(self) -> Exchange[AccountReport]:
        match body := (yield from self._get("/account")):
            case {"username": str()}:
                pass
            case _:
                raise self._unreadable(body)
        there: list[bool] = []
        for endpoint in {*self.route.endpoints.values()}:
            answer = yield self._request("GET", f"/models/{endpoint}")
            there.append(answer.is_success)
        return AccountReport(has_model=all(there))

    def mark(self, job: Job, image_url: str, seed: int, reference: str) -> str:
        asked = Submission(job, image_url, seed, reference)
        return _mark({"input": self._input(asked)})

    def find(self, doubt: Doubt) -> Exchange[Found]:
        has_older = False

        def read(answer: httpx.Response) -> tuple[Predictions, httpx.Request | None]:
            nonlocal has_older
            page, onward = self._read_page(answer)
            ahead_s = listings.clock_ahead_s(answer, self.now())
            since = listings.earliest(doubt.submitted_at, ahead_s)
            new = [t for t in page if listings.from_date(t["created_at"]) >= since]
            has_older = len(new) < len(page)
            return new, None if has_older else onward

        first = self._request("GET", "/predictions")
        tasks = yield from listings.all_items(first, read)
        if tasks is None or not doubt.mark:
            return None
        listed = [(remote_id(task["id"]), task) for task in tasks]
        reaches_back = has_older or len(tasks) < listings.PAGE
        return listings.settled(
            self.name,
            [(remote, task) for remote, task in listed if remote not in doubt.known],
            is_it=lambda task: self._is_ours(task) and _mark(task) == doubt.mark,
            may_be=lambda task: self._may_be(task, doubt),
            absent=listings.absence(
                {remote for remote, _ in listed},
                doubt,
                f"not among the predictions that {self.name} lists",
                reaches_back=reaches_back,
            ),
        )

    def _input(self, asked: Submission) -> dict[str, object]:
        least, most = FRAMES
        return {
            "image": asked.image_url,
            "prompt": asked.job.prompt,
            "num_frames": frames(self.route, asked.job, least=least, most=most),
            "frames_per_second": self.route.fps,
            "resolution": asked.job.resolution,
            "seed": asked.seed,
        }

    def _read_page(
        self, answer: httpx.Response
    ) -> tuple[Predictions, httpx.Request | None]:
        """Return the predictions of a page, and the request for the next one."""
        match body := read_body(answer):
            case {"results": [*page], "next": str() | None as following}:
                pass
            case _:
                raise self._unreadable(body)
        if not following:
            return page, None
        # The link may name another host, which must not get the key.
        cursor = path_segment(httpx.URL(following).params["cursor"])
        return page, self._request("GET", f"/predictions?cursor={cursor}")

    def _is_ours(self, task: Prediction) -> bool:
        """Whether a prediction may be of this route: it may not name its model."""
        return (task.get("model") or "") in {*self.route.endpoints.values(), ""}

    def _may_be(self, task: Prediction, doubt: Doubt) -> bool:
        """Whether a prediction may be the submit: it has no input, or another still's link."""
        if not self._is_ours(task):
            # The lane's route has changed, so the submit may name another model.
            return doubt.route != self.route.name
        listed = _mark(task)
        return not listed or listed.rpartition("-")[2] == doubt.mark.rpartition("-")[2]


FIELDS: Final = ("prompt", "num_frames", "frames_per_second", "resolution", "seed")
"""The fields of a submit besides the still; a listing may add the defaults of others."""


def _mark(task: Prediction) -> str:
    """Return two digests of a submit's input: with the still, and without it."""
    match task.get("input"):
        case {"image": image, **rest} if "prompt" in rest:
            fields = {name: rest.get(name) for name in FIELDS}
            return f"{digest({**fields, 'image': image})}-{digest(fields)}"
        case _:
            return ""
