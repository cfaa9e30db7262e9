"""Runs an adapter's exchange: a submit once, anything free to its end."""

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import aiohttp
import httpx

from manifests.lifecycle import Lost
from storage.media import Still
from tasks.answers import whole
from tasks.providers.errors import (
    InDoubtError,
    MisconfiguredError,
    NotSentError,
    ProviderError,
    StillRefusedError,
    UploadRefusedError,
)
from tasks.providers.http.clients import Clients
from tasks.providers.http.endpoint import Endpoint
from tasks.providers.http.exceptions import failure_name
from tasks.providers.http.retry import OnFailure, retrying
from tasks.providers.parsing import is_page, read_body
from tasks.providers.protocol import Exchange, UnreadableError
from tasks.providers.refusals import not_own

T = TypeVar("T")

# httpx's own transport raises these before it writes a byte of the request, and only then.
# After any other exception the request may have been accepted.
NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    # A proxy refused to connect: the request goes through it only afterwards.
    httpx.ProxyError,
    httpx.UnsupportedProtocol,
)

_WRITES: Final = (".send_request_headers.started", ".send_request_body.started")
"""httpcore's events before it writes a request's head and its body."""


async def submit(
    clients: Clients,
    endpoint: Endpoint,
    exchange: Exchange[T],
    *,
    in_time: Callable[[], bool] = lambda: True,
) -> T:
    """Send the one request that costs money, once.

    `in_time` is asked before each write, once the connection is open: a provider that has
    the head of a request and not its body has accepted nothing.

    Raises:
        NotSentError, ThrottledError, RejectedError, MisconfiguredError: the provider
            certainly did not accept it.
        InDoubtError: anything else went wrong.
    """
    request = _first_request(endpoint, exchange)
    writes = _WRITES if request.headers.get("content-length") else _WRITES[:1]

    async def check_time(event: str, _: Mapping[str, Any]) -> None:
        # The machine may have slept for hours while it connected.
        if event.endswith(writes) and not in_time():
            raise NotSentError(f"{endpoint.provider.name}: not sent in time")

    request.extensions["trace"] = check_time
    response = await _send_paid(clients, endpoint, request)
    if verdict := _verdict(endpoint, response):
        raise verdict
    return _result(endpoint, exchange, response)


async def _send_paid(
    clients: Clients, endpoint: Endpoint, request: httpx.Request
) -> httpx.Response:
    try:
        return await whole(await next(clients.paid).send(request, stream=True))
    except NotSentError:
        raise
    except NOT_SENT as exc:
        raise NotSentError(_message(endpoint, exc)) from exc
    # Any other exception may have been raised after the request was sent.
    except Exception as exc:
        raise InDoubtError(_message(endpoint, exc), _lost(exc)) from exc


def _result(endpoint: Endpoint, exchange: Exchange[T], response: httpx.Response) -> T:
    """Return what the adapter reads from the answer to a submit."""
    try:
        exchange.send(response)
    except StopIteration as end:
        return end.value
    # The request was sent, however the adapter fails to read the answer.
    except Exception as exc:
        name = "" if isinstance(exc, UnreadableError) else f"{type(exc).__name__}: "
        message = f"{endpoint.provider.name}: {name}{exc}"
        raise InDoubtError(message, "unread") from exc
    message = f"{endpoint.provider.name}: a submit yielded a second request"
    raise InDoubtError(message, "unread")


def _first_request(endpoint: Endpoint, exchange: Exchange[T]) -> httpx.Request:
    try:
        return endpoint.addressed(next(exchange))
    except ProviderError:
        raise
    # The request cannot be built, so no job of this lane can be submitted.
    except Exception as exc:
        message = f"{endpoint.provider.name}: {type(exc).__name__}: {exc}"
        raise MisconfiguredError(message) from exc


def _verdict(endpoint: Endpoint, response: httpx.Response) -> ProviderError | None:
    """Return the adapter's verdict; an adapter that fails on an answer proves nothing."""
    name = endpoint.provider.name
    try:
        return endpoint.provider.judge(response)
    except Exception as exc:  # noqa: BLE001 - the caller gets it as a doubt
        return InDoubtError(f"{name}: {type(exc).__name__} in its answer")


async def ask(clients: Clients, endpoint: Endpoint, exchange: Exchange[T]) -> T:
    """Run a free exchange to its end; send each of its requests once.

    Raises:
        ProviderError: the request failed; all kinds but MisconfiguredError and
            RejectedError may pass if it is repeated.
        UnreadableError: the adapter cannot read a good answer.
    """
    response: httpx.Response | None = None
    try:
        request = next(exchange)
        while True:
            response = await _send_free(clients, endpoint.addressed(request))
            if verdict := _verdict(endpoint, response):
                raise verdict
            request = exchange.send(response)
    except StopIteration as end:
        return end.value
    except (httpx.HTTPError, aiohttp.ClientError, TimeoutError) as exc:
        raise NotSentError(_message(endpoint, exc)) from exc
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as exc:
        if response is not None and is_page(body := read_body(response)):
            provider = endpoint.provider
            raise not_own(
                provider.name, response, body, step="ask", key=provider.key
            ) from exc
        if isinstance(exc, UnreadableError):
            raise
        message = f"{type(exc).__name__}: {exc}"
        raise UnreadableError(endpoint.provider.name, message) from exc


async def _send_free(clients: Clients, request: httpx.Request) -> httpx.Response:
    """Send a free request by the transport itself.

    A client adds redirects, cookies and auth, which a poll does not need and which cost a
    quarter of its CPU.
    """
    request.extensions["timeout"] = clients.timeouts
    response = await clients.polls.handle_async_request(request)
    response.request = request
    return await whole(response)


LASTING: Final = 3
"""Refusals of one upload by the provider itself, after which it is not repeated."""


async def upload(
    clients: Clients,
    endpoint: Endpoint,
    still: Still,
    *,
    on_failure: OnFailure = lambda _: None,
) -> str:
    """Upload a still and return its URL; tries for about ten minutes.

    `on_failure` receives the error of each try that is repeated.

    Raises:
        InDoubtError: an answer that is not the provider's own comes at once, because it
            concerns the lane and not the still.
        StillRefusedError: the provider refused it `LASTING` times.
        ProviderError: the upload could not be made.
    """
    refusals = 0
    async for attempt in retrying(40, on_failure=on_failure, but=_is_not_own):
        with attempt:
            try:
                return await ask(clients, endpoint, endpoint.provider.upload(still))
            except UploadRefusedError as exc:
                refusals += 1
                if refusals >= LASTING:
                    raise StillRefusedError(f"{exc}, {LASTING} times") from exc
                raise
    raise AssertionError  # pragma: no cover - retrying() reraises


def _is_not_own(exc: BaseException) -> bool:
    return isinstance(exc, InDoubtError) and bool(exc.shape)


def _lost(exc: BaseException) -> Lost:
    """Return how the answer was lost: after a silence the provider is likelier to work on it."""
    return "silent" if isinstance(exc, httpx.TimeoutException) else "broken"


def _message(endpoint: Endpoint, exc: BaseException) -> str:
    return f"{endpoint.provider.name}: {failure_name(exc)}"
