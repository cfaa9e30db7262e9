"""Runway: https://docs.dev.runwayml.com, read 2026-11, and its SDK, runwayml 5.24.0."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote as escaped

import httpx

from manifests.catalogue.routes import Route
from manifests.jobs import AspectRatio, Job
from manifests.lifecycle import Ticket
from tasks.providers.errors import ProviderError, RejectedError
from tasks.providers.protocol import (
    Checkup,
    Exchange,
    Finished,
    Progress,
    Still,
    UnreadableError,
)
from tasks.providers.refusals import (
    Failed,
    Failure,
    Refusals,
    Sign,
    failure,
    quote,
    read,
)

API: Final = "https://api.dev.runwayml.com/v1"
VERSION: Final = "2024-11-06"
"""Of the API: every request of ours names it."""

CREDIT_USD: Final = Decimal("0.01")
LONGEST_PROMPT: Final = 1000
"""In UTF-16 code units, as the SDK's own types have it."""

RATIOS: Final[Mapping[AspectRatio, str]] = {
    "16:9": "1280:720",
    "9:16": "720:1280",
    "1:1": "960:960",
    "auto": "1280:720",  # one has to be named
}

REFUSALS: Final = Refusals(
    provider="runway",
    mark="error",
    uploads="/uploads",
    signs=(
        Sign(
            word="auth",
            codes=frozenset({401}),
            fix="check the key, which begins with key_, and that it is not disabled",
        ),
        # No page has the words; many logs do.
        Sign(
            word="credit",
            codes=frozenset({400}),
            says=re.compile("not have enough credits", re.IGNORECASE),
            fix="buy credits at https://dev.runwayml.com",
        ),
        # Were it taken for bad input, a model's end would reject every row for good.
        Sign(
            word="permission",
            codes=frozenset({400}),
            says=re.compile(r'"path": \["model"'),
            fix="check the model's id in the route's endpoints",
        ),
        Sign(
            word="permission",
            codes=frozenset({404}),
            submits=True,
            fix="check the model's id in the route's endpoints",
        ),
        Sign(word="invalid", codes=frozenset({400})),
        Sign(
            word="daily cap",
            codes=frozenset({429}),
            says=re.compile("daily task limit", re.IGNORECASE),
        ),
        Sign(word="throttled", codes=frozenset({429})),
    ),
)
COST: Final = "runwayml 5.24.0: the cost of an ended task is final, and 0 if refunded"
KEPT: Final = "docs, task failures: SAFETY.INPUT is not refunded, read 2026-11"


def _by_cost(
    why: Failed,
    told: str,
    fits: Callable[[Mapping[str, Any]], bool],
    *,
    charged: bool | None = None,
    source: str = "not said",
) -> tuple[Failure, ...]:
    """What a task's own cost says of who pays; else `charged`, by that source."""

    def row(
        cost: str,
        paid: Callable[[float | None], bool],
        *,
        charged: bool | None,
        source: str,
    ) -> Failure:
        return Failure(
            why=why,
            told=f"{told}, {cost}",
            when=lambda task: fits(task) and paid(_credits(task)),
            charged=charged,
            source=source,
        )

    return (
        row("`cost.credits` 0", lambda paid: paid == 0, charged=False, source=COST),
        row("`cost.credits` over 0", bool, charged=True, source=COST),
        row("no `cost`", lambda _: True, charged=charged, source=source),
    )


FAILURES: Final = (
    *_by_cost(
        "content",
        "`FAILED` with `SAFETY.INPUT`",
        lambda task: _code(task).startswith("SAFETY.INPUT"),
        charged=True,
        source=KEPT,
    ),
    *_by_cost(
        "content",
        "`FAILED` with any other `SAFETY`",
        lambda task: "SAFETY" in _code(task),
    ),
    *_by_cost(
        "invalid",
        "`FAILED` with `ASSET.INVALID`",
        lambda task: _code(task).startswith("ASSET.INVALID"),
    ),
    *_by_cost(
        "server",
        "`FAILED` with `INTERNAL`, any other code or none",
        lambda task: task["status"] == "FAILED",
    ),
    *_by_cost("stopped", "`CANCELLED`", lambda _: True),
)


