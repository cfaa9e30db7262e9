"""302.AI: its documentation (doc-en.302.ai) and its client, cli_302ai 1.0.5, read 2026-11.

Two doors behind one key: WaveSpeed's API behind a prefix, and 302.AI's own API of videos.
"""

import base64
import re
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final
from urllib.parse import quote as escaped

import httpx

from manifests.catalogue.routes import Route
from manifests.jobs import Job
from manifests.lifecycle import Ticket
from tasks.providers import refusals, wavespeed
from tasks.providers.errors import ProviderError
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
    ended,
    failure,
    money,
    quote,
    read,
)
from tasks.providers.wavespeed import Door, WaveSpeed

HOST: Final = "https://api.302.ai"
HOSTS: Final = frozenset({"api.302.ai"})
CREATE: Final = "/302/v2/video/create"
FETCH: Final = "/302/v2/video/fetch/"
# Documented at doc-en.302.ai/api-263735171; some keys may not ask it.
BALANCE: Final = "/dashboard/balance"
RECORD: Final = "/dashboard/record/"
NOBODYS: Final = "nightreel-check"
"""The id of no task: whoever may ask after it has a good key."""
CHECKS: Final = (NOBODYS, BALANCE, "/ws/api/v3/balance")
BAD_KEY: Final = frozenset({401, -10001, -10005})

PASSED_ON: Final = "wavespeed-ai/"
"""How the endpoints begin that are WaveSpeed's."""

TOP_UP: Final = "top up the account at https://302.ai"
CHECK_KEY: Final = "check the key at https://302.ai"
# Code -10003 is for two things: a bad parameter, and 302.AI's own network.
NETWORK: Final = re.compile("network|网络", re.IGNORECASE)
REFUSALS: Final = Refusals(
    provider="302ai",
    mark="error",
    uploads=wavespeed.REFUSALS.uploads,
    asks=wavespeed.REFUSALS.asks,
    signs=(
        # That 401 means the key is from its client, which gives up on it alone.
        Sign(word="auth", codes=BAD_KEY, fix=CHECK_KEY),
        Sign(word="credit", codes=frozenset({-10004}), fix=TOP_UP),
        Sign(
            word="credit",
            codes=frozenset({-10006}),
            fix="raise what the key may spend in all at https://302.ai",
        ),
        Sign(
            word="permission",
            codes=frozenset({-10002, -10009}),
            fix="check that the key may use this model",
        ),
        Sign(word="invalid", codes=frozenset({-10003})),
        Sign(word="daily cap", codes=frozenset({-10007, -10018})),
        Sign(word="throttled", codes=frozenset({-10012})),
    ),
)
MODERATED: Final = re.compile(
    r"moderat|sensitive|nsfw|inappropriate|content policy|policy violation|"
    r"data_?inspection",
    re.IGNORECASE,
)
UNSAID: Final = "not said"
FAILURES: Final = (
    Failure(
        why="content",
        told="`failed` or `error`, saying that it was moderated",
        when=lambda task: MODERATED.search(str(task.get("error"))) is not None,
        charged=None,
        source=UNSAID,
    ),
    Failure(
        why="server",
        told="any other `failed` or `error`",
        when=lambda _: True,
        charged=None,
        source=UNSAID,
    ),
)

# That WaveSpeed gives money back is between WaveSpeed and 302.AI.
RESOLD: Final = Door(
    name="302ai",
    api=f"{HOST}/ws/api/v3",
    hosts=HOSTS,
    refusals=replace(
        wavespeed.REFUSALS,
        provider="302ai",
        signs=tuple(
            replace(sign, fix={"auth": CHECK_KEY, "credit": TOP_UP}.get(sign.word, ""))
            for sign in wavespeed.REFUSALS.signs
        ),
    ),
    failures=tuple(
        replace(each, charged=None, source=UNSAID) for each in wavespeed.FAILURES
    ),
)


