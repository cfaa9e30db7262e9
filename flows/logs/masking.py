"""Removes keys and URL signatures from text before it is logged or shown.

A log handler prints whatever an exception quotes: a client's error has the URL with its
signature, a provider's answer may repeat the key. No caller has to think of that: each of
our handlers masks the whole line, traceback included.
"""

import re
from typing import Final
from urllib.parse import quote

from manifests.uris import SHORTEST_SECRET, unsigned

MASK: Final = "***"

_SECRETS: Final[set[str]] = set()

_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{2}[^\s'\"<>`]+(?<![:,;.])")

# The parameter may stand outside a URL, cut off or alone, where `unsigned` leaves it.
_PARAMETER: Final = re.compile(
    r"(?i)\b((?:x-(?:amz|goog|oss)-(?:signature|credential|security-token))|"
    r"q-signature|signature|sig|awsaccesskeyid|googleaccessid|ossaccesskeyid|"
    r"security-token|api[_-]?key|(?:access_|auth_|id_)?token|access-token|jwt|client[_-]?secret|password)"
    r"=(?!%|~[0-9a-f]{12})[^&\s'\"<>]+"
)
_HEADER: Final = re.compile(
    r"(?i)\b(authorization['\"]?\s*[:=]\s*['\"]?(?:(?:bearer|key|token|basic)\s+)?|"
    r"bearer\s+)[^\s'\",;]+"
)
_JWT: Final = re.compile(r"\beyJ[\w-]{8,}\.[\w-]+\.[\w-]+")


def conceal(secret: str) -> None:
    """Mask this secret, and each part of a `NAME:SECRET`, in all that follows."""
    for part in (secret, *secret.split(":")):
        if len(part) >= SHORTEST_SECRET:
            _SECRETS.update((part, quote(part, safe="")))


def masked(text: str) -> str:
    """The text without known secrets, tokens in headers, and what signs a URL."""
    # The longest first: a part of it must not leave the rest behind.
    for secret in sorted(_SECRETS, key=len, reverse=True):
        text = text.replace(secret, MASK)
    text = _URL.sub(lambda found: unsigned(found[0]), text)
    text = _PARAMETER.sub(rf"\1={MASK}", text)
    text = _HEADER.sub(rf"\1{MASK}", text)
    return _JWT.sub(MASK, text)
