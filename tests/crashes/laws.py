"""The laws that must hold whenever a process has died, and at the end of a story.

Each law has a name, so that a bug shows at the law that it breaks.
"""

import hashlib
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import PurePosixPath

import orjson
import polars as pl

from manifests.lifecycle import (
    OVER,
    Accepted,
    Entry,
    History,
    IllegalTransitionError,
    Intended,
    State,
    fold,
)
from storage.ledger import read
from storage.ledger.codec import unpack
from storage.objects import Objects, StorageError
from tasks.emulator import Charge
from tests.crashes.door import Door

Broken = tuple[str, str]
"""The law's name, and the breach."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The contents below a root, and the errors in reading them."""

    entries: Sequence[Entry] = ()
    lives: Mapping[str, History] = field(default_factory=dict)
    clips: Mapping[str, bytes] = field(default_factory=dict)
    sidecars: Mapping[str, dict] = field(default_factory=dict)
    broken: Sequence[Broken] = ()

    @property
    def jobs(self) -> dict[int, str]:
        """Job ids by seed, which is the number in the prompt."""
        meant = ((x.event, x.job) for x in self.entries)
        return {e.seed: job for e, job in meant if isinstance(e, Intended)}

    @property
    def in_doubt(self) -> set[str]:
        return {
            j for j, history in self.lives.items() if history.state is State.IN_DOUBT
        }

    def is_done(self, jobs: int) -> bool:
        """Whether nothing more can be recorded."""
        over = [history for history in self.lives.values() if history.state in OVER]
        return len(over) == jobs


async def found(objects: Objects) -> Found:
    """Read everything that a reader can see."""
    broken: list[Broken] = []
    blobs = {s.key: await objects.get(s.key) async for s in objects.list()}
    for key, blob in blobs.items():
        try:
            decoded(key, blob)
        except Exception as error:  # noqa: BLE001 - whatever it is, a law is broken
            broken.append(("whole", f"{key} is half written: {error}"))
    entries: Sequence[Entry] = ()
    lives: Mapping[str, History] = {}
    try:
        entries = await read(objects)
        lives = fold(entries)
    except (StorageError, IllegalTransitionError) as error:
        broken.append(("legal", f"the ledger does not fold: {error}"))
    kept = {".mp4": {}, ".json": {}}
    for key, blob in blobs.items():
        path = PurePosixPath(key)
        if path.parts[0] == "clips" and path.suffix in kept:
            kept[path.suffix][path.stem] = blob
    sidecars = {}
    for job, content in kept[".json"].items():
        try:
            sidecars[job] = orjson.loads(content)
        except orjson.JSONDecodeError:
            continue
    return Found(
        entries=entries,
        lives=lives,
        clips=kept[".mp4"],
        sidecars=sidecars,
        broken=broken,
    )


def decoded(key: str, blob: bytes) -> None:
    """Raises if these are not the complete bytes of such an object."""
    match PurePosixPath(key).suffix:
        case ".json":
            orjson.loads(blob)
        case ".parquet":
            pl.read_parquet(io.BytesIO(blob))
        case ".zst":
            unpack(blob, key)


def at_any_time(now: Found, door: Door, bill: Sequence[Charge]) -> Iterator[Broken]:
    """These laws hold after any process has died."""
    yield from now.broken
    yield from paid_once(bill)
    yield from clips_are_whole(now)
    yield from on_record_first(now, door)
    yield from a_ticket_before_a_look(now, door, bill)


def paid_once(bill: Sequence[Charge]) -> Iterator[Broken]:
    # No provider fails here, so no record would free a job although it was accepted.
    for prompt, times in Counter(line.prompt for line in bill).items():
        if times > 1:
            yield "paid once", f"{prompt!r} was accepted {times} times"


def clips_are_whole(now: Found) -> Iterator[Broken]:
    published = {j: p for j, p in now.lives.items() if p.state is State.PUBLISHED}
    for job in {*now.sidecars, *published}:
        clip, sidecar = now.clips.get(job), now.sidecars.get(job, {})
        sha256 = hashlib.sha256(clip or b"").hexdigest()
        if clip is None or sidecar.get("sha256") != sha256:
            yield (
                "whole",
                f"{job}: its sidecar says {sidecar.get('sha256')}, it is {sha256}",
            )
    for job, history in published.items():
        if history.facts is None or history.facts.sha256 != now.sidecars[job]["sha256"]:
            yield "whole", f"{job}: what is on record is not what is kept"