@dataclass(frozen=True, slots=True)
class Ai302:
    """Whose model it is decides at which door it is asked for."""

    route: Route
    key: str = field(repr=False)
    hook: str = ""
    name: str = field(default="302ai", init=False)
    hosts: frozenset[str] = field(default=HOSTS, init=False)

    @property
    def resold(self) -> WaveSpeed | None:
        """WaveSpeed, as 302.AI passes it on; None for a route of 302.AI's own."""
        endpoints = [*self.route.endpoints.values()]
        if not any(endpoint.startswith(PASSED_ON) for endpoint in endpoints):
            return None
        return WaveSpeed(self.route, self.key, self.hook, RESOLD)

    def upload(self, still: Still) -> Exchange[str]:
        if resold := self.resold:
            return (yield from resold.upload(still))
        # Where its uploads go is not documented; its client sends stills like this.
        content = base64.b64encode(still.content).decode("ascii")
        return f"data:{still.media_type};base64,{content}"

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        if resold := self.resold:
            return (yield from resold.submit(job, image_url, seed, reference))
        asked: dict[str, object] = {
            "model": self.route.endpoints[job.resolution],
            "prompt": job.prompt,
            "image": image_url,
            "resolution": job.resolution.upper(),
            "duration": job.duration_s,
            "seed": seed,
        }
        asked |= refusals.options(self.route, job)
        params = {"webhook": self.hook} if self.hook else None
        url = httpx.URL(HOST + CREATE, params=params)
        answer = yield httpx.Request("POST", url, headers=self._auth(), json=asked)
        match said := read(answer):
            case {"task_id": str(remote)} if remote:
                record = answer.headers.get("request-id")
                path = RECORD + escaped(record, safe="") if record else None
                return Ticket(self.name, remote, {"record": path} if path else {})
            case _:
                raise self._unreadable(said)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        if resold := self.resold:
            return (yield from resold.poll(ticket))
        match said := read((yield self._ask(FETCH + escaped(ticket.id, safe="")))):
            case {"status": str()} as task:
                return self._progress(task)
            case _:
                raise self._unreadable(said)

    def judge(self, response: httpx.Response) -> ProviderError | None:
        said, path = read(response), response.request.url.path
        code, refused = _code(response, said), _is_refusal(response, said)
        if path.endswith(CHECKS) and (refused or code == 404) and code not in BAD_KEY:
            return None  # it says no, but knows the key
        if refused:
            return REFUSALS.verdict(response, said, code=code, key=self.key)
        if resold := self.resold:
            return resold.judge(response)
        if response.is_success or _names_task(response, said):
            return None
        # Not in its own shape: its text at most.
        text = quote(said, self.key)
        return REFUSALS.verdict(response, text, code=code, key=self.key)

    def check(self) -> Exchange[Checkup]:
        # What WaveSpeed says of money and prices there is between it and 302.AI.
        yield self._ask("/ws/api/v3/balance" if self.resold else FETCH + NOBODYS)
        match read((yield self._ask(BALANCE))):
            case {"data": {"balance": balance}}:
                return Checkup(credit_usd=money(balance))
            case _:
                return Checkup()

    def charge(self, ticket: Ticket) -> Exchange[Decimal | None]:
        if not (path := ticket.urls.get("record")):
            return None
        match read((yield self._ask(path))):
            # Its client calls `data` the cost, and looks no further into it.
            case {"data": {"cost": cost}} | {"cost": cost} | {"data": cost}:
                charged = money(cost)
                return charged if charged is not None and charged >= 0 else None
            case _:
                return None

    def _progress(self, task: dict[str, Any]) -> Progress:
        match task:
            case {
                "status": "completed" | "succeed" | "success",
                "video_url": str(clip),
            } if clip:
                return Finished(clip)
            case {"status": "failed" | "error"}:
                return failure(FAILURES, task, ended(task, self.key))
            case {"status": "pending" | "queued" | "submitted"}:
                return None
            case {"status": "processing" | "running" | "in_progress"}:
                return None
            case _:
                raise self._unreadable(task)

    def _ask(self, path: str) -> httpx.Request:
        return httpx.Request("GET", HOST + path, headers=self._auth())

    def _auth(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def _unreadable(self, said: Any) -> UnreadableError:
        return UnreadableError(self.name, quote(said, self.key))


def _names_task(response: httpx.Response, said: Any) -> bool:
    """Whether there is a task in it: a submit's id, or where one stands."""
    match said:
        case {"task_id": str(remote)} if response.request.method == "POST":
            return bool(remote)
        case {"status": str()}:
            return response.request.method == "GET" and response.is_success
        case _:
            return False


def _is_refusal(response: httpx.Response, said: Any) -> bool:
    """Whether 302.AI itself says no; at either door it does so in one shape."""
    match said:
        case {"error": {}}:
            return not _names_task(response, said)
        case _:
            return False


def _code(response: httpx.Response, said: Any) -> int:
    """Its own code, where it says one: with which status they come is not documented."""
    match said:
        case {"error": {"err_code": -10003, **rest}} if NETWORK.search(str(rest)):
            return response.status_code
        case {"error": {"err_code": int(code)}}:
            return code
        case _:
            return response.status_code
