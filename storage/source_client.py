"""The HTTP client that reads stills, and opens no connection that a policy refuses.

Each new connection is checked, so redirects and names with several addresses are, too. A
proxy resolves names itself: there the target is resolved here as well, and checked before
each request.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import lru_cache, partial
from importlib.metadata import version
from typing import Any, Final

import aiohttp
import fsspec

from storage.source_policy import PRIVATE, RefusedSourceError, SourcePolicy

USER_AGENT: Final = f"nightreel/{version('nightreel')}"
"""Sent with every request, to providers and to hosts of stills: many refuse one without."""

_UNCHECKED: ContextVar[bool] = ContextVar("_UNCHECKED", default=False)
"""Whether the connections of this request need no check of their address."""

_fsspec: Any = fsspec  # it has no types


@lru_cache(maxsize=8)
def filesystem(policy: SourcePolicy) -> Any:
    """The filesystem of http and https links under a policy."""
    return _fsspec.filesystem("http", **options(policy))


def options(policy: SourcePolicy) -> dict[str, Any]:
    """The options of fsspec's own http filesystem, for chains such as `zip://…::https://…`."""
    return {
        "get_client": partial(_client, policy),
        # fsspec shares filesystems with equal options, and cannot compare these.
        "skip_instance_cache": True,
    }


async def _client(
    policy: SourcePolicy, loop: asyncio.AbstractEventLoop, **_: Any
) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(loop=loop, socket_factory=partial(_opened, policy))
    return aiohttp.ClientSession(
        connector=connector,
        middlewares=(partial(_checked, policy),),
        # A picture is not made smaller by it, and a few kilobytes may become gigabytes.
        auto_decompress=False,
        trust_env=True,
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
    )


def _opened(policy: SourcePolicy, info: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, (address, *_) = info
    if not (_UNCHECKED.get() or policy.allows_address(address)):
        raise RefusedSourceError(PRIVATE)
    return socket.socket(family=family, type=kind, proto=protocol)


async def _checked(
    policy: SourcePolicy,
    request: aiohttp.ClientRequest,
    send: Callable[[aiohttp.ClientRequest], Awaitable[aiohttp.ClientResponse]],
) -> aiohttp.ClientResponse:
    """Send one request, one of a chain of redirects."""
    host = request.url.host or ""
    allowed = policy.allows_host(host)
    if request.proxy is not None and not allowed:
        await _check_target(policy, host)
    unchecked = _UNCHECKED.set(allowed or request.proxy is not None)
    try:
        return await send(request)
    finally:
        _UNCHECKED.reset(unchecked)


async def _check_target(policy: SourcePolicy, host: str) -> None:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, None, type=socket.SOCK_STREAM
        )
    except OSError:
        return  # only the proxy knows the name
    if not all(policy.allows_address(str(info[4][0])) for info in found):
        raise RefusedSourceError(PRIVATE)
