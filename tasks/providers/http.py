"""Talking to providers: the only module that sends anything.

Two clients, because one kind of request costs money. Submits go through httpx's own
transport, whose exceptions tell what was sent. Everything free (polls, uploads,
downloads) goes through the aiohttp transport, which costs a fraction of the CPU but
reports as "never connected" a request that the server had read whole before it hung up
(httpx-aiohttp 0.2.0, measured 2026-11): submits never take it.
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
from storage.media.stills import Still
from tasks.providers.errors import (
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    NotSentError,
    ProviderError,
    ThrottledError,
)
from tasks.providers.protocol import Exchange, Keeper, Provider, UnreadableError

T = TypeVar("T")

# Before a byte of the request is written these are raised, and by nothing else in httpx's
# own transport; whatever is not listed may have been accepted.
NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)

LARGEST_CLIP: Final = 512 * 2**20
"""Bytes; no clip of some seconds is larger, and memory is bounded."""


@dataclass(frozen=True, slots=True)
class Clients:
    """Those that submit, in turn, and the one for all that is free."""

    paid: Iterator[httpx.AsyncClient]
    """Never ends."""
    free: httpx.AsyncClient
    polls: httpx.AsyncBaseTransport
    """The free client's own transport."""
    patience: Mapping[str, float | None]
    """Its timeouts, in seconds."""


POOLS: Final = 6
"""httpcore looks at every connection of a pool, for each of them, at every request: many
small pools cost a third of the CPU of a large one (12 connections each, measured)."""


@asynccontextmanager
async def connected(*, timeout_s: float = 60.0) -> AsyncGenerator[Clients]:
    """All clients, for as long as the block lasts."""
    tls = httpx.create_ssl_context()
    async with AsyncExitStack() as stack:
        paid = [
            await stack.enter_async_context(paying(tls, timeout_s))
            for _ in range(POOLS)
        ]
        connector = aiohttp.TCPConnector(limit=128, keepalive_timeout=15, ssl=tls)
        session = await stack.enter_async_context(
            aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                # It would look for proxies and a .netrc anew at every request.
                trust_env=bool(getproxies()),
            )
        )
        polls = AiohttpTransport(client=session, verify=tls)
        free = await stack.enter_async_context(
            httpx.AsyncClient(transport=polls, timeout=timeout_s, trust_env=False)
        )
        yield Clients(cycle(paid), free, polls, httpx.Timeout(timeout_s).as_dict())


def paying(tls: SSLContext, timeout_s: float) -> httpx.AsyncClient:
    """A client for submits.

    It keeps a connection for two idle seconds only: a request written to a connection
    that the other side is closing is a doubt.
    """
    return httpx.AsyncClient(
        verify=tls,
        limits=httpx.Limits(max_connections=12, keepalive_expiry=2.0),
        # Behind a busy pool a submit waits as long as it takes: nothing was sent yet.
        timeout=httpx.Timeout(timeout_s, connect=10.0, pool=None),
    )


@dataclass(frozen=True, slots=True)
class Line:
    """A provider, and where its requests go."""

    provider: Provider
    base_url: httpx.URL | None = None
    """Takes the place of scheme and host, and its path is put before the request's."""

    def addressed(self, request: httpx.Request) -> httpx.Request:
        """The request as it goes out, to where the owner of the lane wants it.

        Raises:
            MisconfiguredError: the provider's answer would have us show the key to a
                host that is not its own.
        """
        ours = request.url.host in self.provider.hosts
        if ours and self.base_url is not None:
            request.url = _moved(request.url, self.base_url)
            request.headers["host"] = request.url.netloc.decode("ascii")
        at_base = self.base_url is not None and request.url.host == self.base_url.host
        if "authorization" in request.headers and not (ours or at_base):
            said = f"{self.provider.name}: the key is not for {request.url.host}"
            raise MisconfiguredError(said)
        return request

    def fetching(self, url: str) -> httpx.Request:
        """The request for a clip: with the key only where the clip is behind it."""
        if isinstance(self.provider, Keeper):
            return self.addressed(self.provider.fetch(url))
        return httpx.Request("GET", url)


def _moved(url: httpx.URL, base: httpx.URL) -> httpx.URL:
    path = base.raw_path.rstrip(b"/") + url.raw_path
    return url.copy_with(
        scheme=base.scheme, host=base.host, port=base.port, raw_path=path
    )


