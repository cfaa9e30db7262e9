"""Reads the body of an HTTP answer, of limited size, also after it is decompressed.

httpx inflates whatever arrives: 2 MB of gzip or zstd become gigabytes.
"""

import io
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, Final

import httpx
import zstandard

LARGEST: Final = 16 * 2**20
"""Bytes of an answer; the longest pages of a provider's list have 1 MB."""

ACCEPTED: Final = "gzip, deflate, zstd"
"""The `accept-encoding` of a request whose answer is read here. It must be stated: both httpx
and aiohttp ask for `br` too wherever a package for it happens to be installed."""

_CHANGED: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})
_ZSTD: Final[Any] = zstandard  # partly without types


class BadAnswerError(httpx.DecodingError):
    """The answer is too large, or its compression is broken."""


async def whole(response: httpx.Response) -> httpx.Response:
    """Read an answer to its end and close it; returns it decompressed.

    Raises:
        BadAnswerError: it is more than `LARGEST`, before or after it is decompressed.
        httpx.HTTPError: the connection broke.
    """
    body = bytearray()
    async with aclosing(response):
        pieces: AsyncIterator[bytes] = response.aiter_raw()
        async for piece in pieces:
            body += piece
            _refuse_large(len(body))
    content = bytes(body)
    for coding in reversed(response.headers.get("content-encoding", "").split(",")):
        content = _inflated(content, coding.strip().lower())
    headers = [
        (name, value)
        for name, value in response.headers.raw
        if name.decode("ascii", "replace").lower() not in _CHANGED
    ]
    return httpx.Response(
        response.status_code,
        headers=headers,
        content=content,
        request=response.request,
        extensions=response.extensions,
    )


def _inflated(content: bytes, coding: str) -> bytes:
    match coding:
        case "" | "identity":
            return content
        case _ if not content:
            return content
        case "gzip" | "x-gzip":
            return _by_zlib(content, 16 + zlib.MAX_WBITS)
        case "deflate":
            # Some servers send it without the header of zlib.
            wrapped = content[0] & 15 == 8
            return _by_zlib(content, zlib.MAX_WBITS if wrapped else -zlib.MAX_WBITS)
        case "zstd":
            return _by_zstd(content)
        case _:
            raise BadAnswerError(f"the answer is compressed as {coding!r}")


def _by_zlib(content: bytes, bits: int) -> bytes:
    inflating = zlib.decompressobj(bits)
    try:
        inflated = inflating.decompress(content, LARGEST + 1)
    except zlib.error as exc:
        raise BadAnswerError(f"the answer's compression is broken: {exc}") from None
    _refuse_large(len(inflated))
    if not inflating.eof:
        raise BadAnswerError("the answer broke off")
    return inflated


def _by_zstd(content: bytes) -> bytes:
    reader = _ZSTD.ZstdDecompressor(max_window_size=2**27).stream_reader(
        io.BytesIO(content), read_across_frames=True
    )
    try:
        inflated: bytes = reader.read(LARGEST + 1)
    except zstandard.ZstdError as exc:
        raise BadAnswerError(f"the answer's compression is broken: {exc}") from None
    _refuse_large(len(inflated))
    return inflated


def _refuse_large(size: int) -> None:
    if size > LARGEST:
        raise BadAnswerError(f"the answer has more than {LARGEST:,} bytes")
