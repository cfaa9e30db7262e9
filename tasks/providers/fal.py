"""fal: https://fal.ai/docs/documentation/model-apis and the models' llms.txt, 2026-11."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import httpx

from manifests.catalogue.routes import Route
from manifests.jobs import Job
from manifests.lifecycle import Refused, Ticket
from tasks.providers import refusals
from tasks.providers.errors import MisconfiguredError, ProviderError
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
    failure,
    money,
    quote,
    read,
    words,
)

QUEUE: Final = "https://queue.fal.run"
# Docs, platform-apis/v1/models/pricing, read 2026-11: a key is needed, any will do.
PRICING: Final = "https://api.fal.ai/v1/models/pricing"
UPLOADS: Final = "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3"
KEPT: Final = {
    "X-Fal-Object-Lifecycle-Preference": json.dumps(
        {"expiration_duration_seconds": refusals.KEPT_DAYS * 86_400}
    )
}
# Tries are ours to count: fal would make ten of them unseen.
ONCE: Final = {"x-fal-no-retry": "1"}
# For routes that are made when fal finds the time.
LATER: Final = {"X-Fal-Queue-Priority": "low"}
KLING: Final = "fal-ai/kling-video/"
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
TOP_UP: Final = "top up the account at https://fal.ai/dashboard/billing"
LOCKED: Final = re.compile("user is locked|exhausted balance", re.IGNORECASE)
REFUSALS: Final = Refusals(
    provider="fal",
    mark="detail",
    uploads="/storage/upload/initiate",
    signs=(
        Sign(
            word="auth",
            codes=frozenset({401}),
            fix="check the key, which is written id:secret",
        ),
        Sign(word="credit", codes=frozenset({402}), fix=TOP_UP),
        Sign(word="credit", codes=frozenset({403}), says=LOCKED, fix=TOP_UP),
        Sign(
            word="permission",
            codes=frozenset({403}),
            fix="check that the key and the account may use this model",
        ),
        Sign(
            word="content",
            codes=frozenset({422}),
            says=re.compile("content_policy_violation"),
        ),
        Sign(word="invalid", codes=frozenset({400, 413, 422})),
        Sign(word="throttled", codes=frozenset({429})),
    ),
)
MAY_BE: Final = "docs, errors: a 422 may be billed, read 2026-11"
UNBILLED: Final = "docs, errors: no 5xx is billed, read 2026-11"
FAILURES: Final = (
    Failure(
        why="server",
        told="a 5xx where the result would be, told twice, or an `error_type` of fal's own",
        when=lambda task: task["status"] >= 500,
        charged=False,
        source=UNBILLED,
    ),
    Failure(
        why="content",
        told="400 or 422 of kind `content_policy_violation`",
        when=lambda task: task["kind"] == "content_policy_violation",
        charged=None,
        source=MAY_BE,
    ),
    Failure(
        why="invalid",
        told="400 or 422 of kind " + ", ".join(f"`{k}`" for k in sorted(ANOTHER_TRY)),
        when=lambda task: task["kind"] in ANOTHER_TRY,
        charged=None,
        source=MAY_BE,
        final=False,
    ),
    Failure(
        why="invalid",
        told="400 or 422 of any other kind",
        when=lambda task: bool(task["kind"]) and task["status"] in {400, 422},
        charged=None,
        source=MAY_BE,
    ),
    Failure(
        why="server",
        told="any other error",
        when=lambda _: True,
        charged=None,
        source="not said",
    ),
)


@dataclass(frozen=True, slots=True)
class Fal:
    """A queue: what is over the account's concurrency waits there."""

    route: Route
    key: str = field(repr=False)
    hook: str = ""
    name: str = field(default="fal", init=False)
    hosts: frozenset[str] = field(
        default=frozenset({"queue.fal.run", "rest.fal.ai", "api.fal.ai"}), init=False
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

    def submit(
        self,
        job: Job,
        image_url: str,
        seed: int,
        reference: str,  # noqa: ARG002 - it has no field for one
    ) -> Exchange[Ticket]:
        endpoint = self.route.endpoints[job.resolution]
        asked: dict[str, object] = {"image_url": image_url, "prompt": job.prompt}
        if endpoint.startswith(KLING):
            asked["duration"] = str(job.duration_s)
        else:
            asked |= self._film(job, endpoint, seed)
        asked |= refusals.options(self.route, job)
        headers = KEPT | ONCE | (LATER if self.route.kind == "batch" else {})
        match said := read((yield self._post(self._door(endpoint), asked, headers))):
            case {
                "request_id": str(remote),
                "status_url": str(status),
                "response_url": str(result),
            }:
                # As returned: the endpoint's sub-path is not in them.
                urls = {"status": status, "result": result}
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
                result = yield self._ask("GET", ticket.urls["result"])
                if result.status_code >= 500:
                    return (yield from self._confirmed(ticket, result))
                return self._outcome(result, _error(said))
            case _:
                raise self._unreadable(said)

    def _confirmed(self, ticket: Ticket, failed: httpx.Response) -> Exchange[Progress]:
        """What a 5xx in place of a result comes to.

        The job goes again for it, unbilled; were it but a hiccup of that one question,
        the clip would be bought twice. So it has to be told twice.
        """
        match read((yield self._ask("GET", ticket.urls["status"]))):
            case {"status": "COMPLETED", **said} if error := _error(said):
                return self._outcome(failed, error)
            case {"status": "COMPLETED"}:
                again = yield self._ask("GET", ticket.urls["result"])
                changed = again.status_code >= 500 and _told(again) != _told(failed)
                return None if changed else self._outcome(again, None)
            case _:
                return None

    def judge(self, response: httpx.Response) -> ProviderError | None:
        request, said, code = response.request, read(response), response.status_code
        if "authorization" not in request.headers:
            return REFUSALS.of_store(response)
        if response.is_success or _is_outcome(response, said):
            return None
        return REFUSALS.verdict(response, said, code=code, key=self.key)

    def check(self) -> Exchange[Checkup]:
        endpoints = sorted({*self.route.endpoints.values()})
        url = httpx.URL(PRICING, params={"endpoint_id": endpoints})
        said = read((yield self._ask("GET", str(url))))
        match said:
            case {"prices": [*prices]}:
                listed = {price["endpoint_id"]: price for price in prices}
            case _:
                raise self._unreadable(said)
        return Checkup(
            prices_usd={
                (resolution, seconds): usd
                for resolution, seconds in self.route.prices_usd
                if (usd := self._price(listed, resolution, seconds))
            },
            has_model={*endpoints} <= listed.keys(),
        )

    def _price(
        self, listed: dict[str, Any], resolution: str, seconds: int
    ) -> Decimal | None:
        """A clip's price, where it follows from its endpoint's for one unit.

        The unit's is for the largest size that an endpoint makes, and what is counted in
        frames has seconds of its own.
        """
        endpoint = self.route.endpoints[resolution]
        alone = [*self.route.endpoints.values()].count(endpoint) == 1
        match listed.get(endpoint):
            case {"unit": "second" | "seconds", "unit_price": price, "currency": "USD"}:
                each = money(price)
                certain = alone and endpoint not in MOST_FRAMES
                return each * seconds if certain and each is not None else None
            case _:
                return None

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
                return failure(FAILURES, {"kind": kind, "status": failed_with}, reason)
            case _ if error:
                told = reason if failed_with >= 500 else quote(error, self.key)
                return failure(FAILURES, {"kind": "", "status": failed_with}, told)
            case _:
                raise self._unreadable(said)

    def _film(self, job: Job, endpoint: str, seed: int) -> dict[str, object]:
        """What Wan is asked: its clips are counted in frames."""
        asked: dict[str, object] = {
            "resolution": job.resolution,
            "num_frames": self._frames(job, endpoint),
            "frames_per_second": self.route.fps,
            "seed": seed,
        }
        if "/v2.2" in endpoint:  # which doubles the frames unless told not to
            asked["num_interpolated_frames"] = 0
        return asked

    def _door(self, endpoint: str) -> httpx.URL:
        url = httpx.URL(f"{QUEUE}/{endpoint}")
        return url.copy_merge_params({"fal_webhook": self.hook}) if self.hook else url

    def _frames(self, job: Job, endpoint: str) -> int:
        frames = job.duration_s * self.route.fps + 1
        if frames > (most := MOST_FRAMES.get(endpoint, frames)):
            said = f"{job.duration_s} s are {frames} frames, {endpoint} makes {most}"
            raise MisconfiguredError(f"{self.route.name}: {said}")
        return frames

    def _ask(self, method: str, url: str) -> httpx.Request:
        return httpx.Request(method, url, headers=self._auth())

    def _post(
        self, url: httpx.URL | str, asked: object, headers: dict[str, str]
    ) -> httpx.Request:
        return httpx.Request("POST", url, headers=self._auth() | headers, json=asked)

    def _auth(self) -> dict[str, str]:
        return {"authorization": f"Key {self.key}"}

    def _unreadable(self, said: Any) -> UnreadableError:
        return UnreadableError(self.name, quote(said, self.key))


def _error(said: Mapping[str, Any]) -> Any:
    """What a status says went wrong; nothing where all went well."""
    return said.get("error") or said.get("error_type")


def _told(failed: httpx.Response) -> tuple[int, str]:
    """By what two answers are the same failure: fal's own type of it, if it has one."""
    match read(failed):
        case {"detail": [{"type": str(kind)}, *_]} | {"error_type": str(kind)}:
            return failed.status_code, kind
        case _:
            return failed.status_code, ""


def _is_outcome(response: httpx.Response, said: Any) -> bool:
    """Whether this is how the job failed, told where its result would have been."""
    request = response.request
    asks = ("/status", "/models/pricing")
    of_result = request.method == "GET" and not request.url.path.endswith(asks)
    ours = response.status_code in {401, 402, 403, 404, 429}
    return of_result and not ours and isinstance(said, dict) and "detail" in said
