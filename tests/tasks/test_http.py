"""Each way in which a request fails, over real sockets, and the outcome it means.

This table decides whether money counts as spent.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import cycle

import httpx
import pytest

from manifests.jobs import Job
from manifests.lifecycle import Ticket
from storage.media import Still
from storage.sources import USER_AGENT
from tasks.answers import ACCEPTED
from tasks.providers.errors import (
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    NotSentError,
    ProviderError,
    ThrottledError,
    UploadRefusedError,
)
from tasks.providers.http import (
    NOT_SENT,
    Clients,
    Endpoint,
    ask,
    connected,
    download,
    submit,
    upload,
)

pytestmark = pytest.mark.anyio

BODY = b'{"prompt": "pan"}'
JOB = Job(image="https://stills.example/1.jpg", prompt="pan")
OK = b'HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{"id": "r"}'

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Echo:
    """The smallest provider, with one request and one ticket."""

    name = "echo"
    hosts = frozenset({"api.echo.example"})

    def submit(self, job, image_url, seed):
        url = "https://api.echo.example/v1/jobs"
        response = yield self._request("POST", url, content=BODY)
        return Ticket(self.name, response.json()["id"])

    def poll(self, ticket):
        response = yield self._request("GET", "https://api.echo.example/v1/jobs/r?x=1")
        return response.json()

    def judge(self, response: httpx.Response) -> ProviderError | None:
        match response.status_code:
            case 200:
                return None
            case 429:
                return ThrottledError("slow down", 7.0)
            case _:
                return InDoubtError(f"HTTP {response.status_code}")

    def _request(self, method, url, content=None):
        key = {"authorization": "Bearer key"}
        return httpx.Request(method, url, headers=key, content=content)


@asynccontextmanager
async def server(behave: Behaviour) -> AsyncIterator[str]:
    """A socket that does this to each connection."""

    async def handle(reader, writer):
        try:
            await behave(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield f"http://127.0.0.1:{port}/echo"


def endpoint(base_url: str) -> Endpoint:
    return Endpoint(Echo(), httpx.URL(base_url))


async def submitted(base_url: str, clients: Clients, **how: object) -> Ticket:
    exchange = Echo().submit(JOB, JOB.image, 1)
    return await submit(clients, endpoint(base_url), exchange, **how)


async def whole(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"POST"):
        await reader.readexactly(len(BODY))
    return head


async def cut_before_reading(reader, writer):
    linger = socket.SO_LINGER
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, linger, b"\x01\x00\x00\x00\x00\x00\x00\x00"
    )


async def cut_while_reading(reader, writer):
    await reader.read(8)


async def cut_after_reading(reader, writer):
    await whole(reader)


async def silence(reader, writer):
    await whole(reader)
    await reader.read()


async def half_an_answer(reader, writer):
    await whole(reader)
    writer.write(OK[:-5])
    await writer.drain()


async def half_a_head(reader, writer):
    await whole(reader)
    writer.write(OK[:9])
    await writer.drain()


async def not_http(reader, writer):
    await whole(reader)
    writer.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
    await writer.drain()


async def not_json(reader, writer):
    await whole(reader)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 15\r\n\r\n<html>hi</html>")
    await writer.drain()


async def bad_gateway(reader, writer):
    await whole(reader)
    writer.write(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
    await writer.drain()


async def too_much(reader, writer):
    await whole(reader)
    writer.write(b"HTTP/1.1 429 Too Many\r\ncontent-length: 0\r\n\r\n")
    await writer.drain()


async def fine(reader, writer):
    await whole(reader)
    writer.write(OK)
    await writer.drain()


@pytest.mark.parametrize(
    ("behave", "meaning"),
    [
        (cut_before_reading, InDoubtError),
        (cut_while_reading, InDoubtError),
        (cut_after_reading, InDoubtError),
        (silence, InDoubtError),
        (half_a_head, InDoubtError),
        (half_an_answer, InDoubtError),
        (not_http, InDoubtError),
        (not_json, InDoubtError),
        (bad_gateway, InDoubtError),
        (too_much, ThrottledError),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_submit_that_was_sent_is_in_doubt_unless_refused(behave, meaning):
    """A submit that was sent is in doubt unless the provider refused it."""
    async with server(behave) as base_url, connected(timeout_s=0.3) as clients:
        with pytest.raises(ProviderError) as failed:
            await submitted(base_url, clients)

    assert type(failed.value) is meaning


async def test_a_refused_connection_was_not_sent():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    async with connected() as clients:
        with pytest.raises(NotSentError):
            await submitted(f"http://127.0.0.1:{port}", clients)


async def test_a_host_that_does_not_exist_was_not_sent_to():
    async with connected() as clients:
        with pytest.raises(NotSentError):
            await submitted("http://no-such-host.invalid", clients)


@pytest.mark.parametrize("status", [b"407 Proxy Authentication Required", b"502 No"])
async def test_proxy_that_refuses_to_connect_sent_nothing(status):
    """A proxy that refuses the CONNECT has passed on no byte of the submit."""

    async def refuse(reader, writer):
        assert (await whole(reader)).startswith(b"CONNECT provider.example:443 ")
        writer.write(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()

    async with (
        server(refuse) as proxy,
        connected() as clients,
        httpx.AsyncClient(proxy=proxy) as through,
    ):
        proxied = replace(clients, paid=cycle([through]))
        with pytest.raises(NotSentError):
            await submitted("https://provider.example", proxied)


async def test_only_codings_that_are_read_are_asked_for():
    """An installed package for Brotli changes neither submits nor polls."""
    asked = []

    async def serve(reader, writer):
        headers = (await whole(reader)).lower().split(b"\r\n")
        asked.extend(line for line in headers if line.startswith(b"accept-encoding"))
        writer.write(OK)
        await writer.drain()

    async with server(serve) as base_url, connected() as clients:
        place = endpoint(base_url)
        await submit(clients, place, Echo().submit(JOB, JOB.image, 1))
        await ask(clients, place, Echo().submit(JOB, JOB.image, 1))

    assert asked == [f"accept-encoding: {ACCEPTED}".encode()] * 2


@pytest.mark.parametrize("agent", [USER_AGENT, "curl/8.5.0"])
async def test_every_request_says_who_asks(agent):
    """Submits, polls and downloads carry the lane's User-Agent."""
    agents = []

    async def serve(reader, writer):
        headers = (await whole(reader)).lower().split(b"\r\n")
        agents.extend(line for line in headers if line.startswith(b"user-agent:"))
        writer.write(OK)
        await writer.drain()

    async with server(serve) as base_url, connected() as clients:
        place = replace(endpoint(base_url), user_agent=agent)
        await submit(clients, place, Echo().submit(JOB, JOB.image, 1))
        await ask(clients, place, Echo().submit(JOB, JOB.image, 1))
        await download(clients.free, place.fetching(base_url))

    assert agents == [f"user-agent: {agent}".encode()] * 3


