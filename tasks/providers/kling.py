"""Kling's own API: https://kling.ai/document-api (image2video, errors), read 2026-11."""

import base64
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import quote as escaped

import httpx
import jwt

from manifests.catalogue.routes import Route
from manifests.jobs import Job
from manifests.lifecycle import Ticket
from tasks.providers import refusals
from tasks.providers.errors import (
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    ProviderError,
    RejectedError,
)
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
from tasks.providers.refusals import Failure, Refusals, Sign, failure, quote, read

API: Final = "https://api-singapore.klingai.com"
CLIPS: Final = "/v1/videos/image2video"
LARGEST_STILL: Final = 10_000_000
"""Bytes; the docs say 10 MB."""

# A token is good for half an hour (docs). The one that is shown has at least half of that
# before it: a submit may stand in line for a connection, and clocks differ.
TOKEN_S: Final = 1800
RENEWED_S: Final = 900
BACKDATED_S: Final = 5

# Secondary: public price tables have $0.14 a unit, 2 units for std and 3.5 for pro, 5 s,
# read 2026-11. A trial pack's units cost less: its owner's bill is lower than this.
UNIT_USD: Final = Decimal("0.14")

ASKABLE_S: Final = 29 * 86_400
"""Kling clears what it made after 30 days (docs): what it lacks then proves nothing."""

NO_SUCH: Final = 1203
TAKEN: Final = re.compile(r"external.?task.?id", re.IGNORECASE)
CONSOLE: Final = "https://app.klingai.com/global/dev"
REFUSALS: Final = Refusals(
    provider="kling",
    mark="code",
    uploads="",
    signs=(
        Sign(
            word="auth",
            codes=frozenset({1000, 1001, 1002, 1003, 1004}),
            fix="check the key, which is written ACCESS:SECRET, and this machine's clock",
        ),
        Sign(
            word="credit",
            codes=frozenset({1100, 1101, 1102}),
            fix=f"look after the account, or buy a resource pack, at {CONSOLE}",
        ),
        Sign(
            word="permission",
            codes=frozenset({1103}),
            fix="check that the account's resource packs have this model",
        ),
        Sign(
            word="permission",
            codes=frozenset({1304}),
            fix="allow this machine's address in the account's IP list",
        ),
        Sign(
            word="permission",
            codes=frozenset({1202, NO_SUCH}),
            submits=True,
            fix="check base_url, and that Kling still has the model",
        ),
        Sign(word="content", codes=frozenset({1300, 1301})),
        Sign(word="invalid", codes=frozenset({1200, 1201})),
        Sign(word="throttled", codes=frozenset({1302})),
        Sign(word="concurrency", codes=frozenset({1303})),
    ),
)

# The docs' example of a reason is the platform's risk control; its sentence ("Failure to
# pass the risk control system") and the rest are from public reports.
MODERATED: Final = re.compile(
    "risk.?control|content (policy|safety|security)|sensitive (content|word|information)"
    "|community guideline|风控|敏感|违规",
    re.IGNORECASE,
)
NOT_CHARGED: Final = "docs, billing: failed tasks are not charged, read 2026-11"
FAILURES: Final = (
    Failure(
        why="content",
        told="`failed`, with risk control or sensitive content in `task_status_msg`",
        when=lambda task: MODERATED.search(_reason(task)) is not None,
        charged=False,
        source=NOT_CHARGED,
    ),
    Failure(
        why="server",
        told="`failed`",
        when=lambda _: True,
        charged=False,
        source=NOT_CHARGED,
    ),
)


@dataclass(slots=True)
class _Pass:
    """The token that is shown, and when it was made."""

    token: str = ""
    made_at: float = 0.0

    def serves(self, now: float) -> bool:
        return bool(self.token) and 0 <= now - self.made_at < RENEWED_S


