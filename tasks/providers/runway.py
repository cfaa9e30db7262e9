"""Runway: https://docs.dev.runwayml.com, read 2026-11, and its SDK, runwayml 5.24.0.

Runway queues jobs over the concurrency as `THROTTLED`, and has no webhooks.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Final

import httpx

from manifests.jobs import AspectRatio
from manifests.lifecycle import Ticket
from storage.media import Still
from tasks.providers.errors import RejectedError
from tasks.providers.job_failures import Condition, Failure, FailureKind, always
from tasks.providers.parsing import amount, redact, status_words, value_at
from tasks.providers.predictions import NO_MODEL, PredictionApi
from tasks.providers.protocol import AccountReport, Exchange, Progress
from tasks.providers.refusals import Refusals, refusal
from tasks.providers.stills import as_file
from tasks.providers.submissions import Submission

VERSION: Final = "2024-11-06"
"""The version of the API that every request names."""

CREDIT_USD: Final = Decimal("0.01")
LONGEST_PROMPT: Final = 1000
"""In UTF-16 code units, as the SDK's own types have it."""

RATIOS: Final[Mapping[AspectRatio, str]] = {
    "16:9": "1280:720",
    "9:16": "720:1280",
    "1:1": "960:960",
    "auto": "1280:720",  # one has to be named
}

CHECK_KEY: Final = "check the key, which begins with key_, and that it is not disabled"
BUY_CREDIT: Final = "buy credits at https://dev.runwayml.com"
# Many public logs have these words; no page documents them.
OUT_OF_CREDIT: Final = re.compile("not have enough credits", re.IGNORECASE)
# If this counted as bad input, the end of a model would reject every row for good.
UNKNOWN_MODEL: Final = re.compile(r'"path": \["model"')
DAILY_LIMIT: Final = re.compile("daily task limit", re.IGNORECASE)
REFUSALS: Final = Refusals(
    provider="runway",
    mark="error",
    uploads="/uploads",
    table=(
        refusal("auth", 401, fix=CHECK_KEY),
        refusal("credit", 400, says=OUT_OF_CREDIT, fix=BUY_CREDIT),
        refusal("permission", 400, says=UNKNOWN_MODEL, fix=NO_MODEL),
        refusal("permission", 404, submit_only=True, fix=NO_MODEL),
        refusal("invalid", 400),
        refusal("daily cap", 429, says=DAILY_LIMIT),
        refusal("throttled", 429),
    ),
)
COST: Final = "runwayml 5.24.0: the cost of an ended task is final, and 0 if refunded"
KEPT: Final = "docs, task failures: SAFETY.INPUT is not refunded, read 2026-11"


def _by_cost(
    kind: FailureKind,
    evidence: str,
    fits: Condition,
    *,
    charged: bool | None = None,
    source: str = "not said",
) -> tuple[Failure, ...]:
    """Return rows by the cost in the task; without a cost, `charged` as `source` says."""
    by_cost: tuple[tuple[str, Condition, bool | None, str], ...] = (
        ("`cost.credits` 0", lambda task: _credits(task) == 0, False, COST),
        ("`cost.credits` over 0", lambda task: bool(_credits(task)), True, COST),
        ("no `cost`", always, charged, source),
    )
    return tuple(
        Failure(
            kind, f"{evidence}, {cost}", _both(fits, when), charged=paid, source=says
        )
        for cost, when, paid, says in by_cost
    )


def _both(one: Condition, other: Condition) -> Condition:
    return lambda task: one(task) and other(task)


def _begins(code: str) -> Condition:
    return lambda task: _code(task).startswith(code)


def _has_failed(task: Mapping[str, Any]) -> bool:
    return str(task["status"]).upper() == "FAILED"


