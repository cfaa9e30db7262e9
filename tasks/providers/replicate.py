"""Replicate: https://replicate.com/docs, read 2026-11, and its SDK, replicate 1.0.7."""

import hashlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote as escaped

import httpx

from manifests.catalogue.routes import Route
from manifests.jobs import Job
from manifests.lifecycle import Ticket
from tasks.providers.errors import MisconfiguredError, ProviderError
from tasks.providers.protocol import (
    Absent,
    Checkup,
    Doubt,
    Exchange,
    Finished,
    Gone,
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
    ended,
    failure,
    quote,
    read,
)

API: Final = "https://api.replicate.com/v1"

FRAMES: Final = (81, 121)
"""How many the model makes (its schema, read 2026-11)."""

PAGES: Final = 100
"""How far a listing is read, at 100 predictions a page."""

SENSITIVE: Final = re.compile("NSFW|sensitive|flagged|safety", re.IGNORECASE)
UNOFFICIAL: Final = re.compile("version is required")
REFUSALS: Final = Refusals(
    provider="replicate",
    mark="detail",
    uploads="/files",
    signs=(
        Sign(word="auth", codes=frozenset({401}), fix="check the token"),
        Sign(
            word="credit",
            codes=frozenset({402}),
            fix="buy credit at https://replicate.com/account/billing, and wait a few "
            "minutes before the next run",
        ),
        Sign(
            word="permission",
            codes=frozenset({404}),
            submits=True,
            fix="check the model's id in the route's endpoints",
        ),
        Sign(
            word="permission",
            codes=frozenset({422}),
            says=UNOFFICIAL,
            fix="name one of Replicate's official models in the route's endpoints",
        ),
        Sign(word="invalid", codes=frozenset({422})),
        Sign(word="throttled", codes=frozenset({429})),
    ),
)
FREE: Final = "docs, billing: a run that fails is not charged, read 2026-11"
FAILURES: Final = (
    Failure(
        why="content",
        told="`failed`, where the error says NSFW, sensitive, flagged or safety",
        when=lambda task: (
            task["status"] == "failed"
            and SENSITIVE.search(str(task.get("error"))) is not None
        ),
        charged=False,
        source=FREE,
    ),
    Failure(
        why="server",
        told="`failed`",
        when=lambda task: task["status"] == "failed",
        charged=False,
        source=FREE,
    ),
    Failure(
        why="stopped",
        told="`canceled`, `aborted`",
        when=lambda _: True,
        charged=None,
        source="docs, billing: a run that is canceled may be charged, read 2026-11",
    ),
)


