"""Sends requests to providers; no other module does.

There are two kinds of client, because one kind of request costs money. Submits go through
httpx's own transport, whose exceptions say whether the request was sent. Everything free
(polls, uploads, downloads) goes through the aiohttp transport, which needs a fraction of
the CPU. It reports "never connected" for a request that the server read whole before it
hung up (httpx-aiohttp 0.2.0, measured 2026-11), so submits never use it.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from itertools import cycle
from ssl import SSLContext
from types import MappingProxyType
from typing import Any, Final, TypeVar
from urllib.request import getproxies

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from manifests.lifecycle import Lost
from storage.media import Still
from tasks.providers.errors import (
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    NotSentError,
    ProviderError,
    ThrottledError,
)
from tasks.providers.protocol import ClipHost, Exchange, Provider, UnreadableError

T = TypeVar("T")

# httpx's own transport raises these before it writes a byte of the request, and only then.
# After any other exception the request may have been accepted.
NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)

LARGEST_CLIP: Final = 512 * 2**20
"""Bytes; a limit on memory that no clip of a few seconds reaches."""


@dataclass(frozen=True, slots=True)
class Clients:
    """The clients that submit, used in turn, and the client for free requests."""

    paid: Iterator[httpx.AsyncClient]
    """Never ends."""
    free: httpx.AsyncClient
    polls: httpx.AsyncBaseTransport
    """The free client's own transport."""
    timeouts: Mapping[str, float | None]
    """The free client's timeouts, in seconds."""


POOLS: Final = 6
"""httpcore's cost of a request grows with the square of a pool's connections: small pools of
12 connections need a third of the CPU of one large pool (measured)."""


@asynccontextmanager
async def connected(*, timeout_s: float = 60.0) -> AsyncGenerator[Clients]:
    """Open all clients for the length of a block."""
    tls = httpx.create_ssl_context()
    async with AsyncExitStack() as stack:
        paid = [
            await stack.enter_async_context(paid_client(tls, timeout_s))
            for _ in range(POOLS)
        ]
        connector = aiohttp.TCPConnector(limit=128, keepalive_timeout=15, ssl=tls)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                # aiohttp would read the proxies and .netrc again for every request.
                trust_env=bool(getproxies()),
            )
        )
        polls = AiohttpTransport(client=session, verify=tls)
        free = await stack.enter_async_context(
            httpx.AsyncClient(transport=polls, timeout=timeout_s, trust_env=False)
        )
        yield Clients(cycle(paid), free, polls, httpx.Timeout(timeout_s).as_dict())