async def test_a_full_pool_sent_nothing():
    async with server(silence) as base_url, connected() as clients:
        tight = httpx.AsyncClient(
            limits=httpx.Limits(max_connections=1), timeout=httpx.Timeout(5, pool=0.05)
        )
        async with tight:
            first = asyncio.create_task(tight.get(base_url))
            await asyncio.sleep(0)

            with pytest.raises(NotSentError):
                await submitted(base_url, replace(clients, paid=cycle([tight])))
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)


@pytest.mark.skipif(
    not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the system has no such option"
)
async def test_submit_outlives_its_process_only_briefly():
    """The system gives a submit up if nothing acknowledges its bytes for 30 seconds."""
    async with (
        server(fine) as base_url,
        connected() as clients,
        next(clients.paid).stream("GET", base_url) as response,
    ):
        stream = response.extensions["network_stream"]
        kept = stream.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT
        )

    assert kept == 30_000


@pytest.mark.parametrize("checks", [[False], [True, False]], ids=["head", "body"])
async def test_submit_that_is_late_before_a_write_is_not_sent(checks):
    """A machine that slept while it connected, or between two writes, sends no more."""
    received = asyncio.Queue[bytes]()

    async def record(reader, writer):
        await received.put(await reader.read())

    in_time = iter(checks)
    async with server(record) as url, connected() as clients:
        with pytest.raises(NotSentError, match="not sent in time"):
            await submitted(url, clients, in_time=lambda: next(in_time))
        assert BODY not in await received.get()
    assert not [*in_time], "each write was asked about"


