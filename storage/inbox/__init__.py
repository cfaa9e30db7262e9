"""The inbox: a folder or prefix into which people drop manifests.

`listing` finds the manifests and decides which are whole. A manifest is whole if it has
not changed between two looks, or, with `marked`, if `_SUCCESS` or `NAME.ready` stands
beside it. Its URI and its version together give a digest; new bytes are a new version.

`claims` records below the root which versions are taken (`inbox/claimed/`) and which are
over (`inbox/done/`). Each record is created once or not at all, so exactly one run takes
a version. A run that fails before it has begun gives its version back; a bad manifest is
not given back, because it stays bad until it changes.
"""

from storage.inbox.claims import Claim, Register, claimed
from storage.inbox.listing import PARQUET, SETTLE_S, Drop, Inbox, digest

__all__ = [
    "PARQUET",
    "SETTLE_S",
    "Claim",
    "Drop",
    "Inbox",
    "Register",
    "claimed",
    "digest",
]
