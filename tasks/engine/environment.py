"""The world: what a night reaches beyond itself."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.ledger.spill import LIFEBOATS
from storage.media import mp4
from storage.objects.client import Objects
from tasks.engine.download import Check
from tasks.providers.http import Clients, connected

PATIENCE_S: Final = 600.0
"""How long a store may be away: the batch waits for it."""


def _kept(uri: str) -> Objects:
    return Objects.open(uri, patience_s=PATIENCE_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Stores, providers, the look into MP4s, and clocks; the real ones, unless somebody says
    otherwise."""

    objects: Callable[[str], Objects] = _kept
    """What is kept below a root URI."""
    lifeboats: Path = LIFEBOATS
    """Where on this machine is kept what could not be put on record."""
    clients: Callable[[], AbstractAsyncContextManager[Clients]] = connected
    check: Check = mp4.check
    now: Callable[[], float] = time.monotonic
    today: Callable[[], float] = time.time


REAL: Final = World()
