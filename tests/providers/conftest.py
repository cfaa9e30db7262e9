"""Plays recorded answers into adapters, as the exchange does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.providers.protocol import Still

PAYLOADS = Path(__file__).parent / "payloads"


def answer(status: int, body: Any = b"", headers: Any = None) -> httpx.Response:
    """An answer with this body: bytes as they are, everything else as JSON."""
    if isinstance(body, bytes):
        return httpx.Response(status, content=body, headers=headers)
    return httpx.Response(status, json=body, headers=headers)


def recorded(provider: str, name: str) -> httpx.Response:
    case = json.loads((PAYLOADS / f"{provider}.json").read_text())["answers"][name]
    return answer(case["status"], case["json"])


def play(provider: Any, exchange: Any, *answers: httpx.Response) -> Any:
    """Answer an exchange; returns its requests, and its result.

    Raises the error that the adapter reads from an answer.
    """
    asked: list[httpx.Request] = []
    try:
        asked.append(next(exchange))
        for given in answers:
            given.request = asked[-1]
            if verdict := provider.judge(given):
                raise verdict
            asked.append(exchange.send(given))
    except StopIteration as end:
        return asked, end.value
    return asked, ...


@pytest.fixture
def still() -> Still:
    return Still(b"\xff\xd8\xff", "still.jpg", "image/jpeg", width=640, height=480)


@pytest.fixture(name="answer")
def _answer() -> Callable[..., httpx.Response]:
    return answer


@pytest.fixture(name="recorded")
def _recorded() -> Callable[..., httpx.Response]:
    return recorded


@pytest.fixture(name="play")
def _play() -> Callable[..., Any]:
    return play


@pytest.fixture
def echoing() -> Callable[[Any, str], Any]:
    """Puts the key into every text of a body."""

    def echo(body: Any, key: str) -> Any:
        match body:
            case bytes():
                return body + key.encode()
            case str():
                return f"{body} {key}"
            case list():
                return [echo(item, key) for item in body]
            case dict():
                return {name: echo(value, key) for name, value in body.items()}
            case _:
                return body

    return echo
