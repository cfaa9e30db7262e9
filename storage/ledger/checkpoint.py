"""Checkpoints: a finished epoch as three Parquet files and a list of their SHA-256.

ledger/events/epoch=000003/part-0.parquet    its entries, in order
ledger/jobs/epoch=000003/part-0.parquet      each life it touched, as it stood after it
ledger/index/000003.parquet                  their states
ledger/checkpoints/000003.json               size and SHA-256 of each; written last

An epoch without its list is read from its segments. A file is compared with its SHA-256
before any of its rows is used. If it is damaged, the segments are read instead, if all of
them still exist; the next run that ends writes the checkpoint again.
"""

import asyncio
import logging
from collections.abc import (
    AsyncIterator,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import asdict, dataclass
from hashlib import sha256
from importlib import import_module
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, cast

import polars as pl

from manifests.checkpoint import rows as events
from manifests.job_keys import KEY
from manifests.parquet import readable
from storage import checksum, layout
from storage.ledger import missing, root, segments
from storage.ledger.segment_reader import refuse_incomplete
from storage.objects import DamagedError, MissingError, Objects

_ParquetFile: Final[Any] = import_module("pyarrow.parquet").ParquetFile

Kind = Literal["events", "jobs", "index"]
KEYS: Final[Mapping[Kind, Callable[[int], str]]] = {
    "events": layout.events,
    "jobs": layout.jobs,
    "index": layout.index,
}

_BYTES: Final = 64 << 20
"""The most bytes of indexes in flight at once, and of an index that is read in memory."""
_REQUESTS: Final = 64

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class File:
    """The size and SHA-256 that a file must have."""

    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The list of an epoch's files, and facts about the epoch."""

    epoch: int
    first: float | None
    """When its first entry was recorded, if it has one."""
    last: float | None
    latencies: Mapping[str, Sequence[float]]
    streams: Mapping[str, int]
    """How many segments each stream had."""
    files: Mapping[Kind, File]

    def dump(self) -> bytes:
        return checksum.dump(asdict(self))

    @classmethod
    def load(cls, data: bytes, uri: str) -> "Checkpoint":
        fields = checksum.load(data, uri)
        try:
            fields["files"] = {kind: File(**fields["files"][kind]) for kind in KEYS}
            return cls(**fields)
        except (KeyError, TypeError) as error:
            raise DamagedError(f"{uri}: not a checkpoint: {error!r}") from error


async def compacted(objects: Objects) -> list[int]:
    """The epochs that have a checkpoint."""
    found = [one.key async for one in objects.list(layout.CHECKPOINTS)]
    return sorted(map(missing.epoch_of, found))


async def load(objects: Objects, epoch: int) -> Checkpoint | None:
    """An epoch's checkpoint; None if it is damaged, but can be read from its segments.

    Raises:
        DamagedError: it cannot.
    """
    key = layout.checkpoint(epoch)
    try:
        return Checkpoint.load(await objects.get(key), objects.uri(key))
    except (DamagedError, MissingError) as error:
        await fall_back(objects, epoch, None, error)
        return None


async def fall_back(
    objects: Objects, epoch: int, known: Checkpoint | None, why: Exception
) -> None:
    """Log that an epoch is read from its segments because its checkpoint is damaged.

    Raises:
        DamagedError: segments are missing too.
    """
    try:
        await refuse_incomplete(objects, epoch, known and known.streams)
    except DamagedError as lost:
        raise DamagedError(
            f"{why}; its segments cannot stand in for it: {lost}; "
            f"{root.cure(objects.root)}"
        ) from why
    log.warning(
        "ledger.checkpoint_damaged epoch=%d %s; its segments are read instead",
        epoch,
        why,
    )


async def indexes(
    objects: Objects, known: Iterable[Checkpoint]
) -> AsyncIterator[tuple[Checkpoint, bytes | DamagedError | None]]:
    """The indexes of checkpoints, in this order; several at once, within `_BYTES`.

    None stands for an index that is too large for memory.
    """
    for some in _batches(known):
        found = await segments.each(lambda one: _small(objects, one), some)
        for one, data in zip(some, found, strict=True):
            yield one, data


async def index(
    objects: Objects, known: Checkpoint, data: bytes | DamagedError | None = None
) -> AsyncIterator[pl.DataFrame]:
    """The rows of an index, some at a time; `data` as `indexes` gives it.

    Raises:
        DamagedError: it is not what was written.
    """
    if isinstance(data, DamagedError):
        raise data
    if data is None:
        async for rows in volume(objects, known, "index"):
            yield rows.select(events.INDEX.names())
    else:
        uri = objects.uri(layout.index(known.epoch))
        yield await asyncio.to_thread(_whole, data, uri)


async def volume(
    objects: Objects, known: Checkpoint, kind: Kind, wanted: pl.DataFrame | None = None
) -> AsyncIterator[pl.DataFrame]:
    """A file's rows, some at a time; only the rows of `wanted` lives if it is given.

    Raises:
        DamagedError: it is not what was written; no row of it was given.
    """
    key = KEYS[kind](known.epoch)
    uri = objects.uri(key)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "volume.parquet"
        try:
            digest = await objects.get_file(key, path)
        except MissingError as error:
            raise DamagedError(f"{uri}: missing") from error
        _refuse_other(uri, digest, known.files[kind])
        rows = groups(path, uri, wanted)
        while (some := await asyncio.to_thread(next, rows, None)) is not None:
            yield some


def groups(
    path: Path, uri: str, wanted: pl.DataFrame | None = None
) -> Iterator[pl.DataFrame]:
    """A local file's rows, a row group at a time."""
    # Without pre_buffer=False pyarrow holds every byte of the file that it has read.
    with readable(uri, DamagedError), _ParquetFile(path, pre_buffer=False) as file:
        for number in range(file.num_row_groups):
            rows: pl.DataFrame = cast("Any", pl).from_arrow(file.read_row_group(number))
            if wanted is not None:
                rows = rows.join(wanted, on=[*KEY], how="semi", maintain_order="left")
            yield rows


async def _small(objects: Objects, known: Checkpoint) -> bytes | DamagedError | None:
    if known.files["index"].bytes > _BYTES:
        return None
    key = layout.index(known.epoch)
    uri = objects.uri(key)
    try:
        data = await objects.get(key)
        digest = await asyncio.to_thread(lambda: sha256(data).hexdigest())
        _refuse_other(uri, digest, known.files["index"])
    except MissingError:
        return DamagedError(f"{uri}: missing")
    except DamagedError as error:
        return error
    return data


def _refuse_other(uri: str, digest: str, file: File) -> None:
    if digest != file.sha256:
        difference = f"its SHA-256 is {digest[:16]}…, and was {file.sha256[:16]}…"
        raise DamagedError(f"{uri}: damaged: {difference}")


def _whole(data: bytes, uri: str) -> pl.DataFrame:
    with readable(uri, DamagedError):
        return pl.read_parquet(BytesIO(data)).select(events.INDEX.names())


def _batches(known: Iterable[Checkpoint]) -> Iterator[list[Checkpoint]]:
    some: list[Checkpoint] = []
    held = 0
    for one in known:
        size = one.files["index"].bytes
        if some and (held + size > _BYTES or len(some) == _REQUESTS):
            yield some
            some, held = [], 0
        some.append(one)
        held += size
    if some:
        yield some
