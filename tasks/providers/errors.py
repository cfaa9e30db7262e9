"""What an answer, or the lack of one, means: errors named for what the caller does next.

* ProviderError
  x NotSentError        it cannot have been accepted    again, free
  x ThrottledError      not accepted; wait              again, and the lane slows down
  x CappedError         not accepted, not for hours     rest the lane for this run
  x RejectedError       not accepted, never will be     give the job up, everywhere
  x MisconfiguredError  nothing will be accepted        close the lane
  x InDoubtError        it may have been accepted       never submit again
  x NotFoundError       a free question met a 404       ask again, until the deadline

A submit is in doubt unless its innocence is proved: by the type of the failure, or by an
answer whose (status, body) the provider documents as a refusal. For what is free (polls,
uploads, downloads) every one of them but Misconfigured and Rejected means "again".
"""

from typing import Literal

from manifests.lifecycle import Lost

Over = Literal["rate", "slots"]
"""Too fast, or too many at once."""

Lacks = Literal["auth", "credit", "permission"]
"""A good key, money, or leave to use this model or this service."""


class ProviderError(Exception):
    """Base class: something went wrong between us and a provider."""


class NotSentError(ProviderError):
    """The request cannot have been accepted."""


class ThrottledError(ProviderError):
    """Not accepted: too much at once, or too fast.

    `retry_after` is in seconds, and `over` says which limit it was; None where the
    provider did not say.
    """

    def __init__(
        self,
        message: str,
        retry_after: float | None = None,
        over: Over | None = None,
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.over: Over | None = over


class CappedError(ProviderError):
    """Not accepted: what the account may do in a day, or a month, is used up."""


class RejectedError(ProviderError):
    """Not accepted and never will be: bad input, or content policy."""


class MisconfiguredError(ProviderError):
    """Nothing will be accepted: a bad key, no credit, a closed region.

    `lacks` is None where it is not the provider that says so.
    """

    def __init__(self, message: str, lacks: Lacks | None = None) -> None:
        super().__init__(message)
        self.lacks: Lacks | None = lacks


class InDoubtError(ProviderError):
    """It may have been accepted, and charged; `lost` says what became of the answer."""

    def __init__(self, message: str, lost: Lost = "unclear") -> None:
        super().__init__(message)
        self.lost: Lost = lost


class NotFoundError(ProviderError):
    """There is nothing there, or nothing yet."""