def paid_client(tls: SSLContext, timeout_s: float) -> httpx.AsyncClient:
    """Return a client for submits.

    It closes a connection after two idle seconds: a request that is written to a
    connection which the server is closing ends in doubt.
    """
    return httpx.AsyncClient(
        verify=tls,
        limits=httpx.Limits(max_connections=12, keepalive_expiry=2.0),
        # A submit may wait for a busy pool without limit: nothing was sent yet.
        timeout=httpx.Timeout(timeout_s, connect=10.0, pool=None),
    )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A provider, and the address that its requests go to."""

    provider: Provider
    base_url: httpx.URL | None = None
    """Replaces the scheme and host of each request, and prefixes its path."""

    def addressed(self, request: httpx.Request) -> httpx.Request:
        """Return the request, moved to `base_url`.

        Raises:
            MisconfiguredError: the provider's answer named a foreign host for a request
                that carries the key.
        """
        ours = request.url.host in self.provider.hosts
        if ours and self.base_url is not None:
            request.url = _moved(request.url, self.base_url)
            request.headers["host"] = request.url.netloc.decode("ascii")
        at_base = self.base_url is not None and request.url.host == self.base_url.host
        if "authorization" in request.headers and not (ours or at_base):
            message = f"{self.provider.name}: the key is not for {request.url.host}"
            raise MisconfiguredError(message)
        return request

    def fetching(self, url: str) -> httpx.Request:
        """Return the request for a clip, with the key only if the provider needs it."""
        if isinstance(self.provider, ClipHost):
            return self.addressed(self.provider.fetch(url))
        return httpx.Request("GET", url)


def _moved(url: httpx.URL, base: httpx.URL) -> httpx.URL:
    path = base.raw_path.rstrip(b"/") + url.raw_path
    return url.copy_with(
        scheme=base.scheme, host=base.host, port=base.port, raw_path=path
    )


async def submit(
    clients: Clients,
    endpoint: Endpoint,
    exchange: Exchange[T],
    *,
    in_time: Callable[[], bool] = lambda: True,
) -> T:
    """Send the one request that costs money, once.

    `in_time` is asked when the connection is open and nothing is written yet.

    Raises:
        NotSentError, ThrottledError, RejectedError, MisconfiguredError: the provider
            certainly did not accept it.
        InDoubtError: anything else went wrong.
    """
    request = _first_request(endpoint, exchange)

    async def check_time(event: str, _: Mapping[str, Any]) -> None:
        # The machine may have slept for hours while it connected.
        if event.endswith(".send_request_headers.started") and not in_time():
            raise NotSentError(f"{endpoint.provider.name}: not sent in time")

    request.extensions["trace"] = check_time
    try:
        response = await next(clients.paid).send(request)
    except NotSentError:
        raise
    except NOT_SENT as exc:
        raise NotSentError(_message(endpoint, exc)) from exc
    # Any other exception may have been raised after the request was sent.
    except Exception as exc:
        raise InDoubtError(_message(endpoint, exc), _lost(exc)) from exc
    if verdict := _verdict(endpoint, response):
        raise verdict
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
    try:
        await response.aread()
    finally:
        await response.aclose()
    return response


async def upload(clients: Clients, endpoint: Endpoint, still: Still) -> str:
    """Upload a still and return its URL; tries for about ten minutes."""
    async for attempt in retrying(40):
        with attempt:
            return await ask(clients, endpoint, endpoint.provider.upload(still))
    raise AssertionError  # pragma: no cover - retrying() reraises


async def download(client: httpx.AsyncClient, request: httpx.Request) -> bytes:
    """Return the bytes of a clip, as many as the server's Content-Length says.

    Raises:
        NotFoundError: the link has expired; a poll gives a fresh one.
        InDoubtError: the download was cut short, too large or refused; try again.
    """
    place = request.url.host
    body = bytearray()
    for name in ("accept", "user-agent"):
        request.headers.setdefault(name, client.headers[name])
    # A store must not compress the clip on the way.
    request.headers.setdefault("accept-encoding", "identity")
    try:
        asked = client.send(request, stream=True, follow_redirects=True)
        async with aclosing(await asked) as response:
            if response.status_code in _DEAD_LINK:
                raise NotFoundError(f"{place}: HTTP {response.status_code}")
            if not response.is_success:
                raise InDoubtError(f"{place}: HTTP {response.status_code}")
            async for chunk in response.aiter_raw(2**16):
                body += chunk
                if len(body) > LARGEST_CLIP:
                    raise InDoubtError(f"{place}: over {LARGEST_CLIP} bytes")
    except (httpx.HTTPError, aiohttp.ClientError, TimeoutError) as exc:
        raise InDoubtError(f"{place}: {_name(exc)}") from exc
    if (want := response.headers.get("content-length", "")).isdecimal() and int(
        want
    ) != len(body):
        raise InDoubtError(f"{place}: {len(body)} of {want} bytes")
    return bytes(body)


_DEAD_LINK: Final = (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


def retrying(attempts: int, *, also: tuple[type[Exception], ...] = ()) -> AsyncRetrying:
    """Retry a free request, after the wait that the provider asks for; never a submit."""
    transient = (NotSentError, ThrottledError, InDoubtError, NotFoundError)
    return AsyncRetrying(
        retry=retry_if_exception_type((*transient, *also)),
        wait=_RetryAfter(),
        stop=stop_after_attempt(attempts),
        reraise=True,
    )


class _RetryAfter(wait_random_exponential):
    """A random, growing wait, or the seconds of Retry-After."""

    def __init__(self) -> None:
        super().__init__(multiplier=0.5, max=20.0)

    def __call__(self, retry_state: RetryCallState) -> float:
        failed = retry_state.outcome and retry_state.outcome.exception()
        if isinstance(failed, ThrottledError) and failed.retry_after is not None:
            return failed.retry_after
        return super().__call__(retry_state)


_WORDS: Final[Mapping[type[BaseException], str]] = MappingProxyType(
    {
        httpx.ReadTimeout: "no answer in time",
        httpx.RemoteProtocolError: "the answer broke off or is not HTTP",
        httpx.ReadError: "the connection broke",
    }
)


def _lost(exc: BaseException) -> Lost:
    """Return how the answer was lost: after a silence the provider is likelier to work on it."""
    return "silent" if isinstance(exc, httpx.TimeoutException) else "broken"


def _name(exc: BaseException) -> str:
    return _WORDS.get(type(exc)) or str(exc) or type(exc).__name__


def _message(endpoint: Endpoint, exc: BaseException) -> str:
    return f"{endpoint.provider.name}: {_name(exc)}"