async def test_a_good_answer_is_a_ticket():
    async with server(fine) as base_url, connected() as clients:
        assert await submitted(base_url, clients) == Ticket("echo", "r")


async def test_base_url_replaces_the_host_and_keeps_its_path():
    """`base_url` replaces the host, and its path prefixes the provider's path."""
    seen = bytearray()

    async def remember(reader, writer):
        seen.extend(await whole(reader))
        writer.write(OK)
        await writer.drain()

    async with server(remember) as base_url, connected() as clients:
        await ask(clients, endpoint(base_url), Echo().poll(Ticket("echo", "r")))

    assert seen.startswith(b"GET /echo/v1/jobs/r?x=1 HTTP/1.1\r\n")
    assert b"api.echo.example" not in seen


async def test_the_key_is_shown_to_no_host_but_the_providers_own():
    class Misled(Echo):
        def poll(self, ticket):
            yield self._request("GET", "https://evil.example/steal")

    async with connected() as clients:
        with pytest.raises(MisconfiguredError, match=r"evil\.example"):
            await ask(clients, Endpoint(Misled()), Misled().poll(Ticket("echo", "r")))


async def test_base_url_gives_the_key_to_no_other_host():
    """A lane at a proxy still asks no third host with its key."""

    class Misled(Echo):
        def poll(self, ticket):
            yield self._request("GET", "https://evil.example/steal")

    proxied = Endpoint(Misled(), httpx.URL("https://proxy.example/echo"))
    async with connected() as clients:
        with pytest.raises(MisconfiguredError, match=r"evil\.example"):
            await ask(clients, proxied, Misled().poll(Ticket("echo", "r")))


def test_place_of_a_lane_tells_no_password():
    """A place is written into the ledger with each submit."""
    url = httpx.URL("https://user:secret@proxy.example/echo/?token=abc")
    assert endpoint(str(url)).place == "https://proxy.example/echo"


async def test_lost_answer_tells_a_silence_from_a_cut():
    """A provider that is silent is likelier to work on the submit."""
    lost = {}
    for behave in (silence, cut_after_reading):
        async with server(behave) as url, connected(timeout_s=0.2) as clients:
            with pytest.raises(InDoubtError) as caught:
                await submitted(url, clients)
            lost[behave] = caught.value.lost
    assert lost == {silence: "silent", cut_after_reading: "broken"}


async def test_upload_is_refused_once_and_then_taken():
    """One refusal may be an upload that was cut on its way; three are about the still."""

    class Refusing(Echo):
        refusals = 1

        def upload(self, still):
            yield self._request("POST", "https://api.echo.example/v1/files", BODY)
            if self.refusals:
                self.refusals -= 1
                raise UploadRefusedError("echo: 422")
            return "https://files.echo.example/1.jpg"

    async with server(fine) as url, connected() as clients:
        still = Still(b"jpeg", "1.jpg", "image/jpeg", 64, 48)
        where = Endpoint(Refusing(), httpx.URL(url))
        link = await upload(clients, where, still)
    assert link == "https://files.echo.example/1.jpg"


