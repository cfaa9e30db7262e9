"""The wire: carries a node's requests to providers, or loses them, and returns
answers."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from itertools import cycle
from typing import Final

import httpx
from starlette.responses import Response

from tasks.emulator.responses import HalfAnswer, HangUp
from tasks.providers.http import Clients
from tests.simulation.loop import EPOCH, Node, VirtualLoop
from tests.simulation.providers import ASKER, Provider

TIMEOUT_S: Final = 60.0
DAY_S: Final = 24 * 3600


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A request on its way, and the future of its answer."""

    node: Node
    provider: Provider
    request: httpx.Request
    body: bytes
    path: str
    told: asyncio.Future[httpx.Response]
    sent_at: float

    def answered(self) -> Response:
        """Let the provider handle the request; returns its answer."""
        ASKER.set((self.node, self.sent_at))
        return self.provider.answer(self.request, self.body, self.path)

    def fail(self, error: Exception) -> None:
        if not self.told.done():
            self.told.set_exception(error)

    def tell(self, response: httpx.Response) -> None:
        if not self.told.done():
            self.told.set_result(response)


class Broken(httpx.AsyncByteStream):
    """A body that breaks off half-way."""

    def __init__(self, half: bytes) -> None:
        self._half = half

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._half
        raise httpx.RemoteProtocolError("peer closed connection")


class Wire(httpx.AsyncBaseTransport):
    """A node's transport to every provider."""

    def __init__(
        self, loop: VirtualLoop, node: Node, to: Mapping[str, Provider]
    ) -> None:
        self._loop = loop
        self._node = node
        self._to = to

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        body = await request.aread()
        name, _, rest = request.url.path[1:].partition("/")
        told: asyncio.Future[httpx.Response] = self._loop.create_future()
        provider, path = self._to[name], f"/{rest}"
        now = self._loop.time()
        self._send(Asked(self._node, provider, request, body, path, told, now))
        if not provider.submits(request.method, path):
            return await told
        with provider.counted(self._node):
            return await told

    def _send(self, asked: Asked) -> None:
        """Deliver the request and its answer, or lose them, as drawn from the seed."""
        later, luck = self._loop.later, asked.provider.random
        terms, chance = asked.provider.terms, luck.random()
        there, back = 0.01 + 0.05 * luck.random(), 0.01 + 0.05 * luck.random()
        if (chance := chance - terms.refused) < 0:
            later(there, asked.fail, httpx.ConnectError("refused"))
        elif (chance := chance - terms.cut) < 0:
            if luck.random() < 0.5:
                later(there, asked.answered)
            later(there + back, asked.fail, httpx.ReadError("cut"))
        elif (chance := chance - terms.silent) < 0:
            if luck.random() < 0.5:
                later(30.0 * luck.random(), asked.answered)
            later(TIMEOUT_S, asked.fail, httpx.ReadTimeout("silent"))
        elif (chance := chance - terms.slow) < 0:
            later(20.0 * luck.random(), self._reached, asked, 30.0 * luck.random())
        else:
            later(there, self._reached, asked, back)

    def _reached(self, asked: Asked, back: float) -> None:
        answer = asked.answered()
        if isinstance(answer, HangUp):
            lost = httpx.RemoteProtocolError("Server disconnected")
            self._loop.later(back, asked.fail, lost)
            return
        content = bytes(answer.body)
        stream: httpx.AsyncByteStream = httpx.ByteStream(content)
        if isinstance(answer, HalfAnswer):
            stream = Broken(content[: len(content) // 2])
        date = _date(int(EPOCH + self._loop.time())).encode()
        headers = [*answer.raw_headers, (b"date", date)]
        response = httpx.Response(answer.status_code, headers=headers, stream=stream)
        if not isinstance(answer, HalfAnswer):
            # Mark it as read: a complete body need not be assembled.
            response._content = content  # noqa: SLF001 - httpx offers no other way
        self._loop.later(back, asked.tell, response)


def _date(at_s: int) -> str:
    """Like `formatdate`, which takes longer than a provider's whole answer."""
    minutes, seconds = divmod(at_s % DAY_S, 60)
    return f"{_day(at_s // DAY_S)}{minutes // 60:02}:{minutes % 60:02}:{seconds:02} GMT"


@lru_cache
def _day(number: int) -> str:
    return formatdate(number * DAY_S, usegmt=True).removesuffix("00:00:00 GMT")


def clients(loop: VirtualLoop, node: Node, to: Mapping[str, Provider]) -> Clients:
    """A node's clients, whose requests go over the wire."""
    wire = Wire(loop, node, to)
    client = httpx.AsyncClient(transport=wire, trust_env=False, timeout=TIMEOUT_S)
    return Clients(cycle([client]), client, wire, httpx.Timeout(TIMEOUT_S).as_dict())
