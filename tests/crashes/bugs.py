"""Bugs to plant in a child, to see that the sweep finds each at the law that it breaks."""

import asyncio
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from manifests.lifecycle import Event, Intended
from storage import files, records
from storage.clips import Clips
from storage.objects import Objects
from storage.records import LedgerError, Seal
from tasks import living
from tasks.engine import Engine


def plant(name: str | None) -> None:
    if name is not None:
        BUGS[name]()


def intended_is_not_awaited() -> None:
    """The request goes out while what it may cost is still being written."""
    record, writing = Engine.record, set[asyncio.Task[None]]()

    async def hasty(self: Engine, key: str, event: Event) -> None:
        task = asyncio.create_task(record(self, key, event))
        writing.add(task)
        if not isinstance(event, Intended):
            await task

    Engine.record = hasty


def accepted_is_not_recorded() -> None:
    """The ticket is known to this process and to nobody else."""
    packed = records.packed

    def forgetful(lines: Any) -> bytes:
        return packed(line for line in lines if b'"kind":"accepted"' not in line)

    for module in [m for name, m in sys.modules.items() if name.startswith("storage.")]:
        if getattr(module, "packed", None) is packed:
            module.packed = forgetful


def sidecar_comes_first() -> None:
    """What says that a clip is whole is there before the clip."""

    async def publish(self: Clips, job_id: str, mp4: bytes, sidecar: Any) -> str:
        uri = self.uri(job_id)
        key = uri.removeprefix(self._objects.root + "/")
        said = orjson.dumps(dict(sidecar), default=str)
        await self._objects.create(key.replace(".mp4", ".json"), said)
        await self._objects.create(key, mp4)
        return uri

    Clips.publish = publish


def drafts_have_the_final_name() -> None:
    """A file is synced, but can be seen before it is whole."""

    def create(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    files.create = create


def successor_does_not_seal() -> None:
    """Older epochs are read as they are, and may be written to behind our back."""
    create = Objects.create

    async def careless(self: Objects, key: str, data: Any) -> None:
        try:
            [record] = records.unpack(data, key)
        except (LedgerError, TypeError, ValueError):
            record = None
        if not isinstance(record, Seal) or key.startswith(f"ledger/{record.by:06d}-"):
            await create(self, key, data)

    Objects.create = careless


def what_overslept_is_sent() -> None:
    """A request goes out however long ago it was meant."""
    living.SEND_WITHIN_S = math.inf


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        intended_is_not_awaited,
        accepted_is_not_recorded,
        sidecar_comes_first,
        drafts_have_the_final_name,
        successor_does_not_seal,
        what_overslept_is_sent,
    )
}