async def test_an_adapter_that_stumbles_after_the_send_leaves_a_doubt():
    class Stumbles(Echo):
        def judge(self, response):
            raise KeyError("code")

    async with server(fine) as base_url, connected() as clients:
        exchange = Stumbles().submit(JOB, JOB.image, 1)
        with pytest.raises(InDoubtError):
            await submit(clients, Endpoint(Stumbles(), httpx.URL(base_url)), exchange)


def signed(base_url):
    return httpx.Request("GET", f"{base_url}/1.mp4?signature=secret")


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", InDoubtError),
        (b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n", InDoubtError),
        (b"HTTP/1.1 404 Gone\r\ncontent-length: 0\r\n\r\n", NotFoundError),
        (b"HTTP/1.1 403 Expired\r\ncontent-length: 0\r\n\r\n", NotFoundError),
    ],
)
async def test_incomplete_download_is_an_error(answer, meaning):
    async def serve(reader, writer):
        await whole(reader)
        writer.write(answer)
        await writer.drain()

    async with server(serve) as base_url, connected() as clients:
        with pytest.raises(meaning):
            await download(clients.free, signed(base_url))


@pytest.mark.parametrize(
    "link",
    [
        "http://127.0.0.1:9/c.mp4",
        "http://169.254.169.254/",
        "http://nas/c",
        "http://[::1]/",
    ],
)
def test_provider_on_the_internet_links_to_no_private_place(link):
    """Its link to this machine or network is not fetched; an emulator's is."""
    with pytest.raises(InDoubtError, match="its link to the clip leads to"):
        Endpoint(Echo()).fetching(link)

    for base_url in ("http://127.0.0.1:8400/echo", "http://10.0.0.9", "http://gpu:80"):
        assert endpoint(base_url).fetching(link).url == link
    for public in ("https://cdn.example/c.mp4", "https://[2606:4700::1111]/c.mp4"):
        assert Endpoint(Echo()).fetching(public).url == public


async def test_a_clip_is_asked_for_as_it_is_and_by_somebody():
    seen = b""

    async def serve(reader, writer):
        nonlocal seen
        seen = await whole(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nclip")
        await writer.drain()

    async with server(serve) as base_url, connected() as clients:
        request = signed(base_url)
        request.headers["authorization"] = "Bearer k"
        # As every request to a provider has it, an engine's clips among them.
        request.headers["accept-encoding"] = ACCEPTED
        assert await download(clients.free, request) == b"clip"

    asked = seen.lower()
    assert asked.count(b"accept-encoding: identity\r\n") == 1
    assert asked.count(b"accept-encoding") == asked.count(b"user-agent") == 1
    assert b"authorization: bearer k\r\n" in asked


async def test_no_error_of_a_download_shows_the_links_signature():
    async def serve(reader, writer):
        await whole(reader)

    async with server(serve) as base_url, connected() as clients:
        with pytest.raises(ProviderError) as failed:
            await download(clients.free, signed(base_url))

    assert "secret" not in str(failed.value)


async def test_unforeseen_failure_leaves_a_doubt():
    class Breaks(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request):
            raise RuntimeError("the event loop is on fire")

    async with connected() as clients, httpx.AsyncClient(transport=Breaks()) as broken:
        odd = replace(clients, paid=cycle([broken]))
        with pytest.raises(InDoubtError):
            await submitted("http://127.0.0.1:1", odd)


def descendants(kind):
    for each in kind.__subclasses__():
        yield each
        yield from descendants(each)


def test_every_exception_of_httpx_is_classified():
    """A new exception of httpx needs a decision whether its request was sent."""
    concrete = {
        each.__name__
        for each in descendants(httpx.TransportError)
        if each.__module__ == "httpx" and not each.__subclasses__()
    }
    maybe_sent = {
        "CloseError",
        "LocalProtocolError",
        "ReadError",
        "ReadTimeout",
        "RemoteProtocolError",
        "WriteError",
        "WriteTimeout",
    }

    assert concrete == maybe_sent | {each.__name__ for each in NOT_SENT}
