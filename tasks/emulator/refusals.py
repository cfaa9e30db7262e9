"""The reasons for which a provider refuses a request; each dialect words them differently.

* RefusedError          nothing is accepted, nothing is charged
  x UnauthorizedError   no key, or a bad one
  x NoCreditError       a good key without money
  x ThrottledError      too many submits per minute
    o BusyError         too many jobs at once
    o CappedError       too many submits for one day
    o AwayError         nothing is accepted for now
  x BadInputError       a field is missing or wrong
  x UnknownModelError   no such model
  x NotFoundError       no such prediction, clip, upload or page
  x BrokenError         an error of the provider's
  x GatewayError        the gateway in front of the provider does not reach it
"""

from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")


class RefusedError(Exception):
    """Nothing is accepted, nothing is charged."""


class UnauthorizedError(RefusedError):
    """No key, or a bad one."""


class NoCreditError(RefusedError):
    """A good key without money."""


class ThrottledError(RefusedError):
    """Too many submits per minute; some providers have other codes for other limits."""

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BusyError(ThrottledError):
    """Too many jobs at once."""


class CappedError(ThrottledError):
    """Too many submits for one day."""


class AwayError(BusyError):
    """The server drains before a restart, or warms up after it."""


class BadInputError(RefusedError):
    """A field is missing or wrong."""

    def __init__(
        self,
        field: str,
        kind: str,
        message: str,
        *,
        value: object = None,
        limits: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.field = field
        self.kind = kind
        """fal's word for the fault: missing, string_type, one_of, less_than_equal…"""
        self.value = value
        self.limits = limits


class UnknownModelError(RefusedError):
    """No such model."""


class NotFoundError(RefusedError):
    """No such prediction, clip, upload or page."""


class BrokenError(RefusedError):
    """An error of the provider's."""


class GatewayError(RefusedError):
    """The gateway in front of the provider does not reach it, and answers itself."""


def worded(error: RefusedError, table: Mapping[type[RefusedError], T]) -> T:
    """Return a dialect's words for a refusal, by its class or its nearest base class.

    Raises:
        RefusedError: the dialect has no words for it.
    """
    for kind in type(error).__mro__:
        if kind in table:
            return table[kind]
    raise error
