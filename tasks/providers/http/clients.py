"""The clients: some that submit, and one for everything free."""

import socket
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import cycle
from ssl import SSLContext
from typing import Final
from urllib.request import getproxies

import aiohttp
import httpx
from httpx_aiohttp import AiohttpTransport


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


UNACKNOWLEDGED_S: Final = 30.0
"""The longest time that the system repeats a submit's bytes without an acknowledgement. It
holds after the process has died, too."""

REQUEST_LIVES_S: Final = 300.0
"""How long after its record a submit may still reach the provider, even if the process has
died. It is sent within 30 s of its record, and written within 60 s. The system repeats its
bytes for 30 s (`UNACKNOWLEDGED_S`). A gateway may hold it for 120 s: nginx and AWS's load
balancers wait 60 s for the server behind them, Cloudflare 100 s (their docs, read
2026-11). The sum is 240 s; a minute is spare."""


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
    limits = httpx.Limits(max_connections=12, keepalive_expiry=2.0)
    # httpx reads the environment's proxies only if it makes the transport itself.
    transport = None
    if not getproxies():
        transport = httpx.AsyncHTTPTransport(
            verify=tls, limits=limits, socket_options=_socket_options()
        )
    return httpx.AsyncClient(
        verify=tls,
        limits=limits,
        transport=transport,
        # A submit may wait for a busy pool without limit: nothing was sent yet.
        timeout=httpx.Timeout(timeout_s, connect=10.0, pool=None),
    )


def _socket_options() -> list[tuple[int, int, int]]:
    """Return the options of a submit's socket; macOS and Windows have no such timeout."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is None:
        return []
    return [(socket.IPPROTO_TCP, option, round(UNACKNOWLEDGED_S * 1000))]
