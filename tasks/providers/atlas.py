"""Atlas Cloud: https://atlascloud.ai/docs/en (errors, data-retention), read 2026-11."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote as escaped

import httpx

from manifests.catalogue.routes import Route
from manifests.jobs import Job
from manifests.lifecycle import Ticket
from tasks.providers import refusals
from tasks.providers.errors import NotFoundError, ProviderError
from tasks.providers.protocol import (
    Checkup,
    Exchange,
    Finished,
    Progress,
    Still,
    UnreadableError,
)
from tasks.providers.refusals import (
    Failure,
    Refusals,
    Sign,
    code_of,
    ended,
    failure,
    money,
    names_task,
    quote,
    read,
)

HOST: Final = "https://api.atlascloud.ai"
API: Final = f"{HOST}/api/v1/model"
# The first two are in its MCP server (at cc4a9c9d, read 2026-11). That the third prices a
# request without making it is secondary: several public repositories, read 2026-11.
BALANCE: Final = "/public/v1/balance"
MODELS: Final = "/api/v1/models"
PRICE: Final = "/api/v1/model/calculate"
NOBODYS: Final = "nightreel-check"
"""The id of no prediction: whoever may ask after it has a good key."""
MODERATED: Final = 1039

# Without the record a ticket cannot be polled, without the object there is no clip.
RETENTION: Final = {
    "X-AtlasCloud-Object-Expiration-Hours": str(refusals.KEPT_DAYS * 24),
    "X-AtlasCloud-Request-Retention-Hours": str(refusals.KEPT_DAYS * 24),
}
REFUSALS: Final = Refusals(
    provider="atlas",
    mark="code",
    uploads="/uploadMedia",
    asks=("/model/calculate",),
    signs=(
        Sign(
            word="auth",
            codes=frozenset({401}),
            fix="check the key; a wrong URL path is told the same, so check base_url too",
        ),
        Sign(
            word="credit",
            codes=frozenset({402}),
            fix="top up the account at https://www.atlascloud.ai",
        ),
        Sign(
            word="permission",
            codes=frozenset({403}),
            fix="check that the key and the account may use this model",
        ),
        Sign(
            word="permission",
            codes=frozenset({404}),
            submits=True,
            fix="check the model's id in the route's endpoints: this account has none such",
        ),
        Sign(
            word="permission",
            codes=frozenset({451}),
            fix="Atlas does not serve this region; use another lane",
        ),
        Sign(word="content", codes=frozenset({MODERATED})),
        Sign(word="invalid", codes=frozenset({400, 413, 422})),
        Sign(word="throttled", codes=frozenset({429})),
    ),
)
NOT_CHARGED: Final = "docs, billing/refunds: failed tasks are not charged, read 2026-11"
FAILURES: Final = (
    Failure(
        why="content",
        told=f"`failed` with error_code {MODERATED}",
        when=lambda task: str(task.get("error_code")) == str(MODERATED),
        charged=False,
        source=NOT_CHARGED,
    ),
    Failure(
        why="server",
        told="`failed`, `timeout`, `cancelled`",
        when=lambda _: True,
        charged=False,
        source=NOT_CHARGED,
    ),
)


@dataclass(frozen=True, slots=True)
class Atlas:
    """Its envelope is `{code, msg, data}`; it says no Retry-After."""

    route: Route
    key: str = field(repr=False)
    hook: str = ""
    name: str = field(default="atlas", init=False)
    hosts: frozenset[str] = field(default=frozenset({"api.atlascloud.ai"}), init=False)

    def upload(self, still: Still) -> Exchange[str]:
        form = {"file": (still.filename, still.content, still.media_type)}
        url = f"{API}/uploadMedia"
        request = httpx.Request("POST", url, headers=self._auth(), files=form)
        match said := read((yield request)):
            case {"data": {"download_url": str(link)}} if link:
                return link
            case _:
                raise self._unreadable(said)

    def submit(
        self,
        job: Job,
        image_url: str,
        seed: int,
        reference: str,  # noqa: ARG002 - it has no field for one
    ) -> Exchange[Ticket]:
        asked = self._asked(job, image_url, seed)
        if self.hook:
            asked["webhook_url"] = self.hook
        url, headers = f"{API}/generateVideo", self._auth() | RETENTION
        match said := read(
            (yield httpx.Request("POST", url, headers=headers, json=asked))
        ):
            case {"data": {"id": str(remote)}} if remote:
                return Ticket(self.name, remote)
            case _:
                raise self._unreadable(said)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        url = f"{API}/prediction/{escaped(ticket.id, safe='')}"
        match said := read((yield httpx.Request("GET", url, headers=self._auth()))):
            case {"data": {"status": str()} as task}:
                return self._progress(task)
            case _:
                raise self._unreadable(said)

    def judge(self, response: httpx.Response) -> ProviderError | None:
        said, path = read(response), response.request.url.path
        code = code_of(response, said)
        if names_task(response, said) or 200 <= code < 300:
            return None
        # What only adds to a check-up is not worth the whole of it.
        if path.endswith((BALANCE, MODELS, PRICE)) and code < 500:
            return None
        if path.endswith(NOBODYS) and code in {400, 404}:
            return None
        if code == 400 and REFUSALS.step(response.request) == "ask":
            # As for 404: for some 30 s a prediction is not there yet (ComfyUI client).
            return NotFoundError(f"{self.name}: HTTP 400: no such prediction yet")
        return REFUSALS.verdict(response, said, code=code, key=self.key)

    def check(self) -> Exchange[Checkup]:
        auth = self._auth()
        yield httpx.Request("GET", f"{API}/prediction/{NOBODYS}", headers=auth)
        balance = read((yield httpx.Request("GET", HOST + BALANCE, headers=auth)))
        models = read((yield httpx.Request("GET", HOST + MODELS)))
        prices: dict[tuple[str, int], Decimal] = {}
        for resolution, seconds in self.route.prices_usd:
            job = refusals.example(resolution, seconds)
            asked = self._asked(job, job.image, 1)
            request = httpx.Request("POST", HOST + PRICE, headers=auth, json=asked)
            if price := _price(read((yield request))):
                prices[resolution, seconds] = price
        return Checkup(
            credit_usd=_balance(balance),
            prices_usd=prices,
            has_model=refusals.has_model(self.route, models, "model"),
        )

    def _asked(self, job: Job, image_url: str, seed: int) -> dict[str, object]:
        # Flat: what is nested under `input` is ignored, and the defaults are bought.
        asked: dict[str, object] = {
            "model": self.route.endpoints[job.resolution],
            "image": image_url,
            "prompt": job.prompt,
            "resolution": job.resolution,
            "duration": job.duration_s,
            "seed": seed,
        }
        return asked | refusals.options(self.route, job)

    def _progress(self, task: dict[str, Any]) -> Progress:
        match task:
            case {"status": "completed" | "succeeded"} if clip := _clip(task):
                return Finished(clip)
            case {"status": "created" | "pending" | "starting"}:
                return None
            case {"status": "processing" | "running"}:
                return None
            case {"status": "failed" | "timeout" | "cancelled"}:
                return failure(FAILURES, task, ended(task, self.key))
            case _:
                raise self._unreadable(task)

    def _auth(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def _unreadable(self, said: Any) -> UnreadableError:
        return UnreadableError(self.name, quote(said, self.key))


def _clip(task: dict[str, Any]) -> str | None:
    """The first output's URL: a string for some models, in a table for others."""
    match task.get("outputs") or task.get("output"):
        case [first, *_]:
            output = first
        case other:
            output = other
    match output:
        case str(url) | {"url": str(url)} | {"video": str(url)} | {"output": str(url)}:
            return url
        case _:
            return None


def _balance(said: Any) -> Decimal | None:
    match said:
        case {"available": {"value": value, "currency": str(currency)}}:
            return money(value) if currency.lower() == "usd" else None
        case _:
            return None


def _price(said: Any) -> Decimal | None:
    match said:
        case {"data": {"price": price}}:
            return money(price)
        case _:
            return None
