"""Atlas Cloud: https://atlascloud.ai/docs/en (errors, data-retention), read 2026-11."""

from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote as escaped

import httpx

from manifests.catalogue import Route
from manifests.jobs import Job
from manifests.lifecycle import Refused, Rejected, Ticket
from tasks.providers import _shared
from tasks.providers._shared import Refusals, code_of, ended, names_task, quote, read
from tasks.providers.base import Exchange, Finished, Progress, Still, UnreadableError
from tasks.verdicts import NotFoundError, ProviderError

API: Final = "https://api.atlascloud.ai/api/v1/model"
MODERATED: Final = 1039

# Without the record a ticket cannot be polled, without the object there is no clip.
RETENTION: Final = {
    "X-AtlasCloud-Object-Expiration-Hours": str(_shared.KEPT_DAYS * 24),
    "X-AtlasCloud-Request-Retention-Hours": str(_shared.KEPT_DAYS * 24),
}
REFUSALS: Final = Refusals(
    provider="atlas",
    mark="code",
    uploads="/uploadMedia",
    fixes={
        401: "check the key; a wrong URL path is told the same, so check base_url too",
        402: "top up the account at https://www.atlascloud.ai",
        403: "check that the key and the account may use this model",
        404: "check the model's id in the route's endpoints: this account has none such",
        451: "Atlas does not serve this region; use another lane",
    },
    bad_input=frozenset({400, 413, 422, MODERATED}),
)


@dataclass(frozen=True, slots=True)
class Atlas:
    """Its envelope is `{code, msg, data}`; it can neither cancel nor say Retry-After."""

    route: Route
    key: str = field(repr=False)
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

    def submit(self, job: Job, image_url: str, seed: int) -> Exchange[Ticket]:
        # Flat: what is nested under `input` is ignored, and the defaults are bought.
        asked: dict[str, object] = {
            "model": self.route.endpoints[job.resolution],
            "image": image_url,
            "prompt": job.prompt,
            "resolution": job.resolution,
            "duration": job.duration_s,
            "seed": seed,
        }
        asked |= _shared.options(self.route, job)
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

    def cancel(self, ticket: Ticket) -> Exchange[None]:  # noqa: ARG002 - there is no way
        yield from ()

    def judge(self, response: httpx.Response) -> ProviderError | None:
        said = read(response)
        code = code_of(response, said)
        if names_task(response, said) or 200 <= code < 300:
            return None
        if code == 400 and REFUSALS.step(response.request) == "ask":
            # As for 404: for some 30 s a prediction is not there yet (ComfyUI client).
            return NotFoundError(f"{self.name}: HTTP 400: no such prediction yet")
        return REFUSALS.verdict(response, said, code=code, key=self.key)

    def _progress(self, task: dict[str, Any]) -> Progress:
        match task:
            case {"status": "completed" | "succeeded"} if clip := _clip(task):
                return Finished(clip)
            case {"status": "created" | "pending" | "starting"}:
                return None
            case {"status": "processing" | "running"}:
                return None
            case {"status": "failed", "error_code": 1039 | "1039"}:
                return Rejected(ended(task, self.key))
            case {"status": "failed" | "timeout" | "cancelled"}:
                return Refused(
                    ended(task, self.key)
                )  # and not charged (billing/refunds)
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
