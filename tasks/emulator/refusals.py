"""Why a provider does not do what it is asked; each dialect words them in its own way.

* RefusedError          nothing was accepted, nothing is charged
  x UnauthorizedError   no key, or not a good one
  x NoCreditError       a good key with an empty purse
  x ThrottledError      too fast
    o BusyError         too many at once
    o CappedError       too much for one day
    o AwayError         nothing at all, for now
  x BadInputError       a field is missing or wrong
  x UnknownModelError   no such model
  x NotFoundError       no such prediction, clip, upload or page
  x BrokenError         the provider's own fault
  x GatewayError        what stands before the provider does not reach it
"""

from collections.abc import Mapping


class RefusedError(Exception):
    """Nothing was accepted, nothing is charged."""


class UnauthorizedError(RefusedError):
    """No key, or not a good one."""


class NoCreditError(RefusedError):
    """A good key with an empty purse."""


class ThrottledError(RefusedError):
    """Too fast; some providers tell apart too many at once, and too much in a day."""

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BusyError(ThrottledError):
    """Too many at once."""


class CappedError(ThrottledError):
    """Too much for one day."""


class AwayError(BusyError):
    """It drains before it restarts, or warms up after it."""


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
        """fal's word for what is wrong: missing, string_type, one_of, less_than_equal…"""
        self.value = value
        self.limits = limits


class UnknownModelError(RefusedError):
    """No such model."""


class NotFoundError(RefusedError):
    """No such prediction, clip, upload or page."""


class BrokenError(RefusedError):
    """The provider's own fault."""


class GatewayError(RefusedError):
    """What stands before the provider does not reach it: the answer is not its own."""
