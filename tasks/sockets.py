"""The listening sockets of our own servers."""

import socket
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

BACKLOG: Final = 2048
"""Connections that may wait to be accepted: uvicorn's default."""


@contextmanager
def bound(host: str, port: int) -> Generator[socket.socket]:
    """Listen on a TCP socket for the length of a block."""
    # socket.create_server() does not set the protocol's number. Without it asyncio leaves
    # Nagle's algorithm on, and every answer takes 40 ms.
    with socket.socket(
        socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP
    ) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        yield listener
