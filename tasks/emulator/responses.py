"""Answers that HTTP libraries do not give: JSON by orjson, and those that break off."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

HANG_UP: Final = "nightreel.hang_up"
"""The ASGI extension by which an answer can close its connection; the server provides it."""

BAD_GATEWAY: Final = (
    b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n"
    b"<center><h1>502 Bad Gateway</h1></center>\r\n<hr><center>nginx</center>\r\n"
    b"</body>\r\n</html>\r\n"
)


class Json(Response):
    """An answer in JSON."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)


def web_page(content: bytes, status: int) -> Response:
    """What stands between a client and a provider sometimes answers itself."""
    return Response(content, status, media_type="text/html")


class HangUp(Response):
    """No answer: the connection closes."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del send
        await _hang_up(scope, receive)


class HalfAnswer(Response):
    """An answer that breaks off half-way through its body."""

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


async def _hang_up(scope: Scope, receive: Receive) -> None:
    close: Callable[[], None] | None = scope.get("extensions", {}).get(HANG_UP)
    if close is None:
        raise RuntimeError(
            "an answer can only be lost on a socket: use running() or serve()"
        )
    close()
    while (await receive())["type"] != "http.disconnect":
        pass


async def read_json(request: Request) -> Mapping[str, Any] | None:
    """The object in a request's body, or None if there is no such thing."""
    try:
        match orjson.loads(await request.body() or b"null"):
            case dict() as asked:  # pyright: ignore[reportUnknownVariableType] -- any JSON
                return asked  # pyright: ignore[reportUnknownVariableType]
            case _:
                return None
    except orjson.JSONDecodeError:
        return None