def on_record_first(now: Found, door: Door) -> Iterator[Broken]:
    jobs = now.jobs
    meant = Counter(x.job for x in now.entries if isinstance(x.event, Intended))
    for number, times in Counter(door.submits).items():
        if times > meant[jobs.get(number, "")]:
            yield "on record first", f"pan {number}: {times} submits, fewer on record"


def a_ticket_before_a_look(
    now: Found, door: Door, bill: Sequence[Charge]
) -> Iterator[Broken]:
    known = {x.event.ticket.id for x in now.entries if isinstance(x.event, Accepted)}
    # LightX2V's id is our own reference: such a look asks about a submit in doubt.
    marks = [x.event.mark for x in now.entries if isinstance(x.event, Intended)]
    known |= {mark.partition(":")[2].partition(" ")[0] for mark in marks}
    for line in bill:
        looks = [path for path in door.paths if line.request_id in path]
        if looks and line.request_id not in known:
            yield "ticket before a look", f"{line.prompt!r}: {looks[0]}, and no ticket"


@dataclass(frozen=True, kw_only=True)
class End:
    """How it ended: after two nights that were not killed."""

    now: Found
    bill: Sequence[Charge]
    jobs: int
    doubts: set[str]
    """Jobs that a kill may have left in doubt."""
    tells: bool
    """Whether the provider says for certain what happened to a submit."""
    second: Mapping[str, object]
    third: Mapping[str, object]
    late: Sequence[int]
    """Submits in the third night."""
    elsewhere: bool = False


QUICK_S = 30.0
"""Limit for a whole night on a busy machine; a night that waited out a dead process's
lease would take a minute more."""

HELD_S = 60.0
"""For this long, a joined shard leaves the slots free that its jobs may still
occupy."""


def at_the_end(end: End) -> Iterator[Broken]:
    yield from free_at_once(end)
    yield from nothing_is_lost(end)
    yield from no_new_doubts(end)
    yield from the_money(end)
    yield from the_third_buys_nothing(end)


def free_at_once(end: End) -> Iterator[Broken]:
    quick_s = QUICK_S + HELD_S if end.elsewhere else QUICK_S
    for which, night in (("second", end.second), ("third", end.third)):
        if error := night.get("error"):
            yield "free at once", f"the {which} night ended with {error}"
        elif night["took_s"] > quick_s:
            yield "free at once", f"the {which} night took {night['took_s']:.1f} s"


def nothing_is_lost(end: End) -> Iterator[Broken]:
    states = Counter(history.state for history in end.now.lives.values())
    ended = states[State.PUBLISHED] + states[State.IN_DOUBT]
    if ended != end.jobs or states.total() != end.jobs:
        yield "nothing lost", f"of {end.jobs} jobs: {dict(states)}"
    jobs = end.now.jobs
    for line in end.bill:
        job = jobs.get(int(line.prompt.removeprefix("pan ")))
        history = end.now.lives.get(job or "", History())
        if history.state not in {State.PUBLISHED, State.IN_DOUBT}:
            yield (
                "nothing lost",
                f"{line.prompt!r} was paid for, and is {history.state}",
            )
        got = history.ticket and history.ticket.id
        if history.state is State.PUBLISHED and got != line.request_id:
            yield "nothing lost", f"{line.prompt!r}: {line.request_id} is nobody's clip"


def no_new_doubts(end: End) -> Iterator[Broken]:
    if more := end.now.in_doubt - end.doubts:
        yield "doubts", f"in doubt, though nothing was under way: {sorted(more)}"
    if end.tells and end.now.in_doubt:
        yield "doubts", f"the provider could have told: {sorted(end.now.in_doubt)}"


def the_money(end: End) -> Iterator[Broken]:
    owed = defaultdict[str, Decimal](Decimal)
    jobs = end.now.jobs
    for line in end.bill:
        owed[jobs.get(int(line.prompt[4:]), "?")] += Decimal(line.price_usd)
    for job, history in end.now.lives.items():
        counted = history.price_usd if job in end.now.in_doubt else owed[job]
        if history.spent_usd != counted:
            yield "money", f"{job}: {history.spent_usd} USD on record, {counted} owed"


def the_third_buys_nothing(end: End) -> Iterator[Broken]:
    if end.third.get("bought") or end.late:
        yield "third", f"the third night submitted {end.late}"
    if end.third.get("in_doubt") != end.second.get("in_doubt"):
        yield "third", "the third night counts other doubts than the second"
