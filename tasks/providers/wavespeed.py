"""WaveSpeed: https://wavespeed.ai/docs, read 2026-11, and its SDK, wavespeed 2.0.5.

Its envelope is `{code, message, data}`, and an HTTP 200 may carry a refusal.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, ClassVar, Final

import httpx

from manifests.jobs import Job
from manifests.lifecycle import Ticket
from storage.media import Still
from tasks.providers import listings
from tasks.providers.job_failures import Failure, always, failures, has
from tasks.providers.parsing import (
    amount,
    digest,
    has_model,
    read_body,
    remote_id,
    status_words,
    value_at,
)
from tasks.providers.predictions import NO_MODEL, PredictionApi
from tasks.providers.protocol import (
    AccountReport,
    Doubt,
    Exchange,
    Found,
    Progress,
    Unproven,
)
from tasks.providers.refusals import Refusals, refusal
from tasks.providers.submissions import Submission, clip_fields

# From public reports: no page documents the answer to an empty account.
OUT_OF_CREDIT: Final = re.compile(
    r"insufficient credit|insufficient balance|insufficient fund", re.IGNORECASE
)
CHECK_KEY: Final = "check the key; a new one sleeps until the account's first top-up"
TOP_UP: Final = "top up the account at https://wavespeed.ai"
NOT_ALLOWED: Final = "check that the account may use this model"
REFUSALS: Final = Refusals(
    provider="wavespeed",
    mark="message",
    uploads="/media/uploads",
    asks=("/model/price", "/api/v3/predictions"),
    table=(
        refusal("auth", 401, fix=CHECK_KEY),
        refusal("credit", 402, fix=TOP_UP),
        refusal("credit", 400, 403, says=OUT_OF_CREDIT, fix=TOP_UP),
        refusal("permission", 403, fix=NOT_ALLOWED),
        refusal("permission", 404, submit_only=True, fix=NO_MODEL),
        # 1200, 1400 and 1401 are task codes (docs, error-codes).
        refusal("content", 1200),
        refusal("invalid", 400, 413, 422, 1400, 1401),
        refusal("throttled", 429),
    ),
)
FAILURES: Final = failures(
    (
        "content",
        "`failed` with code 1200, or `true` in `has_nsfw_contents`",
        lambda task: (
            task.get("code") == 1200 or True in (task.get("has_nsfw_contents") or ())
        ),
    ),
    ("invalid", "`failed` with code 1400 or 1401", has("code", 1400, 1401)),
    ("server", "`failed`, `cancelled`, `timeout`, `deleted`", always),
    charged=False,
    source="docs, pricing: failed tasks are refunded within three hours, 2026-11",
)
CATALOGUE: Final = ("/models", "/model/price")
"""Pages that may or may not know a model and its price."""

CLOCK_TOLERANCE_S: Final = 60.0
"""If the clocks differ by more, `find` asks for a longer period."""


@dataclass(frozen=True, slots=True)
class WaveSpeed(PredictionApi):
    """The model's id is the path of a submit; a listing has the accepted submits."""

    name: ClassVar[str] = "wavespeed"
    api: ClassVar[str] = "https://api.wavespeed.ai/api/v3"
    hosts: ClassVar[frozenset[str]] = frozenset({"api.wavespeed.ai"})
    refusals: ClassVar[Refusals] = REFUSALS
    failures: ClassVar[tuple[Failure, ...]] = FAILURES
    enveloped: ClassVar = True
    has_store: ClassVar = True
    task_path: ClassVar = "/predictions/{}/result"
    hook_param: ClassVar = "webhook"
    words: ClassVar = status_words(
        waiting="created processing",
        ready="completed",
        failed="failed cancelled timeout deleted",
    )

    def upload(self, still: Still) -> Exchange[str]:
        fields = {
            "filename": still.filename,
            "size": len(still.content),
            "content_type": still.media_type,
        }
        request = self._request("POST", "/media/uploads", json=fields)
        match body := (yield from self._ask(request)):
            case {
                "data": {
                    "download_url": str(url),
                    "upload": {"method": "PUT", "url": str(store)} as put,
                }
            }:
                headers: dict[str, str] = put.get("headers") or {}
                content = still.content
                yield httpx.Request("PUT", store, headers=headers, content=content)
                return url
            case _:
                raise self._unreadable(body)

    def _submit_request(self, asked: Submission) -> httpx.Request:
        return self._post(f"/{self._model(asked.job)}", self._inputs(asked))

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        task = yield from self._look(ticket.id)
        if _is_timed_out(task.fields) and not task.link:
            return None
        return self._progress(task)

    def _is_expected(self, response: httpx.Response, body: Any, code: int) -> bool:
        path = response.request.url.path
        is_unlisted = path.endswith(CATALOGUE) and code in {400, 404, 422}
        return is_unlisted or _is_bare_task(response, body)

    def check(self) -> Exchange[AccountReport]:
        balance = yield from self._get("/balance")
        models = yield from self._get("/models")
        prices = yield from self._prices(self._price_request)
        return AccountReport(
            credit_usd=amount(value_at(balance, "data", "balance")),
            prices_usd=prices,
            has_model=has_model(self.route, models, "model_id"),
        )

    def mark(self, job: Job, image_url: str, seed: int, reference: str) -> str:
        asked = Submission(job, image_url, seed, reference)
        return digest({"model": self._model(job), **self._inputs(asked)})

    def find(self, doubt: Doubt) -> Exchange[Found]:
        seen: set[str] = set()
        answer, ahead_s = yield from self._first_page(doubt)
        pages = count(2)
        while not (listed := self._listed(answer)).keys() <= seen:
            for remote, item in listed.items():
                if remote not in doubt.known and _mark(item) == doubt.mark:
                    return Ticket(self.name, remote)
            seen |= listed.keys()
            answer = yield self._listing(doubt, next(pages), ahead_s)
        # The documented listing has no inputs, so an unknown item may be this submit.
        if not seen <= doubt.known:
            return None
        if not doubt.near:
            return Unproven("no submit of ours near that time proves the listing whole")
        # A page that repeats others is no end: paging is ignored.
        is_whole = not listed and len(seen) < listings.PAGE
        reason = "it accepted nothing about then that is not on our record"
        return listings.absence(seen, doubt, reason, reaches_back=is_whole)

    def _first_page(self, doubt: Doubt) -> Exchange[tuple[httpx.Response, float]]:
        """Ask for the first page, and again for a longer period if the clocks differ."""
        answer = yield self._listing(doubt, 1, 0.0)
        ahead_s = listings.clock_ahead_s(answer, self.now())
        if abs(ahead_s) <= CLOCK_TOLERANCE_S:
            return answer, 0.0
        return (yield self._listing(doubt, 1, ahead_s)), ahead_s

    def _listing(self, doubt: Doubt, page: int, ahead_s: float) -> httpx.Request:
        """Ask for a page of the submits about that time, of every model.

        A filter by a model that WaveSpeed spells differently would give an empty listing,
        and an accepted submit would seem absent.
        """
        at = doubt.submitted_at
        fields = {
            "page": page,
            "page_size": listings.PAGE,
            "created_after": listings.to_date(listings.earliest(at, ahead_s)),
            "created_before": listings.to_date(listings.latest(at, ahead_s)),
        }
        return self._request("POST", "/predictions", json=fields)

    def _listed(self, answer: httpx.Response) -> Mapping[str, Any]:
        """Return the items of a page by their ids."""
        match body := read_body(answer):
            case {"data": {"items": [*items]}}:
                listed = {remote_id(value_at(item, "id")): item for item in items}
            case _:
                raise self._unreadable(body)
        if "" in listed:
            raise self._unreadable(listed[""])
        return listed

    def _price_request(self, asked: Submission) -> httpx.Request:
        # All inputs: without one of them, WaveSpeed answers with the lowest price.
        fields = {"model_id": self._model(asked.job), "inputs": self._inputs(asked)}
        return self._request("POST", "/model/price", json=fields)

    def _inputs(self, asked: Submission) -> dict[str, object]:
        fields = clip_fields(self.route, asked)
        if asked.job.resolution in self._model(asked.job):
            del fields["resolution"]  # wan-2.1 has an endpoint for each
        return fields


def _is_bare_task(response: httpx.Response, body: Any) -> bool:
    """Whether a poll's answer is a task without its envelope (docs, error-codes)."""
    match body:
        case {"data": {}}:
            return False
        case {"status": str()}:
            return response.request.method == "GET" and response.is_success
        case _:
            return False


def _is_timed_out(task: Mapping[str, Any]) -> bool:
    """Whether only the wait timed out; the SDK treats the task as still running."""
    match task:
        case {"code": 5004}:
            return True
        case {"error": str(error)}:
            return "Sync mode timed out" in error
        case _:
            return False


def _mark(item: Mapping[str, Any]) -> str | None:
    """Return `WaveSpeed.mark` of a listed item that repeats its inputs."""
    match item:
        case {"model": str(model), "input": {**fields}}:
            return digest({"model": model, **fields})
        case _:
            return None
