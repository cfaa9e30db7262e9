"""The listener: receives webhooks, and tells engines which jobs to poll.

It has two servers. The public one verifies the posts of providers. The private one serves
hints; a webhook never becomes more than a hint. All is kept in memory only. If hints are
lost, polling still notices each end.
"""

import asyncio
import logging
import math
import re
import signal
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import httpx
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tasks.sockets import BoundedServer, Sparing, bound
from tasks.webhooks.hints import Board
from tasks.webhooks.jwks import JWKS, Keyring, NoKeysError
from tasks.webhooks.signatures import (
    Atlas,
    Delivery,
    Fal,
    ForgedError,
    Replicate,
    Scheme,
    Seen,
    ShapelessError,
    Told,
    WaveSpeed,
)

log = logging.getLogger(__name__)

LOOPBACK: Final = "127.0.0.1"
PORT: Final = 8500
HINTS_PORT: Final = 8501

LARGEST_BODY: Final = 2**20
LONGEST_BODY_S: Final = 15.0
"""The longest time to receive a body: fal waits so long for an answer."""

LONGEST_WAIT_S: Final = 60.0

Check = Callable[[Delivery, float], Awaitable[Told]]
"""Reads a delivery at a time in Unix seconds, or raises a WebhookError."""


def public(
    checks: Mapping[str, Check], board: Board, now: Callable[[], float] = time.time
) -> Starlette:
    """The app that providers post to, `/webhooks/{provider}`, for verifiable providers."""
    seen, refused = Seen(), Sparing()

    async def taken(request: Request) -> Response:
        provider = request.path_params["provider"]
        check = checks.get(provider)
        if check is None:
            return Response(status_code=404)
        try:
            delivery = Delivery(dict(request.headers), await _body(request))
            told = await check(delivery, now())
        except (_TooLargeError, ForgedError, ShapelessError, NoKeysError) as exc:
            left_out = refused.due((provider, type(exc)))
            if left_out is not None:
                more = f"; {left_out:,} more since the last line" if left_out else ""
                log.warning(
                    "webhook.refused provider=%s it is ignored: %s%s",
                    provider,
                    exc,
                    more,
                )
            return Response(status_code=_status(exc))
        except (ClientDisconnect, TimeoutError):
            return Response(status_code=400)
        if seen.is_new(told):
            log.info(
                "webhook.taken provider=%s id=%s the batch polls its job",
                provider,
                told.hint.id,
            )
            board.post(told.hint)
        return Response(status_code=204)

    return Starlette(routes=[Route("/webhooks/{provider}", taken, methods=["POST"])])


def private(board: Board) -> Starlette:
    """The app that engines ask: `/hints?after=N&wait=SECONDS`, with `run` if known."""

    async def hints(request: Request) -> Response:
        asked = request.query_params
        after, wait_s = _count(asked.get("after")), _seconds(asked.get("wait"))
        if after is None or wait_s is None:
            return Response(status_code=400)
        if asked.get("run") not in {None, "", board.run}:
            after = 0
        return JSONResponse((await board.after(after, wait_s)).plain())

    return Starlette(routes=[Route("/hints", hints)])


class _TooLargeError(Exception):
    """The body is larger than any that a provider sends."""


async def _body(request: Request) -> bytes:
    body = bytearray()
    async with asyncio.timeout(LONGEST_BODY_S):
        async for part in request.stream():
            body += part
            if len(body) > LARGEST_BODY:
                raise _TooLargeError(f"its body is over {LARGEST_BODY:,} bytes")
    return bytes(body)


def _status(exc: Exception) -> int:
    match exc:
        case _TooLargeError():
            return 413
        case ShapelessError():
            return 400
        case NoKeysError():  # not the sender's fault: providers repeat a delivery after 503
            return 503
        case _:
            return 401


def _count(text: str | None) -> int | None:
    if text is None:
        return 0
    return int(text) if re.fullmatch(r"[0-9]{1,15}", text) else None


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or 0)
    except ValueError:
        return None
    return min(LONGEST_WAIT_S, max(0.0, seconds)) if math.isfinite(seconds) else None


def checked(
    shared: Mapping[str, str],
    client: httpx.AsyncClient,
    jwks: Mapping[str, str] = JWKS,
) -> dict[str, Check]:
    """The check of each provider's webhooks. A provider that needs a secret and has none here
    is left out.

    Raises:
        ValueError: a secret is not valid.
    """
    sealed = (WaveSpeed, Replicate)
    checks: dict[str, Check] = {
        scheme.name: partial(_at_once, scheme(shared[scheme.name]))
        for scheme in sealed
        if scheme.name in shared
    }
    for scheme in (Fal, Atlas):
        checks[scheme.name] = Keyring(jwks[scheme.name], client, scheme).read
    return checks


async def _at_once(scheme: Scheme, delivery: Delivery, now: float) -> Told:
    return scheme.read(delivery, now)


@dataclass(frozen=True, slots=True)
class Addresses:
    """The addresses of the two servers."""

    webhooks: str
    hints: str


@asynccontextmanager
async def listening(
    shared: Mapping[str, str],
    *,
    host: str = LOOPBACK,
    port: int = PORT,
    hints_port: int = HINTS_PORT,
    jwks: Mapping[str, str] = JWKS,
) -> AsyncGenerator[Addresses]:
    """Run both servers for the length of the block; `shared` has the secrets by provider.

    Raises:
        OSError: a port cannot be opened.
        ValueError: a secret is not valid.
    """
    board = Board()
    with bound(host, port) as outer, bound(LOOPBACK, hints_port) as inner:
        async with (
            httpx.AsyncClient(timeout=5.0) as client,
            asyncio.TaskGroup() as group,
        ):
            doors = (
                _Server(public(checked(shared, client, jwks), board)),
                _Server(private(board)),
            )
            # The sockets are open: requests that come before the servers start wait there.
            for door, listener in zip(doors, (outer, inner), strict=True):
                group.create_task(door.serve([listener]))
            try:
                yield Addresses(_url(outer), _url(inner))
            finally:
                board.close()
                for door in doors:
                    door.stop()


def serve(
    shared: Mapping[str, str],
    *,
    host: str = LOOPBACK,
    port: int = PORT,
    hints_port: int = HINTS_PORT,
    started: Callable[[Addresses], None] = lambda _: None,
) -> None:
    """Listen until SIGINT or SIGTERM; call `started` with the addresses.

    Raises:
        OSError: a port cannot be opened.
        ValueError: a secret is not valid.
    """

    async def until_stopped() -> None:
        stopped = asyncio.Event()
        for sign in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(sign, stopped.set)
        async with listening(
            shared, host=host, port=port, hints_port=hints_port
        ) as addresses:
            started(addresses)
            await stopped.wait()

    asyncio.run(until_stopped())


class _Server(BoundedServer):
    def __init__(self, app: ASGIApp) -> None:
        super().__init__(app, graceful_s=2)
        self._stopped = asyncio.Event()

    async def main_loop(self) -> None:
        # uvicorn's own loop checks ten times a second whether to stop.
        while not await self.on_tick(0):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopped.wait(), timeout=0.5)

    def stop(self) -> None:
        super().stop()
        self._stopped.set()


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://{host}:{port}"