@dataclass(frozen=True, slots=True)
class Kling:
    """Its envelope is `{code, message, data}`, and its own code says more than HTTP's."""

    route: Route
    key: str = field(repr=False)
    hook: str = ""
    now: Callable[[], float] = field(default=time.time, repr=False, compare=False)
    name: str = field(default="kling", init=False)
    hosts: frozenset[str] = field(
        default=frozenset({"api-singapore.klingai.com"}), init=False
    )
    _pass: _Pass = field(default_factory=_Pass, init=False, repr=False, compare=False)

    def upload(self, still: Still) -> Exchange[str]:
        """Kling has no uploads: what `submit` takes is the still itself, in base64."""
        yield from ()
        if (size := len(still.content)) > LARGEST_STILL:
            said = f"{still.filename} has {size} bytes, more than {LARGEST_STILL}"
            raise RejectedError(f"{self.name}: {said}")
        return base64.b64encode(still.content).decode("ascii")

    def submit(
        self,
        job: Job,
        image_url: str,
        seed: int,  # noqa: ARG002 - it has no field for one
        reference: str,
    ) -> Exchange[Ticket]:
        model, mode = self._endpoint(job)
        asked: dict[str, object] = {
            "model_name": model,
            "mode": mode,
            "image": image_url,
            "prompt": job.prompt,
            "duration": str(job.duration_s),
            "external_task_id": reference,
        }
        asked |= refusals.options(self.route, job)
        if self.hook:
            asked["callback_url"] = self.hook
        match said := read((yield self._request("POST", CLIPS, asked))):
            case {"data": {"task_id": str(remote)}} if remote:
                return Ticket(self.name, remote)
            case _:
                raise self._unreadable(said)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        match said := read((yield self._task(ticket.id))):
            case {"code": 1203}:
                raise NotFoundError(f"{self.name}: no such task")
            case {"data": {"task_status": str()} as task}:
                return self._progress(task)
            case _:
                raise self._unreadable(said)

    def mark(
        self,
        job: Job,  # noqa: ARG002 - the reference alone is the task's name at Kling
        image_url: str,  # noqa: ARG002
        seed: int,  # noqa: ARG002
        reference: str,
    ) -> str:
        return reference

    def find(self, doubt: Doubt) -> Exchange[Ticket | Absent | None]:
        """Kling's query takes our own name of a task in place of its id (docs)."""
        said = read((yield self._task(doubt.mark)))
        recent = self.now() - doubt.submitted_at < ASKABLE_S
        match said:
            case {"code": 1203, "request_id": str()} if recent:
                return Absent(f"{self.name}: no task is called {doubt.mark}")
            case {"code": 0, "data": {"task_id": str(remote)} as task} if remote:
                known = remote in doubt.known or _called(task) not in {"", doubt.mark}
                return None if known else Ticket(self.name, remote)
            case _:
                return None

    def charge(self, ticket: Ticket) -> Exchange[Decimal | None]:
        """By the units it took, at a pack's list price."""
        match read((yield self._task(ticket.id))):
            case {"data": {"task_status": "succeed" | "failed" as status} as task}:
                if (units := _units(task)) > 0:
                    return units * UNIT_USD
                # An account that pays by invoice takes no units, and not for nothing.
                return Decimal(0) if status == "failed" else None
            case _:
                return None

    def check(self) -> Exchange[Checkup]:
        """It publishes no prices, and no limits; what is left of a pack is hours old."""
        path = f"{CLIPS}?pageNum=1&pageSize=1"
        match said := read((yield self._request("GET", path))):
            case {"code": 0}:
                return Checkup()
            case _:
                raise self._unreadable(said)

    def judge(self, response: httpx.Response) -> ProviderError | None:
        said, step = read(response), REFUSALS.step(response.request)
        code = _code(response, said)
        match said:
            case {"data": {"task_id": str(remote)}} if remote and step == "submit":
                return None
            case {"code": 1203} if step == "ask":  # an answer: whoever asked, reads it
                return None
            case {"code": 1200 | 1201, "message": str(text)} if TAKEN.search(text):
                # No two requests of ours have one reference: something between us and
                # Kling sent this one twice, and the first may have been accepted.
                return InDoubtError(f"{self.name}: {quote(text, self.key)}")
            case _ if 200 <= code < 300:
                return None
            case _:
                return REFUSALS.verdict(response, said, code=code, key=self.key)

    def _endpoint(self, job: Job) -> tuple[str, str]:
        """The model_name and the mode; without the first Kling makes its oldest model."""
        endpoint = self.route.endpoints[job.resolution]
        model, _, mode = endpoint.partition("/")
        if not (model and mode):
            place = f'[routes."{self.route.name}".endpoints] {job.resolution}'
            said = f"{place} = {endpoint!r}: must be MODEL/MODE"
            raise MisconfiguredError(f"{said}, such as kling-v2-5-turbo/std")
        return model, mode

    def _progress(self, task: dict[str, Any]) -> Progress:
        match task:
            case {
                "task_status": "succeed",
                "task_result": {"videos": [{"url": str(url)}, *_]},
            }:
                return Finished(url)
            case {"task_status": "submitted" | "processing"}:
                return None
            case {"task_status": "failed"}:
                why = quote(_reason(task), self.key)
                return failure(FAILURES, task, f"failed: {why}" if why else "failed")
            case _:
                raise self._unreadable(task)

    def _task(self, called: str) -> httpx.Request:
        return self._request("GET", f"{CLIPS}/{escaped(called, safe='')}")

    def _request(self, method: str, path: str, json: object = None) -> httpx.Request:
        headers = {"authorization": f"Bearer {self._token()}"}
        return httpx.Request(method, f"{API}{path}", headers=headers, json=json)

    def _token(self) -> str:
        now = self.now()
        if not self._pass.serves(now):
            access, _, secret = self.key.partition(":")
            if not (access and secret):
                said = "the key is not written ACCESS:SECRET"
                raise MisconfiguredError(f"{self.name}: {said}", lacks="auth")
            good = {"exp": int(now) + TOKEN_S, "nbf": int(now) - BACKDATED_S}
            self._pass.token = jwt.encode({"iss": access, **good}, secret, "HS256")
            self._pass.made_at = now
        return self._pass.token

    def _unreadable(self, said: Any) -> UnreadableError:
        return UnreadableError(self.name, quote(said, self.key))


def _code(response: httpx.Response, said: Any) -> int:
    """Kling's own code, whatever HTTP says; the status where there is none or all is well.

    Public reports have an empty account told with HTTP 429, 400 and 200.
    """
    match said:
        case {"code": int(code)} if code:
            return code
        case _:
            return response.status_code


def _called(task: Mapping[str, Any]) -> str:
    """Our own name of a task, if it repeats that."""
    match task.get("task_info"):
        case {"external_task_id": str(reference)}:
            return reference
        case _:
            return ""


def _reason(task: Mapping[str, Any]) -> str:
    return str(task.get("task_status_msg") or "")


def _units(task: Mapping[str, Any]) -> Decimal:
    """What it took of a resource pack; 0 where it does not say."""
    try:
        units = Decimal(str(task.get("final_unit_deduction") or 0))
    except InvalidOperation:
        return Decimal(0)
    return units if units.is_finite() else Decimal(0)