@dataclass(frozen=True, slots=True)
class Runway:
    """Work over the concurrency waits there as `THROTTLED`; it calls nobody back."""

    route: Route
    key: str = field(repr=False)
    hook: str = ""
    name: str = field(default="runway", init=False)
    hosts: frozenset[str] = field(
        default=frozenset({"api.dev.runwayml.com"}), init=False
    )

    def upload(self, still: Still) -> Exchange[str]:
        asked = {"filename": still.filename, "type": "ephemeral"}
        match said := read((yield self._request("POST", "uploads", asked))):
            case {
                "runwayUri": str(uri),
                "uploadUrl": str(store),
                "fields": {**fields},
            } if uri:
                form = {"file": (still.filename, still.content, still.media_type)}
                yield httpx.Request("POST", store, data=fields, files=form)
                return uri
            case _:
                raise self._unreadable(said)

    def submit(
        self,
        job: Job,
        image_url: str,
        seed: int,
        reference: str,  # noqa: ARG002 - it has no field for one
    ) -> Exchange[Ticket]:
        if (units := len(job.prompt.encode("utf-16-le")) // 2) > LONGEST_PROMPT:
            said = f"the prompt has {units} UTF-16 units, over {LONGEST_PROMPT}"
            raise RejectedError(f"{self.name}: {said}")
        asked: dict[str, object] = {
            "model": self.route.endpoints[job.resolution],
            "promptImage": image_url,
            "promptText": job.prompt,
            "ratio": RATIOS[job.aspect_ratio],
            "duration": job.duration_s,
            "seed": seed,
        }
        match said := read((yield self._request("POST", "image_to_video", asked))):
            case {"id": str(remote)} if remote:
                return Ticket(self.name, remote)
            case _:
                raise self._unreadable(said)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        match said := read((yield self._task(ticket))):
            case {"status": "SUCCEEDED", "output": [str(clip), *_]}:
                return Finished(clip, usd=_usd(said))
            case {"status": "PENDING" | "THROTTLED" | "RUNNING"}:
                return None
            case {"status": "FAILED" | "CANCELLED" as status}:
                why = filter(None, (status, _code(said), said.get("failure")))
                reason = quote(": ".join(map(str, why)), self.key)
                return failure(FAILURES, said, reason)
            case _:
                raise self._unreadable(said)

    def charge(self, ticket: Ticket) -> Exchange[Decimal | None]:
        match said := read((yield self._task(ticket))):
            case {"status": str()}:
                return _usd(said)
            case _:
                raise self._unreadable(said)

    def check(self) -> Exchange[Checkup]:
        match said := read((yield self._request("GET", "organization"))):
            case {"creditBalance": int(credits_left), "tier": {"models": {**models}}}:
                wanted = {*self.route.endpoints.values()}
                limits = [models[name] for name in wanted & models.keys()]
                return Checkup(
                    credit_usd=credits_left * CREDIT_USD,
                    slots=_least("maxConcurrentGenerations", limits),
                    submits_per_day=_least("maxDailyGenerations", limits),
                    has_model=wanted <= models.keys(),
                )
            case _:
                raise self._unreadable(said)

    def judge(self, response: httpx.Response) -> ProviderError | None:
        request, said, code = response.request, read(response), response.status_code
        if "authorization" not in request.headers:
            return REFUSALS.of_store(response)
        if response.is_success or _names_task(request, said):
            return None
        return REFUSALS.verdict(response, said, code=code, key=self.key)

    def _task(self, ticket: Ticket) -> httpx.Request:
        return self._request("GET", f"tasks/{escaped(ticket.id, safe='')}")

    def _request(self, method: str, path: str, json: object = None) -> httpx.Request:
        headers = {"authorization": f"Bearer {self.key}", "x-runway-version": VERSION}
        return httpx.Request(method, f"{API}/{path}", headers=headers, json=json)

    def _unreadable(self, said: Any) -> UnreadableError:
        return UnreadableError(self.name, quote(said, self.key))


def _names_task(request: httpx.Request, said: Any) -> bool:
    """Whether it is a submit's receipt, whatever the status it came with."""
    match said:
        case {"id": str(remote)}:
            return bool(remote) and request.url.path.endswith("/image_to_video")
        case _:
            return False


def _code(task: Mapping[str, Any]) -> str:
    return str(task.get("failureCode") or "")


def _credits(task: Mapping[str, Any]) -> float | None:
    """What a task that has ended cost; None where it does not say."""
    match task:
        case {"cost": {"credits": int() | float() as paid}}:
            return paid
        case _:
            return None


def _usd(task: Mapping[str, Any]) -> Decimal | None:
    paid = _credits(task)
    return None if paid is None else Decimal(str(paid)) * CREDIT_USD


def _least(limit: str, models: list[Any]) -> int | None:
    """The tightest of the models' limits; null is none at all."""
    said = [model[limit] for model in models if model.get(limit) is not None]
    return min(said, default=None)
