"""Bugs to plant in a child: the sweep must find each one at the law that it breaks."""

import asyncio
import math
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson

from manifests.lifecycle import Accepted, Doubted, Event, Intended, Rejected
from storage.ledger import Holder, LedgerError, StateIndex, codec
from storage.ledger.codec import Seal
from storage.media import Clips
from storage.objects import DamagedError, Objects, local
from tasks.batch.batch import BatchRun
from tasks.engine import job
from tasks.engine.engine import Engine
from tasks.engine.poll import Follower
from tasks.engine.submit import Answer, Submitter


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
    """Only this process knows the ticket."""
    packed = codec.packed

    def forgetful(lines: Any) -> bytes:
        return packed(line for line in lines if b'"kind":"accepted"' not in line)

    _write_with(forgetful)


def entries_are_written_twice() -> None:
    """A segment repeats the entries of the one before it."""
    packed, written = codec.packed, list[bytes]()

    def stuttering(lines: Any) -> bytes:
        again = [*written]
        written[:] = lines
        return packed([*again, *written])

    _write_with(stuttering)


def _write_with(packed: Callable[[Any], bytes]) -> None:
    """Pack all segments like that from now on."""
    before = codec.packed
    for module in [m for name, m in sys.modules.items() if name.startswith("storage.")]:
        if getattr(module, "packed", None) is before:
            module.packed = packed


def sidecar_comes_first() -> None:
    """The sidecar, which promises a whole clip, is written before the clip."""

    async def publish(self: Clips, job_id: str, mp4: bytes, sidecar: Any) -> str:
        uri = self.uri(job_id)
        key = uri.removeprefix(self._objects.root + "/")
        content = orjson.dumps(dict(sidecar), default=str)
        await self._objects.create(key.replace(".mp4", ".json"), content)
        await self._objects.create(key, mp4)
        return uri

    Clips.publish = publish


def drafts_have_the_final_name() -> None:
    """A file is synced, but can be seen before it is whole."""

    def create(path: Path, data: bytes, **_: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    local.create = create


def successor_does_not_seal() -> None:
    """A successor reads older epochs without sealing them, so others may still write
    there."""
    create = Objects.create

    async def careless(self: Objects, key: str, data: Any, **more: Any) -> None:
        try:
            [record] = codec.unpack(data, key)
        except (LedgerError, DamagedError, TypeError, ValueError):
            record = None
        if not isinstance(record, Seal) or key.startswith(f"ledger/{record.by:06d}-"):
            await create(self, key, data, **more)

    Objects.create = careless


def what_overslept_is_sent() -> None:
    """A request is sent however long ago its submit was recorded."""
    job.SEND_WITHIN_S = math.inf


def what_cannot_be_kept_ends_the_process() -> None:
    """The process exits before it reports how its night went."""

    async def keep(self: BatchRun) -> None:
        sys.exit(f"{self.batch}: no tables on {self.wanted.root}")

    BatchRun.keep = keep


def the_dead_hold_their_root() -> None:
    """A run waits for a dead holder as if it were alive."""
    Holder.is_gone = lambda _: False


def what_takes_its_time_is_given_up() -> None:
    """A job that the provider still works on is taken for a refused one."""

    async def impatient(*_: object, **__: object) -> Rejected:
        return Rejected("it takes too long", charged=True)

    Follower.until_ended = impatient


def answers_are_not_believed() -> None:
    """An accepted submit is recorded as in doubt."""
    send = Submitter.send

    async def doubtful(self: Submitter, *offered: Any, **more: Any) -> Answer:
        answer = await send(self, *offered, **more)
        return Doubted("who knows") if isinstance(answer, Accepted) else answer

    Submitter.send = doubtful


def prices_are_in_whole_dollars() -> None:
    """The recorded price differs from the charged one."""
    intended = Submitter.intended

    def rounded(self: Submitter, *offered: Any) -> Intended:
        meant = intended(self, *offered)
        return replace(meant, price_usd=Decimal(math.ceil(meant.price_usd)))

    Submitter.intended = rounded


def what_is_bound_is_forgotten() -> None:
    """Jobs that earlier nights finished are done once more."""
    StateIndex.learn = lambda *_: None


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        intended_is_not_awaited,
        accepted_is_not_recorded,
        sidecar_comes_first,
        drafts_have_the_final_name,
        successor_does_not_seal,
        what_overslept_is_sent,
        entries_are_written_twice,
        what_cannot_be_kept_ends_the_process,
        the_dead_hold_their_root,
        what_takes_its_time_is_given_up,
        answers_are_not_believed,
        prices_are_in_whole_dollars,
        what_is_bound_is_forgotten,
    )
}
