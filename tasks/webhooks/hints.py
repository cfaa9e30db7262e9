"""Hints: a provider has news of a job, so the engine polls it now instead of later.

A hint carries no state: the engine polls the provider as usual. The listener
(`tasks.webhooks.server`) puts hints on a board, and the engine reads them from there. The
engine works without a listener, too.
"""

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import httpx

from storage.backoff import backoff
from tasks.answers import ACCEPTED, whole

log = logging.getLogger(__name__)

WAIT_S: Final = 50.0
"""How long the listener may hold a request; proxies cut a connection after a silent minute."""

KEPT: Final = 10_000
"""The number of hints that the board keeps."""

PAGE: Final = 1_000
"""The most hints in one answer."""

LONGEST_PAUSE_S: Final = 30.0
EMPTY_PAUSE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Hint:
    """This provider has news of the job with this id."""

    provider: str
    id: str


@dataclass(frozen=True, slots=True)
class Page:
    """Some hints in order, and the number of the last one in this run of the listener."""

    last: int
    run: str
    hints: tuple[Hint, ...]

    def plain(self) -> dict[str, Any]:
        listed = [{"provider": hint.provider, "id": hint.id} for hint in self.hints]
        return {"last": self.last, "run": self.run, "hints": listed}


def page(payload: Any) -> Page:
    """Read a page that `plain` wrote.

    Raises:
        ValueError: it is not a page.
    """
    match payload:
        case {"last": int(last), "run": str(run), "hints": [*listed]}:
            return Page(last, run, tuple(_hint(one) for one in listed))
        case _:
            raise ValueError(f"not a page of hints: {type(payload).__name__}")


def _hint(payload: Any) -> Hint:
    match payload:
        case {"provider": str(provider), "id": str(remote)}:
            return Hint(provider, remote)
        case _:
            raise ValueError(f"not a hint: {type(payload).__name__}")


class Board:
    """The latest hints, numbered from 1 in this run of the listener."""

    def __init__(self, most: int = KEPT) -> None:
        self.run = secrets.token_hex(8)
        self._hints: deque[Hint] = deque(maxlen=most)
        self._last = 0
        self._news = asyncio.Event()
        self._closed = False

    def post(self, hint: Hint) -> None:
        self._hints.append(hint)
        self._last += 1
        self._wake()

    def close(self) -> None:
        """End all waiting, now and later."""
        self._closed = True
        self._wake()

    async def after(self, number: int, wait_s: float) -> Page:
        """The hints after that number; wait up to `wait_s` seconds if there are none."""
        if number == self._last and not self._closed:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
        return self._since(number)

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    def _since(self, number: int) -> Page:
        forgotten = self._last - len(self._hints)
        # A number that this run never gave is from an earlier run.
        first = max(number, forgotten) if number <= self._last else forgotten
        start = first - forgotten
        found = tuple(islice(self._hints, start, start + PAGE))
        return Page(first + len(found), self.run, found)


def pause(failures: int) -> float:
    """Seconds to wait after `failures` failures in a row."""
    return backoff(failures, 0.5, LONGEST_PAUSE_S)


async def hints(
    url: str, *, wait_s: float = WAIT_S, pauses: Callable[[int], float] = pause
) -> AsyncGenerator[Hint]:
    """Yield every hint of the listener at this address, for as long as it is iterated.

    It starts with the hints that the listener still has. It survives failures of the
    listener and the network, and it may yield a hint twice.
    """
    patience = httpx.Timeout(10.0, read=wait_s + 10.0)
    seen, failures = Page(0, "", ()), 0
    async with httpx.AsyncClient(
        base_url=url, timeout=patience, trust_env=False
    ) as client:
        while True:
            try:
                seen = await _newer(client, seen, wait_s)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as exc:
                if not failures:
                    log.warning(
                        "hints.unavailable url=%s error=%s providers are polled as often as without webhooks",
                        url,
                        type(exc).__name__,
                    )
                failures += 1
                await asyncio.sleep(pauses(failures))
                continue
            if failures:
                log.info("hints.recovered url=%s the listener answers again", url)
            failures = 0
            for hint in seen.hints:
                yield hint
            if (
                not seen.hints
            ):  # do not hammer a server that answers at once with no hints
                await asyncio.sleep(EMPTY_PAUSE_S)


async def _newer(client: httpx.AsyncClient, seen: Page, wait_s: float) -> Page:
    asked = {"after": str(seen.last), "run": seen.run, "wait": f"{wait_s:g}"}
    headers = {"accept-encoding": ACCEPTED}
    request = client.build_request("GET", "/hints", params=asked, headers=headers)
    response = await whole(await client.send(request, stream=True))
    return page(response.raise_for_status().json())
