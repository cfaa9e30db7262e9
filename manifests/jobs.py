"""A job: one clip owed.

Its id is a digest of everything that decides what a provider will make, and of nothing
else, so the same row never buys the same clip twice, whichever manifest it comes in.
"""

import hashlib
import json
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

Resolution = Literal["480p", "720p"]
AspectRatio = Literal["16:9", "9:16", "1:1", "auto"]

SEEDS: Final = 2**31
"""Seeds are drawn below this: the largest range that every provider takes."""

# What S3, GCS, CloudFront and Azure add to a URL to sign it, each by the name that gives
# it away. A link that is signed anew each night names the same still, and its signature
# is nobody's to keep.
_SIGNATURES: Final = {
    "x-amz-signature": frozenset(
        "x-amz-algorithm x-amz-credential x-amz-date x-amz-expires x-amz-signature "
        "x-amz-signedheaders x-amz-security-token x-amz-content-sha256".split()
    ),
    "x-goog-signature": frozenset(
        "x-goog-algorithm x-goog-credential x-goog-date x-goog-expires "
        "x-goog-signature x-goog-signedheaders".split()
    ),
    "signature": frozenset(
        "signature expires policy key-pair-id awsaccesskeyid googleaccessid "
        "x-amz-security-token".split()
    ),
    "sig": frozenset(
        "sig se sv sp sr st sip spr ses skoid sktid skt ske sks skv".split()
    ),
}


def unsigned(uri: str) -> str:
    """The URI without what only proves the right to read it."""
    parts = urlsplit(uri)
    if parts.scheme not in {"http", "https"}:
        return uri
    query = parse_qsl(parts.query, keep_blank_values=True)
    names = {name.lower() for name, _ in query}
    proof = {name for mark in names & set(_SIGNATURES) for name in _SIGNATURES[mark]}
    kept = [(name, value) for name, value in query if name.lower() not in proof]
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, urlencode(kept), ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One clip owed: a still to animate, and how."""

    image: str
    """Which still: its absolute URI without any signature, or `sha256:<hex>` of its bytes."""
    prompt: str
    negative_prompt: str = ""
    model: str = ""
    """The model's name, or "" for the cheapest that serves the rest."""
    resolution: Resolution = "480p"
    duration_s: int = 5
    aspect_ratio: AspectRatio = "auto"
    seed: int | None = None
    """The seed the row asks for; None draws one from the job's id."""
    take: int = 1
    id: str = field(init=False, compare=False)
    """32 hex digits."""

    def __post_init__(self) -> None:
        decides = (
            self.image,
            self.prompt,
            self.negative_prompt,
            self.model,
            self.resolution,
            self.duration_s,
            self.aspect_ratio,
            self.seed,
            self.take,
        )
        digest = hashlib.blake2b(json.dumps(decides).encode(), digest_size=16)
        object.__setattr__(self, "id", digest.hexdigest())

    def seed_after(self, discards: int) -> int:
        """The seed of the attempt that follows this many discarded ones."""
        first = int(self.id[:8], 16) if self.seed is None else self.seed
        return (first + discards) % SEEDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A job with what its rows say of it that does not change the clip."""

    job: Job
    still: str
    """Where the still's bytes can be read now; may carry a signature, so never recorded."""
    priority: int = 0
    max_usd: Decimal | None = None
