"""Responses: JSON by orjson, and broken ones that HTTP libraries do not offer."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tasks.emulator.refusals import RefusedError, ThrottledError

HANG_UP: Final = "nightreel.hang_up"
"""The ASGI extension with which a response closes its connection; the server provides it."""

DRIP_S: Final = 0.2
"""The time between two bytes of a dripping answer."""

BAD_GATEWAY: Final = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n"
    b"</body>\r\n</html>\r\n"
)


class Json(Response):
    """A response in JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def wait_headers(error: RefusedError) -> dict[str, str]:
    """Return Retry-After if the refusal says how long to wait."""
    match error:
        case ThrottledError(retry_after=int(seconds)):
            return {"Retry-After": str(seconds)}
        case _:
            return {}


def web_page(content: bytes, status: int) -> Response:
    """Return a page of the gateway in front of the provider."""
    return Response(content, status, media_type="text/html")


class HangUp(Response):
    """No response: the connection closes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del send
        await _hang_up(scope, receive)


class HalfAnswer(Response):
    """A response whose connection closes in the middle of the body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send(
            {
                "type": "http.response.start",
                "status": self.status_code,
                "headers": self.raw_headers,
            }
        )
        half = bytes(self.body)[: len(self.body) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        await _hang_up(scope, receive)


async def dripping(content: bytes) -> AsyncGenerator[bytes]:
    """Yield a byte at a time, too slowly for any client to wait for the end."""
    for number in range(len(content)):
        yield content[number : number + 1]
        await asyncio.sleep(DRIP_S)


async def _hang_up(scope: Scope, receive: Receive) -> None:
    close: Callable[[], None] | None = scope.get("extensions", {}).get(HANG_UP)
    if close is None:
        raise RuntimeError(
            "a response can only be lost on a socket: use running() or serve()"
        )
    close()
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_json(request: Request) -> Mapping[str, Any] | None:
    """Return the JSON object in a request's body; None if it has another body."""
    try:
        match orjson.loads(await request.body() or b"null"):
            case dict() as body:  # pyright: ignore[reportUnknownVariableType] -- any JSON
                return body  # pyright: ignore[reportUnknownVariableType]
            case _:
                return None
    except orjson.JSONDecodeError:
        return None
