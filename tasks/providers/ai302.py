"""302.AI: its documentation (doc-en.302.ai) and its client, cli_302ai 1.0.5, read 2026-11.

Two APIs behind one key: WaveSpeed's behind a prefix, and 302.AI's own API of videos.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, ClassVar, Final

import httpx

from manifests.jobs import Job
from manifests.lifecycle import Ticket
from storage.media import Still
from tasks.providers import stills, wavespeed
from tasks.providers.errors import ProviderError
from tasks.providers.job_failures import always, failures, says
from tasks.providers.parsing import (
    amount,
    path_segment,
    read_body,
    redact,
    status_words,
    value_at,
)
from tasks.providers.predictions import NOBODYS_ID, PredictionApi
from tasks.providers.protocol import AccountReport, Exchange, Progress
from tasks.providers.refusals import Refusals, refusal
from tasks.providers.submissions import Submission, clip_fields
from tasks.providers.wavespeed import WaveSpeed

HOST: Final = "https://api.302.ai"
HOSTS: Final = frozenset({"api.302.ai"})
FETCH: Final = "/302/v2/video/fetch/"
# Documented at doc-en.302.ai/api-263735171; some keys may not ask it.
BALANCE: Final = "/dashboard/balance"
RESOLD_BALANCE: Final = "/ws/api/v3/balance"
RECORD: Final = "/dashboard/record/"
CHECKS: Final = (NOBODYS_ID, BALANCE, RESOLD_BALANCE)
BAD_KEY: Final = frozenset({401, -10001, -10005})

PASSED_ON: Final = "wavespeed-ai/"
"""The prefix of WaveSpeed's endpoints."""

CHECK_KEY: Final = "check the key at https://302.ai"
TOP_UP: Final = "top up the account at https://302.ai"
RAISE_LIMIT: Final = "raise what the key may spend in all at https://302.ai"
NOT_ALLOWED: Final = "check that the key may use this model"
REFUSALS: Final = Refusals(
    provider="302ai",
    mark="error",
    uploads=wavespeed.REFUSALS.uploads,
    asks=wavespeed.REFUSALS.asks,
    table=(
        # 401 is about the key: its client gives up on no other status.
        refusal("auth", *BAD_KEY, fix=CHECK_KEY),
        refusal("credit", -10004, fix=TOP_UP),
        refusal("credit", -10006, fix=RAISE_LIMIT),
        refusal("permission", -10002, -10009, fix=NOT_ALLOWED),
        refusal("invalid", -10003),
        refusal("daily cap", -10007, -10018),
        refusal("throttled", -10012),
    ),
)
# Code -10003 is for two things: a bad parameter, and 302.AI's own network.
NETWORK: Final = re.compile("network|网络", re.IGNORECASE)
MODERATED: Final = re.compile(
    r"moderat|sensitive|nsfw|inappropriate|content policy|policy violation|"
    r"data_?inspection",
    re.IGNORECASE,
)
FAILURES: Final = failures(
    (
        "content",
        "`failed` or `error`, saying that it was moderated",
        says(MODERATED),
    ),
    ("server", "any other `failed` or `error`", always),
    charged=None,
    source="not said",
)


@dataclass(frozen=True, slots=True)
class ResoldWaveSpeed(WaveSpeed):
    """WaveSpeed's API as 302.AI passes it on, under 302.AI's key and bill."""

    name: ClassVar[str] = "302ai"
    api: ClassVar[str] = f"{HOST}/ws/api/v3"
    hosts: ClassVar[frozenset[str]] = HOSTS
    refusals: ClassVar[Refusals] = replace(
        wavespeed.REFUSALS,
        provider="302ai",
        table=tuple(
            replace(row, fix={"auth": CHECK_KEY, "credit": TOP_UP}.get(row.kind, ""))
            for row in wavespeed.REFUSALS.table
        ),
    )
    # WaveSpeed refunds 302.AI, which may or may not pass the refund on.
    failures: ClassVar = tuple(
        replace(row, charged=None, source="not said") for row in wavespeed.FAILURES
    )


