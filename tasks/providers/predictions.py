"""Prediction APIs: the exchange steps that the paid adapters share.

Each of these providers takes a still, accepts a prediction, and is polled until it has a
clip. An adapter states its paths, fields, status words and tables, and composes its
exchanges of the steps here. What an answer means (`judge`) stays in the adapter.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, ClassVar, Final

import httpx

from manifests.jobs import Job
from manifests.lifecycle import Ticket
from tasks.providers.adapter import Adapter
from tasks.providers.answers import (
    Task,
    any_id,
    any_status,
    clip_link,
    contents,
    names_video,
    video_link,
)
from tasks.providers.job_failures import failure
from tasks.providers.parsing import (
    amount,
    end_reason,
    path_segment,
    read_body,
    remote_id,
    value_at,
)
from tasks.providers.protocol import Exchange, Finished, Progress
from tasks.providers.submissions import Submission, example

NOBODYS_ID: Final = "nightreel-check"
"""The id of no prediction: only a request with a good key gets "not found"."""

NO_MODEL: Final = "check the model's id in the route's endpoints"
"""The cure of a refusal that knows no such model."""

NO_STATUS: Final = "no status"


@dataclass(frozen=True, slots=True)
class PredictionApi(Adapter):
    """The steps of an adapter's exchanges, by the places in which it finds things."""

    enveloped: ClassVar[bool] = False
    """Whether answers have the prediction in `data`, instead of at the top."""
    id_field: ClassVar[str] = "id"
    status_field: ClassVar[str] = "status"
    task_path: ClassVar[str]
    """The path of a poll, with `{}` for the task's id."""
    hook_param: ClassVar[str] = ""
    """The query parameter of a submit that names our webhook."""
    hook_field: ClassVar[str] = ""
    """The field of a submit's body that names it."""

    now: Callable[[], float] = field(default=time.time, repr=False, compare=False)

    def submit(
        self, job: Job, image_url: str, seed: int, reference: str
    ) -> Exchange[Ticket]:
        """Send the request that costs money; return the ticket."""
        asked = Submission(job, image_url, seed, reference)
        answer = yield self._submit_request(asked)
        if remote := self._id(body := read_body(answer)):
            return Ticket(self.name, remote, self._ticket_urls(asked, remote, answer))
        raise self._unreadable(body)

    def poll(self, ticket: Ticket) -> Exchange[Progress]:
        return self._progress((yield from self._look(ticket.id)))

    def _content(self, body: Any) -> Mapping[str, Any]:
        """Return the prediction in an answer; empty if there is none."""
        match body:
            case {"data": {**task}} if self.enveloped:
                return task
            case {**task} if not self.enveloped:
                return task
            case _:
                return {}

    def _id(self, body: Any) -> str:
        """Return the id in the answer to an accepted submit; "" if there is none.

        It is in the provider's own place, or where another provider has it.
        """
        if own := remote_id(self._content(body).get(self.id_field)):
            return own
        found = (any_id(content) for content in contents(body))
        return next((remote for remote in found if remote), "")

    def _has_task(self, response: httpx.Response, body: Any) -> bool:
        """Whether an answer has a prediction, even with an HTTP status of a failure.

        The answer to a submit has an id, the answer to a poll a status. An id in an
        unknown form counts: an answer with an id does not prove a refusal.
        """
        task = self._content(body)
        match self.refusals.step(response.request), task.get(self.status_field):
            case "submit", _:
                return bool(task.get(self.id_field))
            case "ask", status if self.enveloped:
                return response.request.method == "GET" and bool(status)
            case "ask", str():
                return response.request.method == "GET" and response.is_success
            case _:
                return False

    def _answer_code(self, response: httpx.Response, body: Any) -> int:
        """Return the HTTP status, or the envelope's code if the status is a success."""
        match body:
            case {"code": int(code)} if (
                self.enveloped and response.is_success and code != 0
            ):
                return code
            case _:
                return response.status_code

    def _is_good(self, response: httpx.Response, body: Any, code: int) -> bool:
        has_task = self._has_task(response, body)
        return has_task or 200 <= code < 300 or self._is_expected(response, body, code)

    def _is_expected(self, response: httpx.Response, body: Any, code: int) -> bool:
        """Whether the exchange reads a certain answer that is neither success nor task."""
        del response, body, code
        return False

    def _link(self, request: httpx.Request, *place: str) -> Exchange[str]:
        """Upload a still with one request; return its URL from a place in the answer."""
        body = yield from self._ask(request)
        match value_at(body, *place):
            case str(url) if url:
                return url
            case _:
                raise self._unreadable(body)

    def _submit_request(self, asked: Submission) -> httpx.Request:
        """Return the request that costs money."""
        raise NotImplementedError

    def _ticket_urls(
        self, asked: Submission, remote: str, answer: httpx.Response
    ) -> Mapping[str, str]:
        """Return the addresses that an accepted submit's ticket keeps."""
        del asked, remote, answer
        return {}

    def _model(self, job: Job) -> str:
        return self.route.endpoints[job.resolution]

    def _post(
        self,
        path: str,
        fields: Mapping[str, object],
        *,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Request:
        """Return a submit, with our webhook in its body or query, if it belongs there."""
        if self.hook and self.hook_field:
            fields = {**fields, self.hook_field: self.hook}
        submit = self._request("POST", path, headers=headers, json=fields)
        if self.hook and self.hook_param:
            hook = {self.hook_param: self.hook}
            submit.url = submit.url.copy_merge_params(hook)
        return submit

    def _task_request(self, remote: str) -> httpx.Request:
        return self._request("GET", self.task_path.format(path_segment(remote)))

    def _look(self, remote: str) -> Exchange[Task]:
        """Ask for a prediction; return its fields, with the status among them."""
        return self._task((yield self._task_request(remote)))

    def _task(self, answer: httpx.Response) -> Task:
        """Return the prediction in the answer to a poll.

        Its status is in `status_field`, wherever the answer has it.

        Raises:
            UnreadableError: the answer has neither a status nor a clip.
        """
        body, address = read_body(answer), str(answer.request.url)
        own = self._content(body)
        if isinstance(own.get(self.status_field), str):
            return Task(own, address)
        for content in contents(body):
            if isinstance(status := any_status(content), str):
                return Task({**content, self.status_field: status}, address)
        if isinstance(body, dict | list) and clip_link(body, address):
            fields: Mapping[str, Any] = {
                **own,
                "outputs": body,
                self.status_field: NO_STATUS,
            }
            return Task(fields, address, is_bare=True)
        raise self._unreadable(body)

    def _progress(
        self,
        task: Task,
        *,
        reason: str | None = None,
        usd: Decimal | None = None,
    ) -> Progress:
        """Return the progress: a clip, whatever an ended task is called, or by its status."""
        fields = task.fields
        meaning = self.words.meaning(fields[self.status_field])
        if meaning == "waiting":
            return None
        clip = task.link
        # The link of a task that failed, or may have, can lead to a page about it.
        if clip and (meaning == "ready" or names_video(clip) or task.is_bare):
            return Finished(clip, usd=usd)
        if meaning == "failed":
            reason = reason or end_reason(fields, self.key)
            return failure(self.failures, fields, reason)
        if clip := video_link(fields):
            return Finished(clip, usd=usd)
        raise self._unreadable(fields)

    def _prices(
        self, request: Callable[[Submission], httpx.Request]
    ) -> Exchange[Mapping[tuple[str, int], Decimal]]:
        """Ask for the price of each resolution and length of the route, where it is known."""
        prices: dict[tuple[str, int], Decimal] = {}
        for resolution, seconds in self.route.prices_usd:
            job = example(resolution, seconds)
            asked = request(Submission(job, job.image, seed=1))
            body = yield from self._ask(asked)
            if usd := _price_usd(body):
                prices[resolution, seconds] = usd
        return prices


def _price_usd(body: Any) -> Decimal | None:
    """Return the price of one clip for this account."""
    match body:
        case {"data": {"currency": str(currency)}} if currency.upper() != "USD":
            return None
        case {"data": {"discounted_price": price} | {"price": price}}:
            return amount(price)
        case _:
            return None
