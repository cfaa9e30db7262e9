"""The limits of the connections to our own servers, on real sockets."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest

from tasks import sockets
from tasks.sockets import REPEATED_S, BoundedProtocol, Sparing
from tasks.webhooks.server import listening

pytestmark = pytest.mark.anyio
SHARED = {"wavespeed": "whsec_mJb2zLk0aGVyZQ"}


@pytest.fixture(autouse=True)
def untold(monkeypatch):
    """Nothing was logged yet in this process."""
    monkeypatch.setattr(sockets, "_CLOSED", Sparing())


@asynccontextmanager
async def connected(at):
    host, _, port = at.webhooks.removeprefix("http://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()


async def is_closed(reader):
    """Wait until the server has closed the connection, whatever it answered before."""
    async with asyncio.timeout(30):
        try:
            while await reader.read(1 << 16):
                pass
        except ConnectionError:
            pass
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"POST /webhooks/wavespeed HTTP/1.1\r\nHost: x\r\n",
        b"GET /elsewhere HTTP/1.1\r\nHost: x\r\n\r\nGET /again HTTP/1.1\r\n",
        b"POST /elsewhere HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nhalf",
    ],
    ids=["nothing", "half a head", "half a second head", "half a body, answered"],
)
async def test_a_connection_without_a_request_is_closed(monkeypatch, sent):
    monkeypatch.setattr(BoundedProtocol, "silent_s", 0.2)
    async with listening(SHARED, port=0, hints_port=0) as at, connected(at) as (r, w):
        w.write(sent)

        assert await is_closed(r)


async def test_dripping_bytes_do_not_keep_a_connection(monkeypatch):
    monkeypatch.setattr(BoundedProtocol, "silent_s", 0.2)

    async def drip(writer):
        writer.write(b"GET /webhooks/wavespeed HTTP/1.1\r\n")
        while True:
            writer.write(b"x: y\r\n")
            await asyncio.sleep(0.01)

    async with listening(SHARED, port=0, hints_port=0) as at, connected(at) as (r, w):
        dripping = asyncio.create_task(drip(w))

        assert await is_closed(r)

        dripping.cancel()


async def test_hundreds_of_silent_connections_leave_room_for_a_post(
    monkeypatch, caplog
):
    """Silent connections beyond the bound are closed, oldest first, with one log line."""
    monkeypatch.setattr(BoundedProtocol, "most", 5)
    async with listening(SHARED, port=0, hints_port=0) as at:
        host, _, port = at.webhooks.removeprefix("http://").partition(":")
        opened = [await asyncio.open_connection(host, int(port)) for _ in range(40)]
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            answer = await client.post(f"{at.webhooks}/webhooks/wavespeed", content=b"")

        assert answer.status_code == 401
        assert all([await is_closed(reader) for reader, _ in opened[:34]])
        for _, writer in opened:
            writer.close()
    assert sum("connection.closed" in line for line in caplog.messages) == 1


async def test_waiting_for_hints_is_no_silence(monkeypatch):
    """An engine's long wait is a request under way: it is answered, not closed."""
    monkeypatch.setattr(BoundedProtocol, "silent_s", 0.05)
    async with (
        listening(SHARED, port=0, hints_port=0) as at,
        httpx.AsyncClient(trust_env=False, timeout=30) as client,
    ):
        answer = await client.get(f"{at.hints}/hints", params={"wait": "0.5"})

    assert answer.status_code == 200


async def test_refused_posts_are_logged_once_a_minute_each(caplog):
    async with (
        listening(SHARED, port=0, hints_port=0) as at,
        httpx.AsyncClient(trust_env=False, timeout=30) as client,
    ):
        for _ in range(50):
            await client.post(f"{at.webhooks}/webhooks/wavespeed", content=b"{}")

    assert sum("webhook.refused" in line for line in caplog.messages) == 1


async def test_what_is_not_http_is_not_logged_line_by_line(caplog):
    async with listening(SHARED, port=0, hints_port=0) as at:
        for _ in range(50):
            async with connected(at) as (reader, writer):
                writer.write(b"\x16\x03\x01 not HTTP\r\n\r\n")
                assert await is_closed(reader)

    assert len(caplog.records) <= 1


def test_a_warning_is_repeated_with_the_number_left_out():
    now = [100.0]
    sparing = Sparing(lambda: now[0])

    told = [sparing.due("full"), sparing.due("full"), sparing.due("late")]
    now[0] += REPEATED_S
    told += [sparing.due("full"), sparing.due("late"), sparing.due("late")]

    assert told == [0, None, 0, 1, 0, None]
