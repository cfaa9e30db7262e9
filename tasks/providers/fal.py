"""fal: https://fal.ai/docs/documentation/model-apis and the models' llms.txt, 2026-11.

fal queues jobs over the account's concurrency. COMPLETED covers failures too, so the result
decides.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Final

import httpx

from manifests.jobs import Job
from manifests.lifecycle import Refused, Ticket
from storage.media import Still
from tasks.providers.job_failures import Failure, always, failure, failures, has
from tasks.providers.parsing import (
    amount,
    clip_link,
    error_text,
    path_segment,
    read_body,
    redact,
    remote_id,
    status_words,
    value_at,
    video_link,
)
from tasks.providers.predictions import (
    KEPT_DAYS,
    PredictionApi,
    frames,
    optional_fields,
)
from tasks.providers.protocol import AccountReport, Exchange, Finished, Progress
from tasks.providers.refusals import Refusals, refusal

QUEUE: Final = "https://queue.fal.run"
# Docs, platform-apis/v1/models/pricing, read 2026-11: a key is needed, any will do.
PRICING: Final = "https://api.fal.ai/v1/models/pricing"
UPLOADS: Final = "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3"
KEPT: Final = {
    "X-Fal-Object-Lifecycle-Preference": json.dumps(
        {"expiration_duration_seconds": KEPT_DAYS * 86_400}
    )
}
# Nightreel counts the tries: fal would repeat a job up to ten times, unseen.
ONCE: Final = {"x-fal-no-retry": "1"}
# For routes of the kind "batch".
LATER: Final = {"X-Fal-Queue-Priority": "low"}
KLING: Final = "fal-ai/kling-video/"
MOST_FRAMES: Final = {
    "fal-ai/wan/v2.2-a14b/image-to-video": 161,
    "fal-ai/wan-i2v": 100,
}

# The faults of fal's own machines. Each is a 5xx, and no 5xx is billed (docs).
NOT_BILLED: Final = frozenset(
    "internal_error request_timeout runner_connection_error runner_connection_refused "
    "runner_connection_timeout runner_disconnected runner_incomplete_response "
    "runner_scheduling_failure runner_server_error startup_timeout".split()
)
# Not the input's fault: another seed or a later try may succeed.
ANOTHER_TRY: Final = frozenset(
    {"no_media_generated", "file_download_error", "downstream_service_error"}
)
CHECK_KEY: Final = "check the key, which is written id:secret"
TOP_UP: Final = "top up the account at https://fal.ai/dashboard/billing"
NOT_ALLOWED: Final = "check that the key and the account may use this model"
LOCKED: Final = re.compile("user is locked|exhausted balance", re.IGNORECASE)
POLICY: Final = "content_policy_violation"
REFUSALS: Final = Refusals(
    provider="fal",
    mark="detail",
    uploads="/storage/upload/initiate",
    table=(
        refusal("auth", 401, fix=CHECK_KEY),
        refusal("credit", 402, fix=TOP_UP),
        refusal("credit", 403, says=LOCKED, fix=TOP_UP),
        refusal("permission", 403, fix=NOT_ALLOWED),
        refusal("content", 422, says=re.compile(POLICY)),
        refusal("invalid", 400, 413, 422),
        refusal("throttled", 429),
    ),
)
IN_PLACE: Final = "a 5xx in place of the result, twice, or an `error_type` of fal's own"
RETRIED: Final = ", ".join(f"`{kind}`" for kind in sorted(ANOTHER_TRY))
MAY_BE: Final = "docs, errors: a 422 may be billed, read 2026-11"
FAILURES: Final = (
    *failures(
        ("server", IN_PLACE, lambda task: task["status"] >= 500),
        charged=False,
        source="docs, errors: no 5xx is billed, read 2026-11",
    ),
    *failures(
        ("content", f"400 or 422 of kind `{POLICY}`", has("kind", POLICY)),
        charged=None,
        source=MAY_BE,
    ),
    Failure(
        "invalid",
        f"400 or 422 of kind {RETRIED}",
        has("kind", *ANOTHER_TRY),
        charged=None,
        source=MAY_BE,
        final=False,
    ),
    *failures(
        (
            "invalid",
            "400 or 422 of any other kind",
            lambda task: bool(task["kind"]) and task["status"] in {400, 422},
        ),
        charged=None,
        source=MAY_BE,
    ),
    *failures(("server", "any other error", always), charged=None, source="not said"),
)


@dataclass(frozen=True, slots=True)
class Fal(PredictionApi):
    """The endpoint is the path of a submit; the receipt has the URLs to poll."""

    name: ClassVar = "fal"
    api: ClassVar = ""
    hosts: ClassVar = frozenset({"queue.fal.run", "rest.fal.ai", "api.fal.ai"})
    refusals: ClassVar = REFUSALS
    failures: ClassVar = FAILURES
    has_store: ClassVar = True
    hook_param: ClassVar = "fal_webhook"
    words: ClassVar = status_words(
        waiting="in_queue in_progress", ready="completed", failed=""
    )

    def upload(self, still: Still) -> Exchange[str]:
        fields = {"file_name": still.filename, "content_type": still.media_type}
        request = self._request("POST", UPLOADS, headers=KEPT, json=fields)
        match body := read_body((yield request)):
            case {"upload_url": str(store), "file_url": str(url)}:
                headers = {"content-type": still.media_type}
                content = still.content
                yield httpx.Request("PUT", store, headers=headers, content=content)
                return url
            case _:
                raise self._unreadable(body)

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        del reference  # fal has no field for one
        endpoint = self.route.endpoints[job.resolution]
        fields: dict[str, object] = {"image_url": image_url, "prompt": job.prompt}
        if endpoint.startswith(KLING):
            fields["duration"] = str(job.duration_s)
        else:
            fields |= self._wan_fields(job, endpoint, seed)
        fields |= optional_fields(self.route, job)
        headers = KEPT | ONCE | (LATER if self.route.kind == "batch" else {})
        url = f"{QUEUE}/{endpoint}"
        request = self._request("POST", url, headers=headers, json=fields)
        match body := read_body((yield self._hooked(request))):
            case {"request_id": value} if remote := remote_id(value):
                return Ticket(self.name, remote, _urls(endpoint, remote, body))
            case _:
                raise self._unreadable(body)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        told = self._task((yield self._request("GET", ticket.urls["status"])))
        task = told.fields
        if self.words.meaning(task["status"]) != "ready":
            return self._progress(told)
        match task:
            case {"error_type": str(kind)} if kind in NOT_BILLED:
                return Refused(f"{kind}: {redact(error_text(task), self.key)}")
            case _:
                result = yield self._request("GET", ticket.urls["result"])
        if result.status_code >= 500:
            return (yield from self._confirm(ticket, result))
        return self._outcome(result, _error(task))

    def _confirm(self, ticket: Ticket, failed: httpx.Response) -> Exchange[Progress]:
        """Ask twice about a 5xx in place of a result.

        An unbilled failure is submitted again. If the 5xx concerned only that one
        request, the clip would be bought twice.
        """
        task = read_body((yield self._request("GET", ticket.urls["status"])))
        match task:
            case {"status": str(status)} if self.words.meaning(status) == "ready":
                pass
            case _:
                return None
        if error := _error(task):
            return self._outcome(failed, error)
        second = yield self._request("GET", ticket.urls["result"])
        differs = second.status_code >= 500 and _kind(second) != _kind(failed)
        return None if differs else self._outcome(second, None)

    def _has_task(self, response: httpx.Response, body: Any) -> bool:
        """Whether the answer is a failed job, which fal sends in place of the result."""
        request = response.request
        asks = ("/status", "/models/pricing")
        of_result = request.method == "GET" and not request.url.path.endswith(asks)
        ours = response.status_code in {401, 402, 403, 404, 429}
        return of_result and not ours and REFUSALS.is_own(body)

    def check(self) -> Exchange[AccountReport]:
        endpoints = sorted({*self.route.endpoints.values()})
        url = httpx.URL(PRICING, params={"endpoint_id": endpoints})
        match body := read_body((yield self._request("GET", str(url)))):
            case {"prices": [*prices]}:
                listed = {price["endpoint_id"]: price for price in prices}
            case _:
                raise self._unreadable(body)
        return AccountReport(
            prices_usd={
                (resolution, seconds): usd
                for resolution, seconds in self.route.prices_usd
                if (usd := self._price(listed, resolution, seconds))
            },
            has_model={*endpoints} <= listed.keys(),
        )

    def _price(
        self, listed: Mapping[str, Any], resolution: str, seconds: int
    ) -> Decimal | None:
        """Return a clip's price, if the price of the endpoint's unit decides it.

        The unit's price is for the endpoint's largest size, and a model that counts
        frames counts its seconds differently.
        """
        endpoint = self.route.endpoints[resolution]
        alone = [*self.route.endpoints.values()].count(endpoint) == 1
        match listed.get(endpoint):
            case {"unit": "second" | "seconds", "unit_price": price, "currency": "USD"}:
                second_usd = amount(price)
                is_certain = alone and endpoint not in MOST_FRAMES
                return second_usd * seconds if is_certain and second_usd else None
            case _:
                return None

    def _outcome(self, result: httpx.Response, error: Any) -> Progress:
        """Return the outcome of an ended job: fal's 5xx is free, a 422 may be billed (docs)."""
        body, status = read_body(result), result.status_code
        reason = redact(error_text(body), self.key)
        match body:
            case _ if url := self._clip(result, body):
                seed = value_at(body, "seed")
                return Finished(url, seed if isinstance(seed, int) else None)
            case {"detail": [{"type": str(kind)}, *_]} | {"error_type": str(kind)}:
                return failure(FAILURES, {"kind": kind, "status": status}, reason)
            case _ if error:
                text = reason if status >= 500 else redact(error, self.key)
                return failure(FAILURES, {"kind": "", "status": status}, text)
            case _:
                raise self._unreadable(body)

    @staticmethod
    def _clip(result: httpx.Response, body: Any) -> str | None:
        if isinstance(body, str):
            return None
        link = clip_link(body, str(result.request.url))
        return link or (video_link(body) if result.is_success else None)

    def _wan_fields(self, job: Job, endpoint: str, seed: int) -> dict[str, object]:
        """Return the fields of Wan, which counts a clip in frames."""
        most = MOST_FRAMES.get(endpoint)
        fields: dict[str, object] = {
            "resolution": job.resolution,
            "num_frames": frames(self.route, job, most=most),
            "frames_per_second": self.route.fps,
            "seed": seed,
        }
        if "/v2.2" in endpoint:  # whose default doubles the frames
            fields["num_interpolated_frames"] = 0
        return fields

    def _auth(self) -> Mapping[str, str]:
        return {"authorization": f"Key {self.key}"}


def _urls(endpoint: str, remote: str, receipt: Mapping[str, Any]) -> dict[str, str]:
    """Return the URLs to poll, as fal returns them: they lack the endpoint's sub-path."""
    app = "/".join(endpoint.split("/")[:2])
    request = f"{QUEUE}/{app}/requests/{path_segment(remote)}"
    found = {"status": receipt.get("status_url"), "result": receipt.get("response_url")}
    usual = {"status": f"{request}/status", "result": request}
    whole = {
        name: url
        for name, url in found.items()
        if isinstance(url, str) and url.startswith(("https://", "http://"))
    }
    return usual | whole


def _error(task: Mapping[str, Any]) -> Any:
    """Return the error in a status, if any."""
    return task.get("error") or task.get("error_type")


def _kind(failed: httpx.Response) -> tuple[int, str]:
    """Return what identifies a failure: its HTTP status and fal's type of error."""
    match read_body(failed):
        case {"detail": [{"type": str(kind)}, *_]} | {"error_type": str(kind)}:
            return failed.status_code, kind
        case _:
            return failed.status_code, ""
