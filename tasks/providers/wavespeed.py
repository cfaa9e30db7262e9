"""WaveSpeed: https://wavespeed.ai/docs, read 2026-11, and its SDK, wavespeed 2.0.5."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any, Final
from urllib.parse import quote as escaped

import httpx

from manifests.catalogue.routes import Route
from manifests.jobs import Job
from manifests.lifecycle import Ticket
from tasks.providers import refusals as _shared
from tasks.providers.errors import ProviderError
from tasks.providers.protocol import (
    Absent,
    Checkup,
    Doubt,
    Exchange,
    Finished,
    Progress,
    Still,
    UnreadableError,
)
from tasks.providers.refusals import (
    CLOCKS_DIFFER_S,
    Failure,
    Refusals,
    Sign,
    ahead_s,
    code_of,
    digest,
    ended,
    failure,
    money,
    names_task,
    quote,
    read,
)

API: Final = "https://api.wavespeed.ai/api/v3"

# No page shows what an empty account is told; these words are from public reports.
OUT_OF_CREDIT: Final = re.compile(
    r"insufficient credit|insufficient balance|insufficient fund", re.IGNORECASE
)
TOP_UP: Final = "top up the account at https://wavespeed.ai"
REFUSALS: Final = Refusals(
    provider="wavespeed",
    mark="message",
    uploads="/media/uploads",
    asks=("/model/price", "/api/v3/predictions"),
    signs=(
        Sign(
            word="auth",
            codes=frozenset({401}),
            fix="check the key; a new one sleeps until the account's first top-up",
        ),
        Sign(word="credit", codes=frozenset({402}), fix=TOP_UP),
        Sign(
            word="credit", codes=frozenset({400, 403}), says=OUT_OF_CREDIT, fix=TOP_UP
        ),
        Sign(
            word="permission",
            codes=frozenset({403}),
            fix="check that the account may use this model",
        ),
        Sign(
            word="permission",
            codes=frozenset({404}),
            submits=True,
            fix="check the model's id in the route's endpoints",
        ),
        # 1200, 1400 and 1401 are task codes (docs, error-codes).
        Sign(word="content", codes=frozenset({1200})),
        Sign(word="invalid", codes=frozenset({400, 413, 422, 1400, 1401})),
        Sign(word="throttled", codes=frozenset({429})),
    ),
)
REFUNDED: Final = "docs, pricing: failed tasks are refunded within three hours, 2026-11"
FAILURES: Final = (
    Failure(
        why="content",
        told="`failed` with code 1200, or `true` in `has_nsfw_contents`",
        when=lambda task: (
            task.get("code") == 1200 or True in (task.get("has_nsfw_contents") or ())
        ),
        charged=False,
        source=REFUNDED,
    ),
    Failure(
        why="invalid",
        told="`failed` with code 1400 or 1401",
        when=lambda task: task.get("code") in {1400, 1401},
        charged=False,
        source=REFUNDED,
    ),
    Failure(
        why="server",
        told="`failed`, `cancelled`, `timeout`, `deleted`",
        when=lambda _: True,
        charged=False,
        source=REFUNDED,
    ),
)
# Whether a model is there, and its price, it may or may not say.
CATALOGUE: Final = ("/models", "/model/price")

WIDER_S: Final = 60.0
"""By how much clocks must differ for more to be listed than is listed anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """Where this API is to be had: from WaveSpeed itself, or from who resells it."""

    name: str
    api: str
    hosts: frozenset[str]
    refusals: Refusals
    failures: tuple[Failure, ...]


OWN: Final = Door(
    name="wavespeed",
    api=API,
    hosts=frozenset({"api.wavespeed.ai"}),
    refusals=REFUSALS,
    failures=FAILURES,
)