@dataclass(frozen=True, slots=True)
class Ai302(PredictionApi):
    """Uses WaveSpeed's API for WaveSpeed's models, and 302.AI's own for all others."""

    name: ClassVar = "302ai"
    api: ClassVar = HOST
    hosts: ClassVar = HOSTS
    refusals: ClassVar = REFUSALS
    failures: ClassVar = FAILURES
    id_field: ClassVar = "task_id"
    task_path: ClassVar = f"{FETCH}{{}}"
    hook_param: ClassVar = "webhook"
    words: ClassVar = status_words(
        waiting="pending queued submitted processing running in_progress",
        ready="completed succeed success",
        failed="failed error",
    )

    @property
    def resold(self) -> WaveSpeed | None:
        """The adapter of a route that WaveSpeed serves; None for 302.AI's own routes."""
        endpoints = self.route.endpoints.values()
        if any(endpoint.startswith(PASSED_ON) for endpoint in endpoints):
            return ResoldWaveSpeed(self.route, self.key, self.hook)
        return None

    def upload(self, still: Still) -> Exchange[str]:
        if resold := self.resold:
            return resold.upload(still)
        # 302.AI does not document its uploads; its client sends stills like this.
        return stills.inline(stills.as_data_url(still))

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        if resold := self.resold:
            return resold.submit(job, image_url, seed, reference)
        return PredictionApi.submit(self, job, image_url, seed, reference)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        if resold := self.resold:
            return resold.poll(ticket)
        return PredictionApi.poll(self, ticket)

    def _submit_request(self, asked: Submission) -> httpx.Request:
        job = asked.job
        fields = {
            "model": self._model(job),
            "prompt": job.prompt,
            **clip_fields(self.route, asked),
            "resolution": job.resolution.upper(),
        }
        return self._post("/302/v2/video/create", fields)

    def _ticket_urls(
        self, asked: Submission, remote: str, answer: httpx.Response
    ) -> Mapping[str, str]:
        del asked, remote
        record = answer.headers.get("request-id")
        return {"record": f"{RECORD}{path_segment(record)}"} if record else {}

    def judge(self, response: httpx.Response) -> ProviderError | None:
        body, path = read_body(response), response.request.url.path
        code, refused = _code(response, body), self._is_refusal(response, body)
        if path.endswith(CHECKS) and (refused or code == 404) and code not in BAD_KEY:
            return None  # a refusal that only a good key gets
        if refused:
            return REFUSALS.verdict(response, body, code=code, key=self.key)
        if resold := self.resold:
            return resold.judge(response)
        if response.is_success or self._has_task(response, body):
            return None
        # The text alone: an answer in another shape is not 302.AI's own.
        text = redact(body, self.key)
        return REFUSALS.verdict(response, text, code=code, key=self.key)

    def check(self) -> Exchange[AccountReport]:
        # WaveSpeed's balance and prices are 302.AI's own, not this account's.
        proof = RESOLD_BALANCE if self.resold else f"{FETCH}{NOBODYS_ID}"
        yield self._request("GET", proof)
        balance = yield from self._get(BALANCE)
        return AccountReport(credit_usd=amount(value_at(balance, "data", "balance")))

    def charge(self, ticket: Ticket) -> Exchange[Decimal | None]:
        if not (path := ticket.urls.get("record")):
            return None
        match (yield from self._get(path)):
            # Its client takes the whole of `data` for the cost.
            case {"data": {"cost": cost}} | {"cost": cost} | {"data": cost}:
                charged = amount(cost)
                return charged if charged is not None and charged >= 0 else None
            case _:
                return None

    def _is_refusal(self, response: httpx.Response, body: Any) -> bool:
        """Whether 302.AI itself refuses; both APIs use the same shape."""
        match body:
            case {"error": {}}:
                return not self._has_task(response, body)
            case _:
                return False


def _code(response: httpx.Response, body: Any) -> int:
    """Return 302.AI's own code, if any: it does not document their HTTP statuses."""
    match body:
        case {"error": {"err_code": -10003, **rest}} if NETWORK.search(str(rest)):
            return response.status_code
        case {"error": {"err_code": int(code)}}:
            return code
        case _:
            return response.status_code
