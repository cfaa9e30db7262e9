"""Epochs: the ledger as objects, each created once and never changed.

    ledger/epochs/000003.json                             the claim of epoch 3
    ledger/000003-<batch>/main/0000000001.jsonl.zst …     the batch's stream, in segments
    ledger/000003-<batch>/main/parts/0000000001-0000000256.jsonl.zst    a part
    ledger/000003-<batch>/shard-0007.01/…                 a stream of another process

A stream is one writer's segments, numbered without a gap; a shard's next writer has the
next generation. A seal is a segment at its owner's next number: the owner's own next
segment then finds its key taken, so it cannot write unseen.
"""

import asyncio
import itertools
import logging
import re
from collections import defaultdict, deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass, field
from typing import Final, TypeVar

from storage import layout
from storage.ledger import missing, root
from storage.ledger.codec import LedgerError, plain
from storage.ledger.owner import Holder
from storage.objects import DamagedError, MissingError, Objects

K = TypeVar("K")
T = TypeVar("T")

log = logging.getLogger(__name__)

MAIN: Final = "main"
_AT_ONCE: Final = 64
# Parts are requested this far ahead; each has a few MB.
_AHEAD: Final = 16


class FencedError(LedgerError):
    """A successor has taken this root over; nothing more can be recorded here."""


class FullRootError(LedgerError):
    """The root has no space left; nothing more can be recorded here."""


class ReplacedRootError(LedgerError):
    """The root was emptied or replaced while it was open; nothing more is recorded there."""


@dataclass(slots=True)
class Extent:
    """The numbers of a stream's segments and parts that a list has shown."""

    segments: int = 0
    """The last number that was seen without a gap from 1."""
    beyond: set[int] = field(default_factory=set[int])
    """Numbers seen after a gap."""
    parts: dict[int, int] = field(default_factory=dict[int, int])
    """Each part's last segment, by its first."""

    def add(self, number: int) -> None:
        if number > self.segments:
            self.beyond.add(number)
        while self.segments + 1 in self.beyond:
            self.segments += 1
            self.beyond.remove(self.segments)

    def bind(self, first: int, last: int) -> None:
        self.parts[first] = last
        for number in range(max(first, self.segments + 1), last + 1):
            self.add(number)

    def pieces(self, stream: str) -> Iterator["Piece"]:
        """The objects to read for the whole stream: parts if they exist, else segments."""
        number = 1
        while number <= self.segments:
            if last := self.parts.get(number):
                yield Piece(stream, number, last, layout.part(stream, number, last))
            else:
                yield Piece.segment(stream, number)
            number = (last or number) + 1


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment, or a part, of a stream."""

    stream: str
    first: int
    last: int
    key: str

    @classmethod
    def segment(cls, stream: str, number: int) -> "Piece":
        return cls(stream, number, number, layout.segment(stream, number))

    @property
    def is_part(self) -> bool:
        return self.key != layout.segment(self.stream, self.first)


def number(batch: str) -> int:
    """A batch's epoch."""
    return int(batch.partition("-")[0])


async def claimed(objects: Objects) -> int:
    """How many epochs were claimed; the newest one's number.

    Raises:
        LedgerError: claims are missing, so entries on record would be overlooked; or the
            root has another format, or no identity.
    """
    await root.refuse_foreign(objects)
    try:
        return await _claimed(objects)
    except LedgerError:
        # Listing a local folder during writes may skip a name: look again.
        return await _claimed(objects)


async def _claimed(objects: Objects) -> int:
    # The claims last: every trace that was listed before them has its claim among them.
    traces = await missing.traces(objects)
    claims = {
        missing.epoch_of(stored.key) async for stored in objects.list(layout.CLAIMS)
    }
    await missing.refuse_claims(objects, claims, traces)
    return len(claims)


async def exists(objects: Objects, key: str) -> bool:
    try:
        await objects.get(key)
    except MissingError:
        return False
    return True


async def owner(objects: Objects, epoch: int) -> Holder:
    """The holder that claimed an epoch.

    Raises:
        DamagedError: the claim is not what was written: its streams cannot be found.
    """
    key = layout.claim(epoch)
    try:
        return Holder.load(await objects.get(key), objects.uri(key))
    except DamagedError as error:
        raise DamagedError(f"{error}; {root.cure(objects.root)}") from error