@dataclass(frozen=True, slots=True)
class WaveSpeed:
    """Its envelope is `{code, message, data}`, and an HTTP 200 may carry a refusal."""

    route: Route
    key: str = field(repr=False)
    hook: str = ""
    door: Door = field(default=OWN, repr=False)
    now: Callable[[], float] = field(default=time.time, repr=False, compare=False)

    @property
    def name(self) -> str:
        return self.door.name

    @property
    def hosts(self) -> frozenset[str]:
        return self.door.hosts

    def upload(self, still: Still) -> Exchange[str]:
        asked = {
            "filename": still.filename,
            "size": len(still.content),
            "content_type": still.media_type,
        }
        said = read((yield self._request("POST", "media/uploads", asked)))
        match said:
            case {
                "data": {
                    "download_url": str(url),
                    "upload": {"method": "PUT", "url": str(store)} as how,
                }
            }:
                headers: dict[str, str] = how.get("headers") or {}
                yield httpx.Request(
                    "PUT", store, headers=headers, content=still.content
                )
                return url
            case _:
                raise self._unreadable(said)

    def submit(
        self,
        job: Job,
        image_url: str,
        seed: int,
        reference: str,  # noqa: ARG002 - it has no field for one
    ) -> Exchange[Ticket]:
        endpoint, asked = self._asked(job, image_url, seed)
        request = self._request("POST", endpoint, asked)
        if self.hook:
            request.url = request.url.copy_set_param("webhook", self.hook)
        match said := read((yield request)):
            case {"data": {"id": str(remote)}} if remote:
                return Ticket(self.name, remote)
            case _:
                raise self._unreadable(said)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        path = f"predictions/{escaped(ticket.id, safe='')}/result"
        match said := read((yield self._request("GET", path))):
            # The page on error codes shows the task without its envelope.
            case {"data": {"status": str()} as task} | ({"status": str()} as task):
                return self._progress(task)
            case _:
                raise self._unreadable(said)

    def judge(self, response: httpx.Response) -> ProviderError | None:
        request, said = response.request, read(response)
        if "authorization" not in request.headers:
            return self.door.refusals.of_store(response)
        code = code_of(response, said)
        unsaid = request.url.path.endswith(CATALOGUE) and code in {400, 404, 422}
        if unsaid or names_task(response, said) or 200 <= code < 300:
            return None
        return self.door.refusals.verdict(response, said, code=code, key=self.key)

    def check(self) -> Exchange[Checkup]:
        balance = read((yield self._request("GET", "balance")))
        models = read((yield self._request("GET", "models")))
        prices: dict[tuple[str, int], Decimal] = {}
        for resolution, seconds in self.route.prices_usd:
            job = _shared.example(resolution, seconds)
            endpoint, inputs = self._asked(job, job.image, 1)
            # All of them: what lacks one is told the lowest price without a word.
            asked = {"model_id": endpoint, "inputs": inputs}
            said = read((yield self._request("POST", "model/price", asked)))
            if price := _price(said):
                prices[resolution, seconds] = price
        return Checkup(
            credit_usd=_balance(balance),
            prices_usd=prices,
            has_model=_shared.has_model(self.route, models, "model_id"),
        )

    def mark(self, job: Job, image_url: str, seed: int, reference: str) -> str:
        del reference
        endpoint, asked = self._asked(job, image_url, seed)
        return digest({"model": endpoint, **asked})

    def find(self, doubt: Doubt) -> Exchange[Ticket | Absent | None]:
        seen: set[str] = set()
        ours_is_ahead_s = 0.0
        for page in count(1):
            answer = yield self._listing(doubt, page, ours_is_ahead_s)
            if page == 1 and abs(by_s := ahead_s(answer, self.now())) > WIDER_S:
                ours_is_ahead_s = by_s
                answer = yield self._listing(doubt, page, by_s)
            listed = self._listed(answer)
            if listed.keys() <= seen:
                break
            for remote, item in listed.items():
                if remote not in doubt.known and _mark(item) == doubt.mark:
                    return Ticket(self.name, remote)
            seen |= listed.keys()
        # A listing that shows none of what we know to be there may be of another kind.
        if seen and seen <= doubt.known:
            return Absent("it accepted nothing about then that is not on our record")
        # Its documented listing does not repeat what was asked for: it may be ours, or not.
        return None

    def _listing(self, doubt: Doubt, page: int, ahead_s: float) -> httpx.Request:
        """A page of what it accepted about then, by our clock, which may be ahead of its.

        Of every model: one that it spells otherwise than we do would leave the listing
        empty, and what was accepted would be taken for absent.
        """
        since = doubt.submitted_at - CLOCKS_DIFFER_S - max(0.0, ahead_s)
        until = doubt.submitted_at + CLOCKS_DIFFER_S + max(0.0, -ahead_s)
        asked = {
            "page": page,
            "page_size": 100,
            "created_after": _date(since),
            "created_before": _date(until),
        }
        return self._request("POST", "predictions", asked)

    def _listed(self, answer: httpx.Response) -> dict[str, dict[str, Any]]:
        match said := read(answer):
            case {"data": {"items": [*items]}}:
                return {self._id(item): item for item in items}
            case _:
                raise self._unreadable(said)

    def _id(self, item: Any) -> str:
        match item:
            case {"id": str(remote)} if remote:
                return remote
            case _:
                raise self._unreadable(item)

    def _asked(
        self, job: Job, image_url: str, seed: int
    ) -> tuple[str, dict[str, object]]:
        """Which model a submit goes to, and its body: what is marked is what is sent."""
        endpoint = self.route.endpoints[job.resolution]
        asked: dict[str, object] = {"image": image_url, "prompt": job.prompt}
        if job.resolution not in endpoint:  # wan-2.1 has an endpoint for each
            asked["resolution"] = job.resolution
        asked |= {"duration": job.duration_s, "seed": seed}
        return endpoint, asked | _shared.options(self.route, job)

    def _progress(self, task: dict[str, Any]) -> Progress:
        match task:
            case {"status": "completed", "outputs": [str(clip), *_]}:
                return Finished(clip)
            case {"status": "created" | "processing"}:
                return None
            case {"code": 5004}:  # which the SDK takes for "still running"
                return None
            case {"error": str(error)} if "Sync mode timed out" in error:
                return None
            case {"status": "failed" | "cancelled" | "timeout" | "deleted"}:
                return failure(self.door.failures, task, ended(task, self.key))
            case _:
                raise self._unreadable(task)

    def _request(self, method: str, path: str, json: object = None) -> httpx.Request:
        headers = {"authorization": f"Bearer {self.key}"}
        url = f"{self.door.api}/{path}"
        return httpx.Request(method, url, headers=headers, json=json)

    def _unreadable(self, said: Any) -> UnreadableError:
        return UnreadableError(self.name, quote(said, self.key))


def _balance(said: Any) -> Decimal | None:
    match said:
        case {"data": {"balance": balance}}:
            return money(balance)
        case _:
            return None


def _price(said: Any) -> Decimal | None:
    """What this account pays."""
    match said:
        case {"data": {"currency": str(currency)}} if currency.upper() != "USD":
            return None
        case {"data": {"discounted_price": price} | {"price": price}}:
            return money(price)
        case _:
            return None


def _mark(item: dict[str, Any]) -> str | None:
    """As `WaveSpeed.mark`, where a listing repeats what was asked for."""
    match item:
        case {"model": str(model), "input": {**asked}}:
            return digest({"model": model, **asked})
        case _:
            return None


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")[:-6] + "Z"
