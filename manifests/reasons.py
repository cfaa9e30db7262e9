"""Groups reasons that differ only in names and numbers of single jobs."""

import re
from typing import Final

_URI: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"]+?(?=[:,;.]?(?:[\s'\"]|$))")
_ID: Final = re.compile(r"\b(?=[\w-]*\d)[0-9A-Za-z_-]{12,}\b")
_QUANTITY: Final = re.compile(r"\b\d[\d,]*(?:\.\d+)?(?= ?(?:s|min|h|bytes|USD|px|x)\b)")
_LONG: Final = re.compile(r"\b\d{4,}\b")

_NAME: Final = re.compile(r"^(?P<of>its still: )?(?:[^:,]{1,200}\.\w{2,5})[:,] ")
"""The name or the URI of a still, before the reason."""


def unnamed(reason: str) -> str:
    """The reason without the name or the URI of the still that it begins with."""
    if (uri := _URI.match(reason)) is not None:
        reason = reason[uri.end() :].lstrip(":, ") or reason
    return _NAME.sub(lambda name: name["of"] or "", reason)


def alike(reason: str) -> str:
    """The part of a reason that it shares with those of other jobs.

    URIs, ids, quantities and numbers of four digits or more are left out. HTTP statuses
    stay.
    """
    reason = unnamed(reason)
    for what in (_URI, _ID, _QUANTITY, _LONG):
        reason = what.sub("\N{HORIZONTAL ELLIPSIS}", reason)
    return reason
