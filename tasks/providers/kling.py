"""Kling's own API: https://kling.ai/document-api (image2video, errors), read 2026-11.

Its envelope is `{code, message, data}`, and its own code says more than HTTP's.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, Final

import httpx
import jwt

from manifests.jobs import Job
from manifests.lifecycle import Ticket
from storage.media import Still
from tasks.providers import stills
from tasks.providers.errors import (
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    ProviderError,
    RejectedError,
)
from tasks.providers.job_failures import always, failures, says
from tasks.providers.parsing import (
    amount,
    read_body,
    redact,
    remote_id,
    status_words,
    value_at,
)
from tasks.providers.predictions import PredictionApi
from tasks.providers.protocol import (
    Absent,
    AccountReport,
    Doubt,
    Exchange,
    Found,
    Progress,
)
from tasks.providers.refusals import Refusals, refusal
from tasks.providers.submissions import Submission, optional_fields

CLIPS: Final = "/v1/videos/image2video"
LARGEST_STILL: Final = 10_000_000
"""Bytes; the docs say 10 MB."""

# A token is valid for half an hour (docs). Each request has one with at least half of that
# left: a submit may wait for a connection, and clocks differ.
TOKEN_S: Final = 1800
RENEWED_S: Final = 900
BACKDATED_S: Final = 5

# Secondary: public price tables have $0.14 a unit, 2 units for std and 3.5 for pro, 5 s,
# read 2026-11. A trial pack's units cost less: its owner's bill is lower than this.
UNIT_USD: Final = Decimal("0.14")

ASKABLE_S: Final = 29 * 86_400
"""Kling deletes tasks after 30 days (docs): a missing older task proves nothing."""

NO_SUCH: Final = 1203
TAKEN: Final = re.compile(r"external.?task.?id", re.IGNORECASE)
CONSOLE: Final = "https://app.klingai.com/global/dev"
BUY_PACK: Final = f"look after the account, or buy a resource pack, at {CONSOLE}"
CHECK_KEY: Final = (
    "check the key, which is written ACCESS:SECRET, and this machine's clock"
)
CHECK_PACKS: Final = "check that the account's resource packs have this model"
ALLOW_ADDRESS: Final = "allow this machine's address in the account's IP list"
CHECK_URL: Final = "check base_url, and that Kling still has the model"
REFUSALS: Final = Refusals(
    provider="kling",
    mark="code",
    table=(
        refusal("auth", 1000, 1001, 1002, 1003, 1004, fix=CHECK_KEY),
        refusal("credit", 1100, 1101, 1102, fix=BUY_PACK),
        refusal("permission", 1103, fix=CHECK_PACKS),
        refusal("permission", 1304, fix=ALLOW_ADDRESS),
        refusal("permission", 1202, NO_SUCH, submit_only=True, fix=CHECK_URL),
        refusal("content", 1300, 1301),
        refusal("invalid", 1200, 1201),
        refusal("throttled", 1302),
        refusal("concurrency", 1303),
    ),
)

# The docs' example of a reason is the platform's risk control; its sentence ("Failure to
# pass the risk control system") and the rest are from public reports.
MODERATED: Final = re.compile(
    "risk.?control|content (policy|safety|security)|sensitive (content|word|information)"
    "|community guideline|风控|敏感|违规",
    re.IGNORECASE,
)
FAILURES: Final = failures(
    (
        "content",
        "`failed`, with risk control or sensitive content in `task_status_msg`",
        says(MODERATED, "task_status_msg"),
    ),
    ("server", "`failed`", always),
    charged=False,
    source="docs, billing: failed tasks are not charged, read 2026-11",
)


@dataclass(slots=True)
class _Token:
    """The token in use, and when it was made."""

    text: str = ""
    made_at: float = 0.0

    def is_fresh(self, now: float) -> bool:
        return bool(self.text) and 0 <= now - self.made_at < RENEWED_S


@dataclass(frozen=True, slots=True)
class Kling(PredictionApi):
    """Signs a token with the key; knows a task by our reference too."""

    name: ClassVar = "kling"
    api: ClassVar = "https://api-singapore.klingai.com"
    hosts: ClassVar = frozenset({"api-singapore.klingai.com"})
    refusals: ClassVar = REFUSALS
    failures: ClassVar = FAILURES
    unique_references: ClassVar = True  # `external_task_id` must be unique (docs)
    enveloped: ClassVar = True
    id_field: ClassVar = "task_id"
    status_field: ClassVar = "task_status"
    task_path: ClassVar = f"{CLIPS}/{{}}"
    hook_field: ClassVar = "callback_url"
    words: ClassVar = status_words(
        waiting="submitted processing", ready="succeed", failed="failed"
    )

    _kept: _Token = field(default_factory=_Token, init=False, repr=False, compare=False)

    def upload(self, still: Still) -> Exchange[str]:
        """Return the still in base64: Kling has no uploads."""
        if (size := len(still.content)) > LARGEST_STILL:
            message = f"{still.filename} has {size} bytes, more than {LARGEST_STILL}"
            raise RejectedError(f"{self.name}: {message}")
        return (yield from stills.inline(stills.as_base64(still)))

    def _submit_request(self, asked: Submission) -> httpx.Request:
        job = asked.job  # Kling has no field for the seed
        model, mode = self._model_and_mode(job)
        fields: dict[str, object] = {
            "model_name": model,
            "mode": mode,
            "image": asked.image_url,
            "prompt": job.prompt,
            "duration": str(job.duration_s),
            "external_task_id": asked.reference,
        }
        return self._post(CLIPS, fields | optional_fields(self.route, job))

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        answer = yield self._task_request(ticket.id)
        if _code(read_body(answer)) == NO_SUCH:
            raise NotFoundError(f"{self.name}: no such task")
        task = self._task(answer)
        why = redact(str(task.fields.get("task_status_msg") or ""), self.key)
        reason = f"failed: {why}" if why else "failed"
        return self._progress(task, reason=reason, usd=_usd(task.fields))

    def mark(self, job: Job, image_url: str, seed: int, reference: str) -> str:
        """Return our reference, which Kling knows the task by."""
        del job, image_url, seed
        return reference

    def find(self, doubt: Doubt) -> Exchange[Found]:
        """Ask by our reference, which the query takes in place of an id (docs)."""
        body = yield from self._ask(self._task_request(doubt.mark))
        is_recent = self.now() - doubt.submitted_at < ASKABLE_S
        match body:
            case {"code": 1203, "request_id": str()} if is_recent:
                return Absent(f"{self.name}: no task is called {doubt.mark}")
            case {"code": 0, "data": {"task_id": value} as task}:
                remote = remote_id(value)
                named = value_at(task, "task_info", "external_task_id")
                is_other = isinstance(named, str) and named not in {"", doubt.mark}
                known = not remote or is_other or remote in doubt.known
                return None if known else Ticket(self.name, remote)
            case _:
                return None

    def charge(self, ticket: Ticket) -> Exchange[Decimal | None]:
        """Return the units that the task took, at a pack's list price."""
        match (yield from self._ask(self._task_request(ticket.id))):
            case {"data": {"task_status": "succeed" | "failed" as status} as task}:
                if usd := _usd(task):
                    return usd
                # An account that pays by invoice takes no units, and still pays.
                return Decimal(0) if status == "failed" else None
            case _:
                return None

    def check(self) -> Exchange[AccountReport]:
        """Prove the key. Kling publishes no prices or limits, and its pack balance is hours old."""
        match body := (yield from self._get(f"{CLIPS}?pageNum=1&pageSize=1")):
            case {"code": 0}:
                return AccountReport()
            case _:
                raise self._unreadable(body)

    def judge(self, response: httpx.Response) -> ProviderError | None:
        error = PredictionApi.judge(self, response)
        match read_body(response):
            case {"code": 1200 | 1201, "message": str(text)} if (
                error is not None and TAKEN.search(text)
            ):
                # An earlier request with the name arrived after all, or a proxy sent this
                # one twice: Kling has the task, and `find` returns it.
                return InDoubtError(f"{self.name}: {redact(text, self.key)}")
            case _:
                return error

    def _answer_code(self, response: httpx.Response, body: Any) -> int:
        # By public reports, an empty account gets HTTP 429, 400 or 200.
        return _code(body) or response.status_code

    def _is_good(self, response: httpx.Response, body: Any, code: int) -> bool:
        match REFUSALS.step(response.request):
            case "submit" if self._has_task(response, body):
                return True
            case "ask" if _code(body) == NO_SUCH:  # `poll` and `find` read it
                return True
            case _:
                return 200 <= code < 300

    def _model_and_mode(self, job: Job) -> tuple[str, str]:
        """Return model_name and mode; without the first Kling uses its oldest model."""
        endpoint = self._model(job)
        model, _, mode = endpoint.partition("/")
        if not (model and mode):
            place = f'[routes."{self.route.name}".endpoints] {job.resolution}'
            message = f"{place} = {endpoint!r}: must be MODEL/MODE"
            raise MisconfiguredError(f"{message}, such as kling-v2-5-turbo/std")
        return model, mode

    def _auth(self) -> Mapping[str, str]:
        return {"authorization": f"Bearer {self._token()}"}

    def _token(self) -> str:
        now = self.now()
        if not self._kept.is_fresh(now):
            access, _, secret = self.key.partition(":")
            if not (access and secret):
                message = "the key is not written ACCESS:SECRET"
                raise MisconfiguredError(f"{self.name}: {message}", lacks="auth")
            valid = {"exp": int(now) + TOKEN_S, "nbf": int(now) - BACKDATED_S}
            self._kept.text = jwt.encode({"iss": access, **valid}, secret, "HS256")
            self._kept.made_at = now
        return self._kept.text


def _code(body: Any) -> int:
    """Return Kling's own code; 0 for success and for an answer without a code."""
    match body:
        case {"code": int(code)}:
            return code
        case _:
            return 0


def _usd(task: Mapping[str, Any]) -> Decimal | None:
    """Return a task's charge at a pack's list price; None if it took no units."""
    units = amount(task.get("final_unit_deduction"))
    return units * UNIT_USD if units and units > 0 else None
