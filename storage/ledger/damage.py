"""The damage below a root: every object that a reader of the ledger would miss or refuse.

It reads what a run reads, goes on where a run stops (`holes`), and writes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, Literal

from storage import layout
from storage.ledger import missing, root
from storage.ledger.checkpoint import KEYS, Checkpoint
from storage.ledger.holes import EpochDamage, read
from storage.ledger.owner import Holder
from storage.objects import DamagedError, MissingError, Objects

Kind = Literal["root", "claim", "segment", "checkpoint"]

_CURES: Final[Mapping[Kind, str]] = {
    "root": "write it again",
    "claim": "write it again",
    "segment": "put a record of the loss in its place",
    "checkpoint": "the next run writes it again from the segments",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """An object that is missing, or that is not what was written."""

    kind: Kind
    key: str
    missing: bool
    epoch: int | None = None

    @property
    def cure(self) -> str:
        return _CURES[self.kind]


@dataclass(slots=True)
class Survey:
    """Everything that is missing or damaged below a root."""

    damages: list[Damage] = field(default_factory=list[Damage])
    claims: dict[int, str] = field(default_factory=dict[int, str])
    """The batches whose claims must be written again, by epoch."""
    epochs: list[EpochDamage] = field(default_factory=list[EpochDamage])
    newest: int = 0

    @property
    def bad(self) -> list[Damage]:
        """The damages that the next run does not repair by itself."""
        return [one for one in self.damages if one.kind != "checkpoint"]

    def add(self, kind: Kind, key: str, error: Exception | None, epoch: int) -> None:
        lost = error is None or isinstance(error, MissingError)
        self.damages.append(Damage(kind=kind, key=key, missing=lost, epoch=epoch))


async def survey_root(objects: Objects) -> Survey:
    """Look at every object that the ledger is read from.

    Raises:
        RootError: the root has another format.
        LedgerError: another version of Nightreel wrote a record.
    """
    found = Survey()
    try:
        identity = await root.read(objects)
        lost: Exception | None = None
    except DamagedError as error:
        identity, lost = None, error
    if identity is None and (lost or await root.ours(objects)):
        found.add("root", layout.ROOT, lost, 0)
    traces = await missing.traces(objects)
    batches = await _claims(objects, found, traces)
    for epoch, batch in sorted(batches.items()):
        await _epoch(objects, found, epoch, batch, traces)
    return found


async def _claims(
    objects: Objects, found: Survey, traces: Mapping[int, str]
) -> dict[int, str]:
    """The batch of each epoch, by its claim or else by its traces."""
    keys = [stored.key async for stored in objects.list(layout.CLAIMS)]
    claims = {missing.epoch_of(key) for key in keys}
    found.newest = max({*claims, *traces, 0})
    if not claims and not traces:
        found.newest = await _told_by_tables(objects)
    batches = dict[int, str]()
    for epoch in range(1, found.newest + 1):
        key, error = layout.claim(epoch), None
        try:
            data = await objects.get(key)
            batches[epoch] = Holder.load(data, objects.uri(key)).batch
            continue
        except (MissingError, DamagedError) as caught:
            error = caught
        found.add("claim", key, error, epoch)
        folder = traces.get(epoch, "").rpartition("/")[2]
        known = layout.EPOCH.fullmatch(folder)
        batches[epoch] = folder if known else f"{epoch:06d}-repaired"
        found.claims[epoch] = batches[epoch]
    return batches


async def _told_by_tables(objects: Objects) -> int:
    """The newest epoch that has a table; 1 if only clips are left, 0 if nothing is."""
    newest = 0
    async for stored in objects.list(layout.TABLES):
        if table := layout.TABLE.fullmatch(stored.key):
            newest = max(newest, int(table["epoch"]))
    return newest or int(await root.ours(objects) is not None)


async def _epoch(
    objects: Objects, found: Survey, epoch: int, batch: str, traces: Mapping[int, str]
) -> None:
    one = EpochDamage(epoch=epoch, batch=batch)
    broken = await _checkpoint(objects, found, one)
    if one.known is not None and not broken:
        return
    one.certain = one.known is not None and not broken & {"index", "jobs"}
    one.lost = epoch in found.claims and epoch not in traces
    async for _ in read(objects, one):
        pass
    found.epochs += [one] if one.holes or one.lost else []
    for hole in one.holes:
        for number in range(hole.first, hole.last + 1):
            key = layout.segment(hole.stream, number)
            error = DamagedError() if number in hole.damaged else None
            found.add("segment", key, error, epoch)


async def _checkpoint(objects: Objects, found: Survey, one: EpochDamage) -> set[str]:
    """Read an epoch's checkpoint; returns the files of it that are not whole."""
    key = layout.checkpoint(one.epoch)
    try:
        known = Checkpoint.load(await objects.get(key), objects.uri(key))
    except MissingError:
        return set()
    except DamagedError as error:
        one.listed = True
        found.add("checkpoint", key, error, one.epoch)
        return set()
    one.listed, one.known, broken = True, known, set[str]()
    for kind, file in known.files.items():
        key = KEYS[kind](one.epoch)
        if (error := await _why_other(objects, key, file.sha256)) is not None:
            broken.add(kind)
            found.add("checkpoint", key, error, one.epoch)
    return broken


async def _why_other(objects: Objects, key: str, sha256: str) -> Exception | None:
    with TemporaryDirectory() as folder:
        try:
            digest = await objects.get_file(key, Path(folder) / "file")
        except MissingError as error:
            return error
    return None if digest == sha256 else DamagedError(key)
