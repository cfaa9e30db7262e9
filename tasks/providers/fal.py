"""fal: https://fal.ai/docs/documentation/model-apis and the models' llms.txt, 2026-11."""

import json
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from manifests.catalogue import Route
from manifests.jobs import Job
from manifests.lifecycle import Discarded, Refused, Rejected, Ticket
from tasks.providers import _shared
from tasks.providers._shared import Refusals, quote, read, words
from tasks.providers.base import Exchange, Finished, Progress, Still, UnreadableError
from tasks.verdicts import MisconfiguredError, ProviderError

QUEUE: Final = "https://queue.fal.run"
UPLOADS: Final = "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3"
KEPT: Final = {
    "X-Fal-Object-Lifecycle-Preference": json.dumps(
        {"expiration_duration_seconds": _shared.KEPT_DAYS * 86_400}
    )
}
# Tries are ours to count: fal would make ten of them unseen.
ONCE: Final = {"x-fal-no-retry": "1"}
MOST_FRAMES: Final = {
    "fal-ai/wan/v2.2-a14b/image-to-video": 161,
    "fal-ai/wan-i2v": 100,
}

# The faults of fal's own machines. Each is a 5xx, and no 5xx is billed (docs).
NOT_BILLED: Final = frozenset(
    {
        "internal_error",
        "request_timeout",
        "runner_connection_error",
        "runner_connection_refused",
        "runner_connection_timeout",
        "runner_disconnected",
        "runner_incomplete_response",
        "runner_scheduling_failure",
        "runner_server_error",
        "startup_timeout",
    }
)
# Not the input's fault: another seed, or another moment, may do.
ANOTHER_TRY: Final = frozenset(
    {"no_media_generated", "file_download_error", "downstream_service_error"}
)
REFUSALS: Final = Refusals(
    provider="fal",
    mark="detail",
    uploads="/storage/upload/initiate",
    fixes={
        401: "check the key, which is written id:secret",
        402: "top up the account at https://fal.ai/dashboard/billing",
        403: "check that the key and the account may use this model",
    },
    bad_input=frozenset({400, 413, 422}),
)


@dataclass(frozen=True, slots=True)
class Fal:
    """A queue: what is over the account's concurrency waits there."""

    route: Route
    key: str = field(repr=False)
    name: str = field(default="fal", init=False)
    hosts: frozenset[str] = field(
        default=frozenset({"queue.fal.run", "rest.fal.ai"}), init=False
    )

    def upload(self, still: Still) -> Exchange[str]:
        asked = {"file_name": still.filename, "content_type": still.media_type}
        said = read((yield self._post(UPLOADS, asked, KEPT)))
        match said:
            case {"upload_url": str(store), "file_url": str(url)}:
                headers = {"content-type": still.media_type}
                yield httpx.Request(
                    "PUT", store, headers=headers, content=still.content
                )
                return url
            case _:
                raise self._unreadable(said)

    def submit(self, job: Job, image_url: str, seed: int) -> Exchange[Ticket]:
        endpoint = self.route.endpoints[job.resolution]
        asked: dict[str, object] = {
            "image_url": image_url,
            "prompt": job.prompt,
            "resolution": job.resolution,
            "num_frames": self._frames(job, endpoint),
            "frames_per_second": self.route.fps,
            "seed": seed,
        }
        if "/v2.2" in endpoint:  # which doubles the frames unless told not to
            asked["num_interpolated_frames"] = 0
        asked |= _shared.options(self.route, job)
        said = read((yield self._post(f"{QUEUE}/{endpoint}", asked, KEPT | ONCE)))
        match said:
            case {
                "request_id": str(remote),
                "status_url": str(status),
                "response_url": str(result),
                "cancel_url": str(cancel),
            }:
                # As returned: the endpoint's sub-path is not in them.
                urls = {"status": status, "result": result, "cancel": cancel}
                return Ticket(self.name, remote, urls)
            case _:
                raise self._unreadable(said)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        said = read((yield self._ask("GET", ticket.urls["status"])))
        match said:
            case {"status": "IN_QUEUE" | "IN_PROGRESS"}:
                return None
            case {"status": "COMPLETED", "error_type": str(kind)} if kind in NOT_BILLED:
                return Refused(f"{kind}: {quote(words(said), self.key)}")
            case {"status": "COMPLETED"}:  # which is said of failures too
                error = said.get("error") or said.get("error_type")
                result = yield self._ask("GET", ticket.urls["result"])
                return self._outcome(result, error)
            case _:
                raise self._unreadable(said)

    def cancel(self, ticket: Ticket) -> Exchange[None]:
        yield self._ask("PUT", ticket.urls["cancel"])

    def judge(self, response: httpx.Response) -> ProviderError | None:
        request, said, code = response.request, read(response), response.status_code
        if "authorization" not in request.headers:
            return REFUSALS.of_store(response)
        over = request.method == "PUT" and code in {400, 404}  # nothing to cancel
        if response.is_success or over or _is_outcome(response, said):
            return None
        told = str(words(said)).lower()
        if code == 403 and ("user is locked" in told or "exhausted balance" in told):
            code = 402
        return REFUSALS.verdict(response, said, code=code, key=self.key)

    def _outcome(self, result: httpx.Response, error: Any) -> Progress:
        """What came of a job: fal's own 5xx is free, a 422 may be billed (docs)."""
        said, failed_with = read(result), result.status_code
        reason = quote(words(said), self.key)
        match said:
            case {"video": {"url": str(url)}, "seed": int(seed)}:
                return Finished(url, seed)
            case {"video": {"url": str(url)}}:
                return Finished(url)
            case {"detail": [{"type": str(kind)}, *_]} | {"error_type": str(kind)}:
                return _failure(kind, failed_with, reason)
            case _ if error and failed_with >= 500:
                return Refused(reason)
            case _ if error:
                return Discarded(quote(error, self.key))
            case _:
                raise self._unreadable(said)

    def _frames(self, job: Job, endpoint: str) -> int:
        frames = job.duration_s * self.route.fps + 1
        if frames > (most := MOST_FRAMES.get(endpoint, frames)):
            said = f"{job.duration_s} s are {frames} frames, {endpoint} makes {most}"
            raise MisconfiguredError(f"{self.route.name}: {said}")
        return frames

    def _ask(self, method: str, url: str) -> httpx.Request:
        return httpx.Request(method, url, headers=self._auth())

    def _post(self, url: str, asked: object, headers: dict[str, str]) -> httpx.Request:
        return httpx.Request("POST", url, headers=self._auth() | headers, json=asked)

    def _auth(self) -> dict[str, str]:
        return {"authorization": f"Key {self.key}"}

    def _unreadable(self, said: Any) -> UnreadableError:
        return UnreadableError(self.name, quote(said, self.key))


def _is_outcome(response: httpx.Response, said: Any) -> bool:
    """Whether this is how the job failed, told where its result would have been."""
    request = response.request
    of_result = request.method == "GET" and not request.url.path.endswith("/status")
    ours = response.status_code in {401, 402, 403, 404, 429}
    return of_result and not ours and isinstance(said, dict) and "detail" in said


def _failure(kind: str, status: int, reason: str) -> Refused | Discarded | Rejected:
    match status:
        case 400 | 422 if kind not in ANOTHER_TRY:
            return Rejected(reason, charged=True)
        case _ if status >= 500:
            return Refused(reason)
        case _:
            return Discarded(reason)
