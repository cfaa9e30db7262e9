"""The download of a finished clip."""

from contextlib import aclosing
from http import HTTPStatus
from typing import Final

import aiohttp
import httpx

from storage.sources import USER_AGENT
from tasks.providers.errors import InDoubtError, NotFoundError
from tasks.providers.http.exceptions import failure_name

LARGEST_CLIP: Final = 512 * 2**20
"""Bytes; a limit on memory that no clip of a few seconds reaches."""


_DEAD_LINK: Final = (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)


async def download(client: httpx.AsyncClient, request: httpx.Request) -> bytes:
    """Return the bytes of a clip, as many as the server's Content-Length says.

    Raises:
        NotFoundError: the link has expired; a poll gives a fresh one.
        InDoubtError: the download was cut short, too large or refused; try again.
    """
    place = request.url.host
    body = bytearray()
    request.headers.setdefault("accept", client.headers["accept"])
    request.headers.setdefault("user-agent", USER_AGENT)
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
        raise InDoubtError(f"{place}: {failure_name(exc)}") from exc
    if (want := response.headers.get("content-length", "")).isdecimal() and int(
        want
    ) != len(body):
        raise InDoubtError(f"{place}: {len(body)} of {want} bytes")
    return bytes(body)
