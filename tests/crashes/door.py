"""The entrance of the providers, or of a store: records requests and kills processes.

A process can be killed when its request has been read and is lost, or when it has been
handled and is not answered.
"""

import asyncio
import os
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tasks.emulator.responses import HangUp
from tests.crashes.points import Seen

PROMPT = re.compile(rb"pan (\d+)")


def without_ids(path: str) -> str:
    return re.sub(r"[0-9a-fA-F-]{16,}|\d{6,}|[\w-]{40,}", "…", path)


@dataclass
class Door:
    """An ASGI app around an emulator or a store."""

    app: ASGIApp | None = None
    bare: Callable[[str], str] = without_ids
    """Gives a path the same name in every run."""
    deadly: str | None = None
    trace: list[str] = field(default_factory=list)
    submits: list[int] = field(default_factory=list)
    """The job of each submit, whatever became of it."""
    paths: list[str] = field(default_factory=list)
    """The paths of all requests except submits."""
    _seen: Seen = field(default_factory=Seen)
    _pids: SimpleQueue[int] = field(default_factory=SimpleQueue)

    def open(self, app: ASGIApp) -> None:
        """Accept requests to these providers only from now on, with an empty record."""
        self.app = app
        self.submits.clear()
        self.paths.clear()

    def watch(self, deadly: str | None) -> None:
        """Prepare for the next process, which may not get beyond this point."""
        self.deadly = deadly
        self._pids = SimpleQueue()
        self._seen.clear()
        self.trace.clear()

    def expect(self, pid: int) -> None:
        """Set the process to kill."""
        self._pids.put(pid)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await alive(receive, send)
            return
        app = self.app
        request = await whole(receive)
        name = self._named(scope, request["body"])
        if await self._deadly(f"unread {name}"):
            await HangUp()(scope, receive, send)
            return
        answer: list[Message] = []
        await app(scope, first(request, receive), kept(answer))
        if await self._deadly(f"unanswered {name}"):
            await HangUp()(scope, receive, send)
            return
        for message in answer:
            await send(message)

    def _named(self, scope: Scope, body: bytes) -> str:
        path: str = scope["path"]
        if scope["method"] == "POST" and (prompt := PROMPT.search(body)):
            self.submits.append(int(prompt[1]))
            return self._seen.named("submit")
        self.paths.append(path)
        return self._seen.named(f"{scope['method']} {self.bare(path)}")

    async def _deadly(self, point: str) -> bool:
        self.trace.append(point)
        if point != self.deadly:
            return False
        # Its first request may come before we know its pid.
        pid = await asyncio.to_thread(self._pids.get)
        os.kill(pid, signal.SIGKILL)
        return True


async def alive(receive: Receive, send: Send) -> None:
    """Handle the server's own start and end: providers come and go in between."""
    for phase in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{phase}.complete"})


async def whole(receive: Receive) -> dict[str, Any]:
    """A request's body in one message."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return {"type": "http.request", "body": body, "more_body": False}


def first(request: Message, receive: Receive) -> Receive:
    """Return first the request that was read, then further messages."""
    waiting = [request]

    async def next_one() -> Message:
        return waiting.pop() if waiting else await receive()

    return next_one


def kept(answer: list[Message]) -> Send:
    async def keep(message: Message) -> None:
        answer.append(message)

    return keep


@dataclass(frozen=True)
class Onward:
    """An ASGI app that forwards every request unchanged to another server."""

    port: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = await whole(receive)
        path, query = scope["raw_path"].decode(), scope["query_string"].decode()
        url = f"http://127.0.0.1:{self.port}{path}?{query}"
        # No certificates are loaded: that takes longer than the request.
        async with httpx.AsyncClient(verify=False, trust_env=False, timeout=30) as http:
            answer = await http.request(
                scope["method"], url, content=request["body"], headers=scope["headers"]
            )
        about = [
            (name, value)
            for name, value in answer.headers.raw
            if name.lower() not in {b"connection", b"transfer-encoding"}
        ]
        start = {"status": answer.status_code, "headers": about}
        await send({"type": "http.response.start", **start})
        await send({"type": "http.response.body", "body": answer.content})
