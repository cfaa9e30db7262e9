"""The external dependencies of a run: stores, providers, the MP4 check, and clocks."""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.ledger import SPILL_FOLDER
from storage.media import mp4
from storage.objects import Objects
from tasks.engine.download import Check
from tasks.providers.http import Clients, connected

PATIENCE_S: Final = 600.0
"""How long a batch waits for a store that is out of reach."""


def _kept(uri: str) -> Objects:
    return Objects.open(uri, patience_s=PATIENCE_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Stores, providers, the MP4 check, and clocks. The defaults are the real ones."""

    objects: Callable[[str], Objects] = _kept
    """Opens the store below a root URI."""
    spill_folder: Path = SPILL_FOLDER
    """The folder on this machine for events that could not be written to the store."""
    clients: Callable[[], AbstractAsyncContextManager[Clients]] = connected
    check: Check = mp4.check
    now: Callable[[], float] = time.monotonic
    today: Callable[[], float] = time.time


REAL: Final = World()