INPUT: Final = "SAFETY.INPUT"
ASSET: Final = "ASSET.INVALID"
INTERNAL: Final = "`FAILED` with `INTERNAL`, any other code or none"
FAILURES: Final = (
    *_by_cost(
        "content", f"`FAILED` with `{INPUT}`", _begins(INPUT), charged=True, source=KEPT
    ),
    *_by_cost(
        "content",
        "`FAILED` with any other `SAFETY`",
        lambda task: "SAFETY" in _code(task),
    ),
    *_by_cost("invalid", f"`FAILED` with `{ASSET}`", _begins(ASSET)),
    *_by_cost("server", INTERNAL, _has_failed),
    *_by_cost("stopped", "`CANCELLED`", always),
)


@dataclass(frozen=True, slots=True)
class Runway(PredictionApi):
    """Every request names the API's version; an ended task has its cost."""

    name: ClassVar = "runway"
    api: ClassVar = "https://api.dev.runwayml.com/v1"
    hosts: ClassVar = frozenset({"api.dev.runwayml.com"})
    refusals: ClassVar = REFUSALS
    failures: ClassVar = FAILURES
    has_store: ClassVar = True
    task_path: ClassVar = "/tasks/{}"
    words: ClassVar = status_words(
        waiting="pending throttled running",
        ready="succeeded",
        failed="failed cancelled",
    )

    def upload(self, still: Still) -> Exchange[str]:
        fields = {"filename": still.filename, "type": "ephemeral"}
        request = self._request("POST", "/uploads", json=fields)
        match body := (yield from self._ask(request)):
            case {
                "runwayUri": str(uri),
                "uploadUrl": str(store),
                "fields": {**signed},
            } if uri:
                form = {"file": as_file(still)}
                yield httpx.Request("POST", store, data=signed, files=form)
                return uri
            case _:
                raise self._unreadable(body)

    def _submit_request(self, asked: Submission) -> httpx.Request:
        job = asked.job
        if (units := len(job.prompt.encode("utf-16-le")) // 2) > LONGEST_PROMPT:
            message = f"the prompt has {units} UTF-16 units, over {LONGEST_PROMPT}"
            raise RejectedError(f"{self.name}: {message}")
        fields: dict[str, object] = {
            "model": self._model(job),
            "promptImage": asked.image_url,
            "promptText": job.prompt,
            "ratio": RATIOS[job.aspect_ratio],
            "duration": job.duration_s,
            "seed": asked.seed,
        }
        return self._post("/image_to_video", fields)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        task = yield from self._look(ticket.id)
        fields = task.fields
        words = filter(None, (fields["status"], _code(fields), fields.get("failure")))
        reason = redact(": ".join(map(str, words)), self.key)
        return self._progress(task, reason=reason, usd=_usd(fields))

    def check(self) -> Exchange[AccountReport]:
        match body := (yield from self._get("/organization")):
            case {"creditBalance": int(credits_left), "tier": {"models": {**models}}}:
                wanted = {*self.route.endpoints.values()}
                limits = [models[name] for name in wanted & models.keys()]
                return AccountReport(
                    credit_usd=credits_left * CREDIT_USD,
                    slots=_least("maxConcurrentGenerations", limits),
                    submits_per_day=_least("maxDailyGenerations", limits),
                    has_model=wanted <= models.keys(),
                )
            case _:
                raise self._unreadable(body)

    def charge(self, ticket: Ticket) -> Exchange[Decimal | None]:
        return _usd((yield from self._look(ticket.id)).fields)

    def _auth(self) -> Mapping[str, str]:
        return {"authorization": f"Bearer {self.key}", "x-runway-version": VERSION}


def _code(task: Mapping[str, Any]) -> str:
    return str(task.get("failureCode") or "")


def _credits(task: Mapping[str, Any]) -> Decimal | None:
    """Return the cost of an ended task in credits; None if the task has none."""
    match value_at(task, "cost", "credits"):
        case int() | float() as paid:
            return amount(paid)
        case _:
            return None


def _usd(task: Mapping[str, Any]) -> Decimal | None:
    paid = _credits(task)
    return None if paid is None else paid * CREDIT_USD


def _least(limit: str, models: list[Any]) -> int | None:
    """Return the tightest of the models' limits; null means no limit."""
    limits = [model[limit] for model in models if model.get(limit) is not None]
    return min(limits, default=None)
