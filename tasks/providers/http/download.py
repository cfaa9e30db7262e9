"""The download of a finished clip."""

import asyncio
from contextlib import aclosing
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import aiohttp
import httpx

from storage.sources import USER_AGENT
from tasks.providers.errors import InDoubtError, NotFoundError, ProviderError
from tasks.providers.http.exceptions import failure_name

LARGEST_CLIP: Final = 512 * 2**20
"""Bytes; a limit on memory that no clip of a few seconds reaches."""


@dataclass(frozen=True, slots=True)
class Pace:
    """The slowest download that is waited for: 64 KiB in 30 seconds, all in 10 minutes."""

    part: int = 2**16
    """Bytes that must arrive in each `part_s` seconds, until the end."""
    part_s: float = 30.0
    whole_s: float = 600.0

    def __str__(self) -> str:
        return f"{self.part:,} bytes in {self.part_s:g} s, all in {self.whole_s:g} s"


PACE: Final = Pace()


class TooSlowError(ProviderError):
    """The download was given up for its speed: another one at once would be as slow."""


_DEAD_LINK: Final = (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


async def download(
    client: httpx.AsyncClient, request: httpx.Request, pace: Pace = PACE
) -> bytes:
    """Return the bytes of a clip, as many as the server's Content-Length says.

    Raises:
        NotFoundError: the link has expired; a poll gives a fresh one.
        TooSlowError: it is slower than `pace`.
        InDoubtError: the download was cut short, too large or refused; try again.
    """
    place = request.url.host
    body = bytearray()
    request.headers.setdefault("accept", client.headers["accept"])
    request.headers.setdefault("user-agent", USER_AGENT)
    # A store must not compress the clip on the way.
    request.headers["accept-encoding"] = "identity"
    whole, part = asyncio.timeout(pace.whole_s), asyncio.timeout(pace.part_s)
    try:
        async with whole, part:
            response = await _received(client, request, pace, part, body)
    except (httpx.HTTPError, aiohttp.ClientError, TimeoutError) as exc:
        if whole.expired() or part.expired():
            message = f"{place}: a download under {pace}, given up"
            raise TooSlowError(message) from exc
        raise InDoubtError(f"{place}: {failure_name(exc)}") from exc
    if (want := response.headers.get("content-length", "")).isdecimal() and int(
        want
    ) != len(body):
        raise InDoubtError(f"{place}: {len(body)} of {want} bytes")
    return bytes(body)


async def _received(
    client: httpx.AsyncClient,
    request: httpx.Request,
    pace: Pace,
    limit: asyncio.Timeout,
    body: bytearray,
) -> httpx.Response:
    """Append the body of the answer to `body`; put `limit` off with each part of it."""
    place, now = request.url.host, asyncio.get_running_loop().time
    asked = client.send(request, stream=True, follow_redirects=True)
    async with aclosing(await asked) as response:
        if response.status_code in _DEAD_LINK:
            raise NotFoundError(f"{place}: HTTP {response.status_code}")
        if not response.is_success:
            raise InDoubtError(f"{place}: HTTP {response.status_code}")
        async for chunk in response.aiter_raw(pace.part):
            body += chunk
            limit.reschedule(now() + pace.part_s)
            if len(body) > LARGEST_CLIP:
                raise InDoubtError(f"{place}: over {LARGEST_CLIP} bytes")
    return response
