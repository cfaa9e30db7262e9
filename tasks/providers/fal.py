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

from manifests.lifecycle import Refused, Ticket
from storage.media import Still
from tasks.providers import answers, parsing
from tasks.providers.job_failures import Failure, always, failure, failures, has
from tasks.providers.parsing import amount, error_text, read_body, redact, value_at
from tasks.providers.predictions import PredictionApi
from tasks.providers.protocol import AccountReport, Exchange, Finished, Progress
from tasks.providers.refusals import Refusals, refusal
from tasks.providers.submissions import KEPT_DAYS, Submission, frames, optional_fields

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
TOP_UP: Final = "top up the account at https://fal.ai/dashboard/billing"
LOCKED: Final = re.compile("user is locked|exhausted balance", re.IGNORECASE)
POLICY: Final = "content_policy_violation"
REFUSALS: Final = Refusals(
    provider="fal",
    mark="detail",
    uploads="/storage/upload/initiate",
    table=(
        refusal("auth", 401, fix="check the key, which is written id:secret"),
        refusal("credit", 402, fix=TOP_UP),
        refusal("credit", 403, says=LOCKED, fix=TOP_UP),
        refusal(
            "permission",
            403,
            fix="check that the key and the account may use this model",
        ),
        refusal("content", 422, says=re.compile(POLICY)),
        refusal("invalid", 400, 413, 422),
        refusal("throttled", 429),
    ),
)
MAY_BE: Final = "docs, errors: a 422 may be billed, read 2026-11"
FAILURES: Final = (
    *failures(
        (
            "server",
            "a 5xx in place of the result, twice, or an `error_type` of fal's own",
            lambda task: task.get("http", 0) >= 500,
        ),
        charged=False,
        source="docs, errors: no 5xx is billed, read 2026-11",
    ),
    Failure(
        "invalid",
        f"400 or 422 of kind {', '.join(f'`{kind}`' for kind in sorted(ANOTHER_TRY))}",
        has("kind", *ANOTHER_TRY),
        charged=None,
        source=MAY_BE,
        final=False,
    ),
    *failures(
        ("content", f"400 or 422 of kind `{POLICY}`", has("kind", POLICY)),
        (
            "invalid",
            "400 or 422 of any other kind",
            lambda task: bool(task.get("kind")) and task.get("http") in {400, 422},
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
    words: ClassVar = parsing.status_words(
        waiting="in_queue in_progress", ready="completed", failed=""
    )

    def upload(self, still: Still) -> Exchange[str]:
        fields = {"file_name": still.filename, "content_type": still.media_type}
        request = self._request("POST", UPLOADS, headers=KEPT, json=fields)
        match body := (yield from self._ask(request)):
            case {"upload_url": str(store), "file_url": str(url)}:
                headers = {"content-type": still.media_type}
                yield httpx.Request(
                    "PUT", store, headers=headers, content=still.content
                )
                return url
            case _:
                raise self._unreadable(body)

    def _submit_request(self, asked: Submission) -> httpx.Request:
        job, endpoint = asked.job, self._model(asked.job)
        fields: dict[str, object] = {"image_url": asked.image_url, "prompt": job.prompt}
        if endpoint.startswith(KLING):
            fields["duration"] = str(job.duration_s)
        else:
            fields |= self._wan_fields(asked, endpoint)
        fields |= optional_fields(self.route, job)
        headers = KEPT | ONCE | (LATER if self.route.kind == "batch" else {})
        return self._post(f"{QUEUE}/{endpoint}", fields, headers=headers)

    def _id(self, body: Any) -> str:
        return parsing.remote_id(value_at(body, "request_id"))

    def _ticket_urls(
        self, asked: Submission, remote: str, answer: httpx.Response
    ) -> Mapping[str, str]:
        """Return the URLs to poll, as fal returns them: they lack the endpoint's sub-path."""
        app = "/".join(self._model(asked.job).split("/")[:2])
        request = f"{QUEUE}/{app}/requests/{parsing.path_segment(remote)}"
        usual = {"status": f"{request}/status", "result": request}
        places = {"status": "status_url", "result": "response_url"}
        body = read_body(answer)
        found = {name: value_at(body, place) for name, place in places.items()}
        return usual | {name: url for name, url in found.items() if _is_url(url)}

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
        task = yield from self._get(ticket.urls["status"])
        status = value_at(task, "status")
        if not isinstance(status, str) or self.words.meaning(status) != "ready":
            return None
        if error := _error(task):
            return self._outcome(failed, error)
        second = yield self._request("GET", ticket.urls["result"])
        first, again = (
            (each.status_code, _kind(each) or "") for each in (failed, second)
        )
        differs = second.status_code >= 500 and first != again
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
        match body := (yield from self._get(str(url))):
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
        if url := self._clip(result, body):
            seed = value_at(body, "seed")
            return Finished(url, seed if isinstance(seed, int) else None)
        kind = _kind(result)
        if kind is None and not error:
            raise self._unreadable(body)
        words = error if kind is None and status < 500 else error_text(body)
        reason = redact(words, self.key)
        return failure(FAILURES, {"kind": kind or "", "http": status}, reason)

    @staticmethod
    def _clip(result: httpx.Response, body: Any) -> str | None:
        if isinstance(body, str):
            return None
        link = answers.clip_link(body, str(result.request.url))
        return link or (answers.video_link(body) if result.is_success else None)

    def _wan_fields(self, asked: Submission, endpoint: str) -> dict[str, object]:
        """Return the fields of Wan, which counts a clip in frames."""
        most = MOST_FRAMES.get(endpoint)
        fields: dict[str, object] = {
            "resolution": asked.job.resolution,
            "num_frames": frames(self.route, asked.job, most=most),
            "frames_per_second": self.route.fps,
            "seed": asked.seed,
        }
        if "/v2.2" in endpoint:  # whose default doubles the frames
            fields["num_interpolated_frames"] = 0
        return fields

    def _auth(self) -> Mapping[str, str]:
        return {"authorization": f"Key {self.key}"}


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("https://", "http://"))


def _error(task: Mapping[str, Any]) -> Any:
    """Return the error in a status, if any."""
    return task.get("error") or task.get("error_type")


def _kind(result: httpx.Response) -> str | None:
    """Return fal's type of an error in place of a result."""
    match read_body(result):
        case {"detail": [{"type": str(kind)}, *_]} | {"error_type": str(kind)}:
            return kind
        case _:
            return None
