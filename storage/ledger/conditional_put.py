"""Once: a store that is written to refuses a key that is taken, or is not written to.

Some that speak S3 do not know the header that asks for it, and overwrite without a word.
On them two runs would claim one root, and pay for one clip.
"""

import secrets

from storage import layout
from storage.ledger.codec import LedgerError
from storage.objects.client import ExistsError, Objects


async def proved(objects: Objects) -> None:
    """Make sure that a remote store creates a key only where there is none.

    Raises:
        LedgerError: it overwrites.
    """
    if not objects.remote:
        return
    for _ in range(2):
        # Other bytes each time: that our own may be there says nothing.
        data = b'{"by": "%s"}\n' % secrets.token_hex(8).encode()
        try:
            await objects.create(layout.ONCE, data)
        except ExistsError:
            return
    raise LedgerError(
        f"{objects.root}: this store put {layout.ONCE} a second time, although it was asked to "
        "only if there is none (If-None-Match: *): on it two runs could claim the root "
        "and pay for the same clip; use S3, Google Cloud Storage, Azure, a local disk, "
        "or a server or version that refuses what is taken"
    )
