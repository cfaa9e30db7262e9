"""Gaps: parts of the ledger that were lost and repaired, and what may have been bought there.

A repair's record names each gap. A job that may have been bought in one, as far as the
rest of the ledger shows, is withheld: no run buys it until the owner releases the gap.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import Any

from manifests.lifecycle import History, State
from storage import checksum, layout
from storage.objects import DamagedError, MissingError, Objects


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Segments of one stream, or a whole epoch, whose entries are lost."""

    place: str
    """The key of the stream, or of the epoch's folder."""
    first: int
    """The number of the first lost segment; 0 if the whole place is lost."""
    last: int
    since: float | None
    """When the entry before the gap was recorded, if there is one."""
    until: float
    """When the entry after it was recorded, or else the time of the repair."""
    submits: int | None
    """The most submits that it can have held; None if nothing bounds them."""
    lanes: Mapping[str, str] = field(default_factory=dict[str, str])
    """The highest price of a submit in USD, by lane, among the other entries of its epoch."""
    certain: bool = False
    """Whether an index has the states of all jobs after it: then nothing is withheld."""

    @property
    def name(self) -> str:
        if not self.first:
            return self.place
        numbers = (
            f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"
        )
        return f"{self.place} {numbers}"

    @property
    def usd(self) -> Decimal | None:
        """The most that its submits can have cost; None if nothing bounds it."""
        if self.certain:
            return Decimal(0)
        if self.submits is None or not self.lanes:
            return None
        return self.submits * max(map(Decimal, self.lanes.values()))


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairRecord:
    """The findings of one repair, and its gaps."""

    number: int
    at: float
    by: str
    """The machine and the process."""
    found: Sequence[Mapping[str, Any]]
    gaps: Sequence[Gap]

    def dump(self) -> bytes:
        return checksum.dump(asdict(self))

    @classmethod
    def load(cls, data: bytes, uri: str) -> "RepairRecord":
        """A record from the bytes that `dump` wrote.

        Raises:
            DamagedError: it is not what was written.
        """
        fields = checksum.load(data, uri)
        try:
            fields["gaps"] = [Gap(**gap) for gap in fields["gaps"]]
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise DamagedError(
                f"{uri}: not the record of a repair: {error!r}"
            ) from error


async def numbers(objects: Objects) -> tuple[list[int], set[int]]:
    """The numbers of all records, and of those that the owner has released."""
    found, released = list[int](), set[int]()
    async for stored in objects.list(layout.REPAIRS):
        if record := layout.REPAIR.fullmatch(stored.key):
            found.append(int(record["number"]))
        elif record := layout.REPAIR_RELEASED.fullmatch(stored.key):
            released.add(int(record["number"]))
    return found, released


async def withholding(objects: Objects) -> list[Gap]:
    """The gaps for which jobs are withheld."""
    found, released = await numbers(objects)
    every = [await _gaps(objects, one) for one in found if one not in released]
    return [gap for some in every for gap in some if not gap.certain]


async def release_gaps(objects: Objects, at: float) -> list[int]:
    """Record the owner's decision to buy what is withheld; returns the records released."""
    found, released = await numbers(objects)
    left = [one for one in found if one not in released]
    for one in left:
        await objects.put(layout.repair_released(one), checksum.dump({"at": at}))
    return left


def withheld(gaps: Iterable[Gap], history: History) -> Gap | None:
    """The gap in which a job may have been bought, if it is not on record as bought.

    A job that was submitted after the gap was certainly not in flight in it.
    """
    if history.state is not State.PENDING:
        return None
    submitted_at = -math.inf if history.submitted_at is None else history.submitted_at
    return next((gap for gap in gaps if submitted_at < gap.until), None)


async def _gaps(objects: Objects, number: int) -> Sequence[Gap]:
    key = layout.repair(number)
    try:
        return RepairRecord.load(await objects.get(key), objects.uri(key)).gaps
    except (DamagedError, MissingError):
        # Nobody knows any more what it withholds.
        return [
            Gap(place=key, first=0, last=0, since=None, until=math.inf, submits=None)
        ]
