"""Answers are of limited size, as they arrive and after they are decompressed."""

import gzip
import resource
import zlib

import httpx
import pytest
import zstandard

from manifests.lifecycle import Ticket
from tasks.answers import LARGEST, BadAnswerError, whole
from tasks.providers.errors import InDoubtError, NotSentError
from tasks.providers.http import ask, connected
from tests.tasks.test_http import Echo, endpoint, server, submitted

pytestmark = pytest.mark.anyio

BODY = b'{"id": "r"}'
RAW = zlib.compressobj(wbits=-zlib.MAX_WBITS)
GZIP, ZSTD = gzip.compress(BODY), zstandard.compress(BODY)


def bomb(coding: str) -> bytes:
    """A gigabyte of zeros, compressed."""
    if coding == "gzip":
        made = zlib.compressobj(9, wbits=31)
    else:
        made = zstandard.ZstdCompressor(level=9).compressobj()
    zeros = bytes(2**24)
    return b"".join([*(made.compress(zeros) for _ in range(64)), made.flush()])


def answer(body: bytes, coding: str) -> bytes:
    head = f"content-length: {len(body)}\r\ncontent-encoding: {coding}\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\n" + head.encode() + body


def sends(*pieces: bytes):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return serve


async def polled(url: str, clients):
    return await ask(clients, endpoint(url), Echo().poll(Ticket("echo", "r")))


@pytest.mark.parametrize(
    ("body", "coding"),
    [
        (BODY, "identity"),
        (GZIP, "gzip"),
        (GZIP, "x-gzip"),
        (zlib.compress(BODY), "deflate"),
        (RAW.compress(BODY) + RAW.flush(), "deflate"),
        (ZSTD, "zstd"),
        (zstandard.compress(GZIP), "gzip, zstd"),
    ],
)
async def test_compressed_answer_is_read(body: bytes, coding: str):
    """A submit and a poll read each compression that an answer may have."""
    async with server(sends(answer(body, coding))) as url, connected() as clients:
        assert (await submitted(url, clients)).id == "r"
        assert await polled(url, clients) == {"id": "r"}


@pytest.mark.parametrize("coding", ["gzip", "zstd"])
async def test_answer_is_not_inflated_without_limit(coding: str):
    """A gigabyte in a small answer costs the memory of the limit, not of the gigabyte."""
    made = answer(bomb(coding), coding)
    async with server(sends(made)) as url, connected() as clients:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(InDoubtError, match="more than 16,777,216 bytes"):
            await submitted(url, clients)
        with pytest.raises(NotSentError, match="more than 16,777,216 bytes"):
            await polled(url, clients)
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    assert after - before < 200_000  # KB


async def test_endless_answer_is_cut():
    """An answer without a length is read up to the limit."""
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"
    pieces = [head, *[bytes(2**20)] * (LARGEST // 2**20 + 1)]
    async with server(sends(*pieces)) as url, connected() as clients:
        with pytest.raises(InDoubtError, match="more than"):
            await submitted(url, clients)
        with pytest.raises(NotSentError, match="more than"):
            await polled(url, clients)


@pytest.mark.parametrize(
    ("body", "coding", "why"),
    [
        (GZIP[:-3], "gzip", "broke off"),
        (b"no gzip", "gzip", "compression is broken"),
        (b"no zstd", "zstd", "compression is broken"),
        (b"?", "br", "compressed as 'br'"),
    ],
)
async def test_broken_compression_is_an_error(body: bytes, coding: str, why: str):
    """An answer that cannot be decompressed is an error that says so."""
    response = httpx.Response(
        200,
        headers={"content-encoding": coding},
        stream=httpx.ByteStream(body),
        request=httpx.Request("GET", "http://h"),
    )

    with pytest.raises(BadAnswerError, match=why):
        await whole(response)
