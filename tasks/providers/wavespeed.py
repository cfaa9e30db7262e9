"""WaveSpeed: https://wavespeed.ai/docs, read 2026-11, and its SDK, wavespeed 2.0.5."""

import re
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote as escaped

import httpx

from manifests.catalogue import Route
from manifests.jobs import Job
from manifests.lifecycle import Refused, Rejected, Ticket
from tasks.providers import _shared
from tasks.providers._shared import (
    Refusals,
    code_of,
    ended,
    names_task,
    quote,
    read,
    words,
)
from tasks.providers.base import Exchange, Finished, Progress, Still, UnreadableError
from tasks.verdicts import ProviderError

API: Final = "https://api.wavespeed.ai/api/v3"

# No page shows what an empty account is told; these words are from public reports.
OUT_OF_CREDIT: Final = re.compile(
    r"insufficient\s+(credit|balance|fund)", re.IGNORECASE
)
REFUSALS: Final = Refusals(
    provider="wavespeed",
    mark="message",
    uploads="/media/uploads",
    fixes={
        401: "check the key; a new one sleeps until the account's first top-up",
        402: "top up the account at https://wavespeed.ai",
        403: "check that the account may use this model",
        404: "check the model's id in the route's endpoints",
    },
    # The last three are task codes: content moderation, missing and invalid parameter.
    bad_input=frozenset({400, 413, 422, 1200, 1400, 1401}),
)


@dataclass(frozen=True, slots=True)
class WaveSpeed:
    """Its envelope is `{code, message, data}`, and an HTTP 200 may carry a refusal."""

    route: Route
    key: str = field(repr=False)
    name: str = field(default="wavespeed", init=False)
    hosts: frozenset[str] = field(default=frozenset({"api.wavespeed.ai"}), init=False)

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

    def submit(self, job: Job, image_url: str, seed: int) -> Exchange[Ticket]:
        endpoint = self.route.endpoints[job.resolution]
        asked: dict[str, object] = {"image": image_url, "prompt": job.prompt}
        if job.resolution not in endpoint:  # wan-2.1 has an endpoint for each
            asked["resolution"] = job.resolution
        asked |= {"duration": job.duration_s, "seed": seed}
        asked |= _shared.options(self.route, job)
        match said := read((yield self._request("POST", endpoint, asked))):
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

    def cancel(self, ticket: Ticket) -> Exchange[None]:
        yield self._request("DELETE", f"predictions/{escaped(ticket.id, safe='')}")

    def judge(self, response: httpx.Response) -> ProviderError | None:
        request, said = response.request, read(response)
        if "authorization" not in request.headers:
            return REFUSALS.of_store(response)
        code = code_of(response, said)
        gone = request.method == "DELETE" and code == 404
        if gone or names_task(response, said) or 200 <= code < 300:
            return None
        if code in {400, 402, 403} and OUT_OF_CREDIT.search(str(words(said))):
            code = 402
        return REFUSALS.verdict(response, said, code=code, key=self.key)

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
            case {"status": "failed", "code": 1200 | 1400 | 1401}:
                return Rejected(ended(task, self.key))
            case {"status": "failed", "has_nsfw_contents": [*flags]} if True in flags:
                return Rejected(ended(task, self.key))
            case {"status": "failed" | "cancelled" | "timeout" | "deleted"}:
                return Refused(
                    ended(task, self.key)
                )  # refunded within three hours (docs)
            case _:
                raise self._unreadable(task)

    def _request(self, method: str, path: str, json: object = None) -> httpx.Request:
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.Request(method, f"{API}/{path}", headers=headers, json=json)

    def _unreadable(self, said: Any) -> UnreadableError:
        return UnreadableError(self.name, quote(said, self.key))
