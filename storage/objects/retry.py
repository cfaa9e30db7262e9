"""Repeats requests while a store fails, for a limited time.

A store that is unavailable is waited for. A store that refuses is asked again only if the
caller's policy allows it. The answers that end a request are never repeated: the key exists
with other bytes, the object is missing, or the root was replaced.

It uses the event loop's clock, so that it works on a simulated clock too.
"""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, ParamSpec, TypeVar

from storage.backoff import backoff
from storage.objects.errors import (
    ExistsError,
    LoginError,
    MissingError,
    RefusedError,
    ReplacedError,
    StorageError,
    UnavailableError,
)

P = ParamSpec("P")
T = TypeVar("T")

TRIES: Final = 3
"""The fewest tries of a store that is unavailable: one answer may take longer than the
whole limit."""
FIRST_S: Final = 0.2
LONGEST_S: Final = 10.0
REFUSED_S: Final = 60.0
"""How long a call outlasts refusals: the renewal of a key takes less."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a request is repeated, for each kind of failure."""

    unavailable_s: float = 60.0
    """While the store is unavailable, from the start of the request."""
    refused_s: float = 0.0
    """While the store refuses, from the first refusal; 0: a refusal is not repeated."""
    on_refusal: Callable[[StorageError], None] | None = None
    """Called with each refusal before the request is repeated; raises if it must not be."""


@dataclass(frozen=True, slots=True)
class Outage:
    """A store that is unavailable, while requests to it are repeated."""

    reason: str
    """The newest error."""
    for_s: float
    waiting: int
    """Requests that are being repeated."""


class Retry:
    """Repeats the requests to one store, and logs once for all of them that it is away."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.before_repeat: Callable[[], Coroutine[Any, Any, None]] | None = None
        """Called before a request is repeated after three tries; raises if it must not be."""
        self._answered = False
        self._waiting = 0
        self._since = 0.0
        self._reason = ""

    @property
    def outage(self) -> Outage | None:
        """The store's outage, if it is unavailable now."""
        if not self._waiting:
            return None
        for_s = asyncio.get_running_loop().time() - self._since
        return Outage(self._reason, for_s, self._waiting)

    async def ask(
        self,
        policy: RetryPolicy,
        question: Callable[P, Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Repeat a request until it is answered, or the policy's time is up.

        Raises:
            UnavailableError: the store was unavailable for too long.
            StorageError: the store refuses, or its answer ends the request.
        """
        failures = _Failures(policy)
        with ExitStack() as waiting:
            while True:
                try:
                    if failures.tries >= TRIES and self.before_repeat is not None:
                        await self.before_repeat()
                    answer = await question(*args, **kwargs)
                except (ExistsError, MissingError, ReplacedError):
                    raise
                except StorageError as error:
                    if not self._is_outage(error):
                        failures.add_refusal(error)
                    # Log only from the third on, and once for all waiting callers.
                    elif failures.add_outage(error) == TRIES:
                        waiting.enter_context(self._away(error))
                else:
                    self._answered = True
                    return answer
                await asyncio.sleep(failures.pause_s())

    async def outlast_refusals(
        self,
        call: Callable[P, Awaitable[T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Repeat a call of several requests while the store refuses it, for `REFUSED_S` seconds.

        Its requests outlast outages themselves.

        Raises:
            StorageError: the store still refuses, or failed otherwise.
        """
        failures = _Failures(RetryPolicy(refused_s=REFUSED_S))
        while True:
            try:
                return await call(*args, **kwargs)
            except RefusedError as error:
                failures.add_refusal(error)
                log.warning(
                    "store.refused root=%s the request is repeated: %s",
                    self._root,
                    error,
                )
            await asyncio.sleep(failures.pause_s())

    def _is_outage(self, error: StorageError) -> bool:
        # obstore does not retry while it renews a login, so one failure of the machine's
        # metadata service must not end a run.
        again = isinstance(error, LoginError) and self._answered
        return again or isinstance(error, UnavailableError)

    @contextmanager
    def _away(self, error: StorageError) -> Generator[None]:
        now = asyncio.get_running_loop().time
        self._waiting += 1
        self._reason = str(error)
        if self._waiting == 1:
            self._since = now()
            log.warning(
                "store.unavailable root=%s requests are repeated: %s", self._root, error
            )
        try:
            yield
        except BaseException:
            self._waiting -= 1
            raise
        self._waiting -= 1
        if not self._waiting:
            away_s = now() - self._since
            log.warning(
                "store.recovered root=%s after_s=%.0f the store answers again",
                self._root,
                away_s,
            )


class _Failures:
    """The failures of one request, each kind with its limit."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy
        self._now = asyncio.get_running_loop().time
        self._began = self._now()
        self._refused_at = math.inf
        self._outages = 0
        self.tries = 0

    def add_outage(self, error: StorageError) -> int:
        """Count an outage, and raise it if the time is up; returns their number."""
        self.tries += 1
        self._outages += 1
        over = self._now() >= self._began + self._policy.unavailable_s
        if over and self._outages >= TRIES:
            raise error
        return self._outages

    def add_refusal(self, error: StorageError) -> None:
        """Report a refusal, or raise it if the time is up."""
        self.tries += 1
        self._refused_at = min(self._refused_at, self._now())
        if self._now() >= self._refused_at + self._policy.refused_s:
            raise error
        if self._policy.on_refusal is not None:
            self._policy.on_refusal(error)

    def pause_s(self) -> float:
        """The wait before the next try."""
        return backoff(self.tries, FIRST_S, LONGEST_S, jitter=random.uniform)
