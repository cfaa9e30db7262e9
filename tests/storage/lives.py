"""Events and tickets that the ledger's tests record."""

from hashlib import sha256

from manifests.lifecycle import Ticket
from storage.objects import Objects, local_path
from tests.histories import intended

INTENDED = intended("0.10")
TICKET = Ticket("wavespeed", "t-1", {"poll": "https://api.example/t-1"})


def job(name: object) -> str:
    """The job id that stands for a short name."""
    return sha256(str(name).encode()).hexdigest()[:32]


def at(seconds: float):
    return lambda: seconds


def made(uri: str) -> Objects:
    """The objects below a root; a local root's folder is made."""
    if "://" not in uri or uri.startswith("file:"):
        local_path(uri).mkdir(parents=True, exist_ok=True)
    return Objects.open(uri)


async def keys(objects: Objects, folder: str = "ledger") -> list[str]:
    return [stored.key async for stored in objects.list(folder)]