async def submit(
    clients: Clients,
    line: Line,
    exchange: Exchange[T],
    *,
    in_time: Callable[[], bool] = lambda: True,
) -> T:
    """Send the one request that costs, once, if it is in time when it can be written.

    Raises:
        NotSentError, ThrottledError, RejectedError, MisconfiguredError: it was not
            accepted, for certain.
        InDoubtError: everything else, whatever it was.
    """
    request = _composed(line, exchange)

    async def look(event: str, _: Mapping[str, Any]) -> None:
        # Connected, and nothing written yet: to connect may have taken a night's sleep.
        if event.endswith(".send_request_headers.started") and not in_time():
            raise NotSentError(f"{line.provider.name}: meant too long ago")

    request.extensions["trace"] = look
    try:
        response = await next(clients.paid).send(request)
    except NotSentError:
        raise
    except NOT_SENT as exc:
        raise NotSentError(_said(line, exc)) from exc
    # Whatever else breaks, of httpx's own or below it, may have broken after the send.
    except Exception as exc:
        raise InDoubtError(_said(line, exc), _lost(exc)) from exc
    if verdict := _judged(line, response):
        raise verdict
    try:
        exchange.send(response)
    except StopIteration as end:
        return end.value
    # Whatever an adapter makes of an answer it cannot read, the request went out.
    except Exception as exc:
        raise InDoubtError(f"{line.provider.name}: {exc}") from exc
    raise InDoubtError(f"{line.provider.name}: a submit wanted a second request")


def _composed(line: Line, exchange: Exchange[T]) -> httpx.Request:
    try:
        return line.addressed(next(exchange))
    except ProviderError:
        raise
    # A request that cannot even be written: no job fares better on this lane.
    except Exception as exc:
        said = f"{line.provider.name}: {type(exc).__name__}: {exc}"
        raise MisconfiguredError(said) from exc


def _judged(line: Line, response: httpx.Response) -> ProviderError | None:
    """The adapter's verdict; an answer that it stumbles over proves nothing."""
    try:
        return line.provider.judge(response)
    except Exception as exc:  # noqa: BLE001 - the caller is told, as a doubt
        return InDoubtError(f"{line.provider.name}: {type(exc).__name__} in its answer")


async def ask(clients: Clients, line: Line, exchange: Exchange[T]) -> T:
    """Run a free exchange to its end, sending each request once.

    Raises:
        ProviderError: by kind; all but Misconfigured and Rejected mean "again".
        UnreadableError: a good answer with no meaning here.
    """
    try:
        request = next(exchange)
        while True:
            response = await _asked(clients, line.addressed(request))
            if verdict := _judged(line, response):
                raise verdict
            request = exchange.send(response)
    except StopIteration as end:
        return end.value
    except (httpx.HTTPError, aiohttp.ClientError, TimeoutError) as exc:
        raise NotSentError(_said(line, exc)) from exc
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as exc:
        if isinstance(exc, UnreadableError):
            raise
        said = f"{type(exc).__name__}: {exc}"
        raise UnreadableError(line.provider.name, said) from exc


async def _asked(clients: Clients, request: httpx.Request) -> httpx.Response:
    """Send it by the transport itself: what a client adds (redirects, cookies, auth) is
    of no use to a poll, and a quarter of its CPU."""
    request.extensions["timeout"] = clients.patience
    response = await clients.polls.handle_async_request(request)
    response.request = request
    try:
        await response.aread()
    finally:
        await response.aclose()
    return response


async def upload(clients: Clients, line: Line, still: Still) -> str:
    """Hand a still to the provider; its URL there. Tries for some ten minutes."""
    async for attempt in patiently(40):
        with attempt:
            return await ask(clients, line, line.provider.upload(still))
    raise AssertionError  # pragma: no cover - patiently() reraises


async def download(client: httpx.AsyncClient, request: httpx.Request) -> bytes:
    """The bytes of a clip, whole by the server's own count.

    Raises:
        NotFoundError: the link has died; a poll gives a fresh one.
        InDoubtError: cut short, or too large, or not now.
    """
    place = request.url.host
    body = bytearray()
    for name in ("accept", "user-agent"):
        request.headers.setdefault(name, client.headers[name])
    # As it is: what a store compresses on the way is not the clip.
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


def patiently(
    attempts: int, *, also: tuple[type[Exception], ...] = ()
) -> AsyncRetrying:
    """Retry what is free to repeat, waiting as the other side asks: never a submit."""
    again = (NotSentError, ThrottledError, InDoubtError, NotFoundError)
    return AsyncRetrying(
        retry=retry_if_exception_type((*again, *also)),
        wait=_as_asked(),
        stop=stop_after_attempt(attempts),
        reraise=True,
    )


class _as_asked(wait_random_exponential):  # noqa: N801 - tenacity's waits are lower case
    """A random, growing wait, or what Retry-After says."""

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
    """How the answer was lost; the longer it took, the likelier the other side is at work."""
    return "silent" if isinstance(exc, httpx.TimeoutException) else "broken"


def _name(exc: BaseException) -> str:
    return _WORDS.get(type(exc)) or str(exc) or type(exc).__name__


def _said(line: Line, exc: BaseException) -> str:
    return f"{line.provider.name}: {_name(exc)}"
