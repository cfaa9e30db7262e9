"""Retries of free requests."""

from tenacity import (
    AsyncRetrying,
    RetryCallState,
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


def retrying(attempts: int, *, also: tuple[type[Exception], ...] = ()) -> AsyncRetrying:
    """Retry a free request, after the wait that the provider asks for; never a submit."""
    transient = (NotSentError, ThrottledError, InDoubtError, NotFoundError)
    return AsyncRetrying(
        retry=retry_if_exception_type((*transient, *also)),
        wait=_RetryAfter(),
        stop=stop_after_attempt(attempts),
        reraise=True,
    )


class _RetryAfter(wait_random_exponential):
    """A random, growing wait, or the seconds of Retry-After."""

    def __init__(self) -> None:
        super().__init__(multiplier=0.5, max=20.0)

    def __call__(self, retry_state: RetryCallState) -> float:
        failed = retry_state.outcome and retry_state.outcome.exception()
        if isinstance(failed, ThrottledError) and failed.retry_after is not None:
            return failed.retry_after
        return super().__call__(retry_state)
