"""Tests that a remote store refuses to create a key that exists, before it is used.

Some servers that speak S3 ignore the header that asks for it (`If-None-Match: *`), and
overwrite silently. On them two runs could claim one root and pay for the same clip.
"""

import secrets

from storage import layout
from storage.ledger.codec import LedgerError
from storage.objects import ExistsError, Objects


async def proved(objects: Objects) -> None:
    """Make sure that a remote store creates a key only where there is none.

    Raises:
        LedgerError: it overwrites.
    """
    if not objects.remote:
        return
    for _ in range(2):
        # Random bytes each time: finding our own bytes would prove nothing.
        data = b'{"by": "%s"}\n' % secrets.token_hex(8).encode()
        try:
            await objects.create(layout.CREATE_ONLY, data)
        except ExistsError:
            return
    raise LedgerError(
        f"{objects.root}: this store put {layout.CREATE_ONLY} a second time, although it was asked to "
        "only if there is none (If-None-Match: *): on it two runs could claim the root "
        "and pay for the same clip; use S3, Google Cloud Storage, Azure, a local disk, "
        "or a server or version that refuses what is taken"
    )