async def read(
    objects: Objects, batch: str, found: Mapping[str, Extent]
) -> AsyncIterator[tuple[str, bytes]]:
    """The content of these streams in order: the object's URI and its lines.

    Raises:
        DamagedError: a segment is not what was written, and no part has it.
    """
    asked = deque[tuple[Piece, asyncio.Task[bytes]]]()
    every = (one.pieces(layout.stream(batch, name)) for name, one in found.items())
    try:
        for piece in itertools.chain.from_iterable(every):
            asked.append((piece, asyncio.create_task(objects.get(piece.key))))
            if len(asked) == _AHEAD:
                async for lines in _lines(objects, *asked[0]):
                    yield lines
                asked.popleft()
        while asked:
            async for lines in _lines(objects, *asked[0]):
                yield lines
            asked.popleft()
    finally:
        for _, task in asked:
            task.cancel()
        await asyncio.gather(*(task for _, task in asked), return_exceptions=True)


async def _lines(
    objects: Objects, piece: Piece, got: Awaitable[bytes]
) -> AsyncIterator[tuple[str, bytes]]:
    uri, count = objects.uri(piece.key), piece.last - piece.first + 1
    try:
        blob = await got
    except MissingError as error:
        # Only a part that is damaged stood in for it.
        raise DamagedError(f"{uri}: missing; {root.cure(objects.root)}") from error
    try:
        lines = await asyncio.to_thread(plain, blob, uri, frames=count)
    except DamagedError as error:
        if not piece.is_part:
            raise DamagedError(f"{error}; {root.cure(objects.root)}") from error
        log.warning("ledger.part_damaged %s; its segments are read instead", error)
        for number in range(piece.first, piece.last + 1):
            one = Piece.segment(piece.stream, number)
            async for each_lines in _lines(objects, one, objects.get(one.key)):
                yield each_lines
    else:
        yield uri, lines


async def streams(objects: Objects, batch: str, name: str = "") -> dict[str, Extent]:
    """A batch's streams in the order in which they are read, or the one of this name.

    Segments that are written meanwhile may be missing at the end.
    """
    folder = layout.stream(batch, name).rstrip("/")
    found = defaultdict[str, Extent](Extent)
    await look(objects, folder, found)
    gaps = {one: max(extent.beyond) for one, extent in found.items() if extent.beyond}
    if gaps:
        # Listing a local folder during writes may skip a name: look again.
        await look(objects, folder, found)
    for one, seen in gaps.items():
        if seen > found[one].segments:
            place = objects.uri(layout.stream(batch, one))
            lost = found[one].segments + 1
            raise LedgerError(
                f"{place}: number {lost} is missing; {root.cure(objects.root)}"
            )
    if not name:
        try:
            missing.refuse_writers(objects, batch, found)
        except LedgerError:
            await look(objects, folder, found)
            missing.refuse_writers(objects, batch, found)
    return dict(sorted(found.items(), key=lambda item: order(item[0])))


async def each(ask: Callable[[K], Awaitable[T]], of: Sequence[K]) -> list[T]:
    """Send many requests to the store, `_AT_ONCE` at a time."""
    found: list[T] = []
    for start in range(0, len(of), _AT_ONCE):
        found += await asyncio.gather(*map(ask, of[start : start + _AT_ONCE]))
    return found


async def look(objects: Objects, folder: str, found: dict[str, Extent]) -> None:
    """List the segments and parts below a folder, and add their numbers."""
    async for stored in objects.list(folder):
        match layout.SEGMENT.match(stored.key):
            case re.Match() as segment if segment["number"]:
                found[segment["name"]].add(int(segment["number"]))
            case re.Match() as part:
                first, last = int(part["first"]), int(part["last"])
                found[part["name"]].bind(first, last)
            case None:
                raise LedgerError(f"{objects.uri(stored.key)}: not of the ledger")


def order(name: str) -> list[int]:
    """Sort key: `main` first, then by shard, then by generation."""
    return [int(number) for number in re.findall(r"\d+", name)]
