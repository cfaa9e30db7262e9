"""The errors of a request, named for what the caller does next.

* ProviderError
  x NotSentError        cannot have been accepted       submit again, free
  x ThrottledError      not accepted; wait              submit again; slow the lane down
  x CappedError         not accepted for hours          rest the lane for this run
  x RejectedError       not accepted, never will be     give the job up on every lane
    x StillRefusedError the upload, several times       give the job up on this lane
  x MisconfiguredError  nothing will be accepted        close the lane
  x InDoubtError        may have been accepted          never submit again
    x UploadRefusedError  the provider refused an upload  ask again a few times
  x NotFoundError       a free request met a 404        ask again, until the deadline

A submit is in doubt unless something proves that the provider did not accept it: the type
of the failure, or an answer whose (status, body) the provider documents as a refusal. After
a free request (poll, upload, download) every error except MisconfiguredError and
RejectedError means "try again".
"""

from typing import Literal

from manifests.lifecycle import Lost

Over = Literal["rate", "slots"]
"""Too many submits per minute, or too many jobs at once."""

Lacks = Literal["auth", "credit", "permission"]
"""A valid key, money, or permission to use the model or the service."""


class ProviderError(Exception):
    """Base class of a failed request to a provider."""


class NotSentError(ProviderError):
    """The request cannot have been accepted."""


class ThrottledError(ProviderError):
    """Not accepted: too many jobs at once, or too many submits per minute.

    `retry_after` is in seconds and `over` names the limit; None if the provider did not
    say.
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
    """Not accepted: the account has used up its quota of the day or the month."""


class RejectedError(ProviderError):
    """Not accepted and never will be: bad input or content policy."""


class StillRefusedError(RejectedError):
    """The provider refused the upload of a still several times in a row."""


class MisconfiguredError(ProviderError):
    """Nothing will be accepted: a bad key, no credit, a closed region.

    `lacks` is None if Nightreel and not the provider found the fault.
    """

    def __init__(self, message: str, lacks: Lacks | None = None) -> None:
        super().__init__(message)
        self.lacks: Lacks | None = lacks


class InDoubtError(ProviderError):
    """It may have been accepted and charged; `lost` says what happened to the answer.

    `shape` is set if the answer is not the provider's own: a proxy, a firewall or a login
    page gave it. It is equal for answers that are alike.
    """

    def __init__(
        self, message: str, lost: Lost = "unclear", *, shape: str = ""
    ) -> None:
        super().__init__(message)
        self.lost: Lost = lost
        self.shape = shape


class UploadRefusedError(InDoubtError):
    """The provider itself refused an upload; a few tries tell whether that lasts."""


class NotFoundError(ProviderError):
    """The provider has no such job or clip, or does not list it yet."""
