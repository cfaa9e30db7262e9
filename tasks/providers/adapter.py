"""The base of every adapter: its state, its requests, and the judging of its answers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import httpx

from manifests.catalogue import Route
from tasks.providers.errors import ProviderError
from tasks.providers.job_failures import Failure
from tasks.providers.parsing import StatusWords, read_body, redact
from tasks.providers.protocol import Exchange, UnreadableError
from tasks.providers.refusals import Refusals


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter states its name, addresses and tables, and composes its exchanges."""

    name: ClassVar[str]
    api: ClassVar[str]
    """The prefix of every request's URL."""
    hosts: ClassVar[frozenset[str]]
    refusals: ClassVar[Refusals]
    failures: ClassVar[tuple[Failure, ...]]
    words: ClassVar[StatusWords]
    has_store: ClassVar[bool] = False
    """Whether a request without the key goes to the store that holds uploads."""

    unique_references: ClassVar[bool] = False

    route: Route
    key: str = field(repr=False)
    hook: str = ""

    def judge(self, response: httpx.Response) -> ProviderError | None:
        """Return the error that an answer means; None for a good one."""
        if self.has_store and "authorization" not in response.request.headers:
            return self.refusals.of_store(response)
        body = read_body(response)
        code = self._answer_code(response, body)
        if self._is_good(response, body, code):
            return None
        return self.refusals.verdict(response, body, code=code, key=self.key)

    def _answer_code(self, response: httpx.Response, body: Any) -> int:
        """Return the code by which the tables know an answer."""
        del body
        return response.status_code

    def _is_good(self, response: httpx.Response, body: Any, code: int) -> bool:
        """Whether the exchange reads the answer; it need not be a success."""
        del body, code
        return response.is_success

    def _request(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        **content: Any,
    ) -> httpx.Request:
        sent = {**self._auth(), **(headers or {})}
        return httpx.Request(method, f"{self.api}{path}", headers=sent, **content)

    def _ask(self, request: httpx.Request) -> Exchange[Any]:
        """Send a free request; return the body of its answer."""
        return read_body((yield request))

    def _get(self, path: str) -> Exchange[Any]:
        return self._ask(self._request("GET", path))

    def _auth(self) -> Mapping[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def _unreadable(self, body: Any) -> UnreadableError:
        return UnreadableError(self.name, redact(body, self.key))