@dataclass(frozen=True, slots=True)
class Replicate:
    """It has frames for seconds, and forgets what it made after an hour."""

    route: Route
    key: str = field(repr=False)
    hook: str = ""
    now: Callable[[], float] = field(default=time.time, repr=False, compare=False)
    name: str = field(default="replicate", init=False)
    hosts: frozenset[str] = field(default=frozenset({"api.replicate.com"}), init=False)

    def upload(self, still: Still) -> Exchange[str]:
        form = {"content": (still.filename, still.content, still.media_type)}
        match said := read((yield self._request("POST", "files", files=form))):
            case {"urls": {"get": str(url)}} if url:
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
        asked: dict[str, object] = {"input": self._input(job, image_url, seed)}
        if self.hook:
            asked |= {"webhook": self.hook, "webhook_events_filter": ["completed"]}
        path = f"models/{self.route.endpoints[job.resolution]}/predictions"
        match said := read((yield self._request("POST", path, json=asked))):
            case {"id": str(remote)} if remote:
                return Ticket(self.name, remote)
            case _:
                raise self._unreadable(said)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        path = f"predictions/{escaped(ticket.id, safe='')}"
        match said := read((yield self._request("GET", path))):
            case {
                "status": "succeeded",
                "output": str(clip) | [str(clip), *_],
            } if clip:
                return Finished(clip)
            case {"status": "starting" | "processing"}:
                return None
            case {"status": "succeeded", "data_removed": True}:
                # docs, data retention, read 2026-11
                return Gone("results are kept one hour")
            case {"status": "failed" | "canceled" | "aborted"}:
                return failure(FAILURES, said, ended(said, self.key))
            case _:
                raise self._unreadable(said)

    def mark(
        self,
        job: Job,
        image_url: str,
        seed: int,
        reference: str,  # noqa: ARG002 - it keeps none
    ) -> str:
        return _marked(self._input(job, image_url, seed))

    def find(self, doubt: Doubt) -> Exchange[Ticket | Absent | None]:
        tasks = yield from self._created_about(doubt.submitted_at)
        if tasks is None or not doubt.mark:
            return None
        ours = {*self.route.endpoints.values()}
        # Those whose model is not told may be of ours too.
        unknown = [
            task
            for task in tasks
            if task["id"] not in doubt.known
            and (task.get("model") or "") in {*ours, ""}
        ]
        return self._settled(unknown, doubt.mark)

    def check(self) -> Exchange[Checkup]:
        match said := read((yield self._request("GET", "account"))):
            case {"username": str()}:
                pass
            case _:
                raise self._unreadable(said)
        there: list[bool] = []
        for endpoint in {*self.route.endpoints.values()}:
            answer = yield self._request("GET", f"models/{endpoint}")
            there.append(answer.is_success)
        return Checkup(has_model=all(there))

    def judge(self, response: httpx.Response) -> ProviderError | None:
        request, said, code = response.request, read(response), response.status_code
        if response.is_success or _names_task(request, said):
            return None
        its_own = isinstance(said, dict) and REFUSALS.mark in said
        if code == 404 and its_own and _asks_model(request):
            return None
        return REFUSALS.verdict(response, said, code=code, key=self.key)

    def _input(self, job: Job, image_url: str, seed: int) -> dict[str, object]:
        frames, (least, most) = job.duration_s * self.route.fps + 1, FRAMES
        if not least <= frames <= most:
            said = f"{job.duration_s} s are {frames} frames, it makes {least} to {most}"
            raise MisconfiguredError(f"{self.route.name}: {said}")
        return {
            "image": image_url,
            "prompt": job.prompt,
            "num_frames": frames,
            "frames_per_second": self.route.fps,
            "resolution": job.resolution,
            "seed": seed,
        }

    def _created_about(self, at: float) -> Exchange[list[dict[str, Any]] | None]:
        """All predictions since that moment by our clock, which may be ahead of theirs;
        None where the listing has no end."""
        found: list[dict[str, Any]] = []
        path = "predictions"
        for _ in range(PAGES):
            answer = yield self._request("GET", path)
            since = at - CLOCKS_DIFFER_S - max(0.0, ahead_s(answer, self.now()))
            match said := read(answer):
                case {"results": [*page], "next": str() | None as onward}:
                    new = [task for task in page if _created(task) >= since]
                case _:
                    raise self._unreadable(said)
            found += new
            if len(new) < len(page) or not onward:
                return found
            # Whatever host the link names, the key goes only to Replicate's own.
            cursor = httpx.URL(onward).params["cursor"]
            path = f"predictions?cursor={escaped(cursor, safe='')}"
        return None

    def _settled(
        self, tasks: list[dict[str, Any]], mark: str
    ) -> Ticket | Absent | None:
        match [task["id"] for task in tasks if _marked(task.get("input")) == mark]:
            case [str(remote)]:
                return Ticket(self.name, remote)
            case [] if not any(_may_be(task, mark) for task in tasks):
                return Absent(f"not among the predictions that {self.name} lists")
            case _:
                return None

    def _request(self, method: str, path: str, **sent: Any) -> httpx.Request:
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.Request(method, f"{API}/{path}", headers=headers, **sent)

    def _unreadable(self, said: Any) -> UnreadableError:
        return UnreadableError(self.name, quote(said, self.key))


ASKED: Final = ("prompt", "num_frames", "frames_per_second", "resolution", "seed")
"""What a submit says besides the still; a listing may well add what was left out."""


def _marked(asked: Any) -> str:
    """Two digests of what a submit asks for: of all of it, and of all but the still."""
    match asked:
        case {"image": image, **rest} if "prompt" in rest:
            every = {name: rest.get(name) for name in ASKED}
            return f"{_digest({**every, 'image': image})}-{_digest(every)}"
        case _:
            return ""


def _digest(asked: Mapping[str, object]) -> str:
    canonical = json.dumps(asked, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


def _may_be(task: Mapping[str, Any], mark: str) -> bool:
    """Whether it cannot be ruled out: its input is gone, or only the still's link differs."""
    there = _marked(task.get("input"))
    return not there or there.rpartition("-")[2] == mark.rpartition("-")[2]


def _created(task: Mapping[str, Any]) -> float:
    at = datetime.fromisoformat(task["created_at"])
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _names_task(request: httpx.Request, said: Any) -> bool:
    """Whether it is a submit's receipt, whatever the status it came with."""
    match said:
        case {"id": str(remote), "status": str()}:
            return bool(remote) and request.url.path.endswith("/predictions")
        case _:
            return False


def _asks_model(request: httpx.Request) -> bool:
    """Whether a 404 is an answer: there is no such model."""
    return request.method == "GET" and request.url.path.startswith("/v1/models/")
