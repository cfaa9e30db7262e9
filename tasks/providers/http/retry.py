"""Retries of free requests."""

from collections.abc import Callable
from typing import Final

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from tasks.providers.errors import (
    InDoubtError,
    NotFoundError,
    NotSentError,
    ThrottledError,
)

LONGEST_RETRY_AFTER_S: Final = 60.0
"""The longest wait before a free request is repeated, whatever Retry-After says: nothing is
paid for a repetition, and a job waits for its answer."""

OnFailure = Callable[[Exception], None]
"""Receives the error of each try that is repeated."""


def retrying(
    attempts: int,
    *,
    also: tuple[type[Exception], ...] = (),
    but: Callable[[BaseException], bool] = lambda _: False,
    on_failure: OnFailure = lambda _: None,
) -> AsyncRetrying:
    """Retry a free request, after the wait that the provider asks for; never a submit.

    No wait is longer than `LONGEST_RETRY_AFTER_S`.
    """
    transient = (NotSentError, ThrottledError, InDoubtError, NotFoundError)

    def failed(state: RetryCallState) -> None:
        error = state.outcome and state.outcome.exception()
        if isinstance(error, Exception):
            on_failure(error)

    return AsyncRetrying(
        retry=retry_if_exception_type((*transient, *also))
        & retry_if_exception(lambda exc: not but(exc)),
        wait=_RetryAfter(),
        stop=stop_after_attempt(attempts),
        before_sleep=failed,
        reraise=True,
    )


class _RetryAfter(wait_random_exponential):
    """A random, growing wait, or the seconds of Retry-After."""

    def __init__(self) -> None:
        super().__init__(multiplier=0.5, max=20.0)

    def __call__(self, retry_state: RetryCallState) -> float:
        failed = retry_state.outcome and retry_state.outcome.exception()
        if isinstance(failed, ThrottledError) and failed.retry_after is not None:
            return min(LONGEST_RETRY_AFTER_S, failed.retry_after)
        return super().__call__(retry_state)
