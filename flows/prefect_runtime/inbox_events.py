"""What has landed in an inbox, and the event that says so.

Events are doubled and dropped, and one that a deployment refuses is refused in silence.
So what was announced and was not taken is announced again.
"""

import time
from dataclasses import dataclass
from typing import Any, Final, Self

from storage.inbox.claims import Register
from storage.inbox.listing import PARQUET, SETTLE_S, Drop, Inbox
from storage.objects.client import Objects
from tasks.batch.request import public

EVENT: Final = "nightreel.manifest.landed"


@dataclass(frozen=True, slots=True)
class Watch:
    """An inbox, and the root whose clips its manifests want."""

    inbox: Inbox
    register: Register
    root: str

    @classmethod
    def open(
        cls, inbox: str, root: str, *, pattern: str = PARQUET, marked: bool = False
    ) -> Self:
        """Both, by their URIs, which carry no secret.

        Raises:
            ManifestError: one of them does.
            StorageError: one of them will not do.
        """
        below = Objects.open(public(root))
        box = Inbox.open(public(inbox), below.root, pattern=pattern, marked=marked)
        return cls(box, Register(below), below.root)

    async def landed(self, settle_s: float = SETTLE_S) -> list[tuple[Drop, int]]:
        """What is whole and due to be announced, and for which time."""
        standing = await self.register.standing()
        now = time.time()
        return await self.inbox.landed(lambda drop: standing.turn(drop, now), settle_s)


def event(drop: Drop, root: str) -> dict[str, Any]:
    """The event that a manifest has landed, as Prefect takes it."""
    return {
        "event": EVENT,
        "resource": {
            "prefect.resource.id": f"nightreel.manifest.{drop.digest}",
            "prefect.resource.name": drop.uri,
            "nightreel.root": root,
        },
        "payload": {
            "uri": drop.uri,
            "etag": drop.version,
            "size": drop.size,
            "root": root,
        },
    }
