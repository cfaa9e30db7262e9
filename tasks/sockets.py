"""Doors: the sockets that our own servers listen on."""

import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

BACKLOG: Final = 2048
"""Connections that may wait to be taken: uvicorn's own number."""


@contextmanager
def bound(host: str, port: int) -> Generator[socket.socket]:
    """A TCP socket that listens at this address, for as long as the block lasts."""
    # Not socket.create_server(): it leaves the protocol's number out, for want of which
    # asyncio leaves Nagle's algorithm on, and every answer takes 40 ms.
    with socket.socket(
        socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    ) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        yield listener
