"""Words for the exceptions of a request that got no whole answer."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import httpx

_WORDS: Final[Mapping[type[BaseException], str]] = MappingProxyType(
    {
        httpx.ReadTimeout: "no answer in time",
        httpx.RemoteProtocolError: "the answer broke off or is not HTTP",
        httpx.ReadError: "the connection broke",
    }
)


def failure_name(exc: BaseException) -> str:
    """Return what went wrong, in words for a person."""
    return _WORDS.get(type(exc)) or str(exc) or type(exc).__name__
