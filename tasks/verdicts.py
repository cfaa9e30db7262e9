"""What an answer, or the lack of one, means: errors named for what the caller does next.

* ProviderError
  x NotSentError        it cannot have been accepted    again, free
  x ThrottledError      not accepted; wait              again, and the lane slows down
  x RejectedError       not accepted, never will be     give the job up, everywhere
  x MisconfiguredError  nothing will be accepted        close the lane
  x InDoubtError        it may have been accepted       never submit again
  x NotFoundError       a free question met a 404       ask again, until the deadline

A submit is in doubt unless its innocence is proved: by the type of the failure, or by an
answer whose (status, body) the provider documents as a refusal. For what is free (polls,
uploads, downloads) every one of them but Misconfigured and Rejected means "again".
"""


class ProviderError(Exception):
    """Base class: something went wrong between us and a provider."""


class NotSentError(ProviderError):
    """The request cannot have been accepted."""


class ThrottledError(ProviderError):
    """Not accepted: too much at once, or too fast.

    `retry_after` is in seconds, None where the provider did not say.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RejectedError(ProviderError):
    """Not accepted and never will be: bad input, or content policy."""


class MisconfiguredError(ProviderError):
    """Nothing will be accepted: a bad key, no credit, a closed region."""


class InDoubtError(ProviderError):
    """It may have been accepted, and charged."""


class NotFoundError(ProviderError):
    """There is nothing there, or nothing yet."""
