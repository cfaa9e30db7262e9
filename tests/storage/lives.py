"""Events and tickets that the ledger's tests record."""

from decimal import Decimal
from hashlib import sha256

from manifests.lifecycle import Facts, Intended, Ticket
from storage.objects import Objects

INTENDED = Intended(
    lane="spicy",
    route="wavespeed/wan-2.2-spicy",
    price_usd=Decimal("0.10"),
    seed=7,
)
TICKET = Ticket("wavespeed", "t-1", {"poll": "https://api.example/t-1"})
FACTS = Facts(
    sha256="ab" * 32,
    bytes=1234,
    seconds=5.0625,
    fps=16.0,
    width=832,
    height=480,
    codec="h264",
    frames=81,
)


def job(name: object) -> str:
    """The job id that stands for a short name."""
    return sha256(str(name).encode()).hexdigest()[:32]


def at(seconds: float):
    return lambda: seconds


async def keys(objects: Objects, folder: str = "ledger") -> list[str]:
    return [stored.key async for stored in objects.list(folder)]
