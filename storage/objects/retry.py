"""Repeats requests while a store is unavailable, for a limited time.

It uses the event loop's clock, so that it works on a simulated clock too.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine, Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Final, ParamSpec, TypeVar

from storage.backoff import backoff
from storage.objects.errors import LoginError, StorageError, UnavailableError

P = ParamSpec("P")
T = TypeVar("T")

TRIES: Final = 3
"""The fewest tries: a single answer may take longer than the whole limit."""
FIRST_S: Final = 0.2
LONGEST_S: Final = 10.0

log = logging.getLogger(__name__)


class Patience:
    """How long one store may be unavailable, and how many callers wait for it now."""

    def __init__(self, root: str, seconds: float) -> None:
        self._root = root
        self._seconds = seconds
        self.before_repeat: Callable[[], Coroutine[Any, Any, None]] | None = None
        """Called before a request is repeated after an outage; raises if it must not be."""
        self._answered = False
        self._waiting = 0
        self._since = 0.0

    async def ask(
        self,
        question: Callable[P, Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Repeat a request until it is answered, or the time is up.

        Raises:
            UnavailableError: the time is up.
            StorageError: the store refuses.
        """
        now = asyncio.get_running_loop().time
        began, tries = now(), 0
        with ExitStack() as waiting:
            while True:
                try:
                    if tries >= TRIES and self.before_repeat is not None:
                        await self.before_repeat()
                    answer = await question(*args, **kwargs)
                except StorageError as error:
                    tries += 1
                    over = tries >= TRIES and now() - began >= self._seconds
                    if over or not self._may_pass(error):
                        raise
                    # Log only from the third failure on, and once for all waiting callers.
                    if tries == TRIES:
                        waiting.enter_context(self._away(error, now))
                else:
                    self._answered = True
                    return answer
                pause = backoff(tries, FIRST_S, LONGEST_S, jitter=random.uniform)
                await asyncio.sleep(pause)

    def _may_pass(self, error: StorageError) -> bool:
        # obstore does not retry while it renews a login, so one failure of the machine's
        # metadata service must not end a run.
        again = isinstance(error, LoginError) and self._answered
        return again or isinstance(error, UnavailableError)

    @contextmanager
    def _away(self, error: StorageError, now: Callable[[], float]) -> Generator[None]:
        self._waiting += 1
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
