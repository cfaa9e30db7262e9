"""The root's identity and format: `root.json`, written once and never changed.

Each command that opens a root reads it first. Only a run begins a new root; all others
refuse a root that does not exist. A root with objects of ours but without `root.json` is
damaged, or is not a root of ours; it is never taken for a new one.
"""

import asyncio
import logging
import re
import shlex
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import urlsplit

import orjson

from storage import checksum, layout
from storage.ledger import conditional_put
from storage.ledger.codec import LedgerError
from storage.ledger.known_roots import KnownRoots
from storage.objects import (
    DamagedError,
    ExistsError,
    MissingError,
    Objects,
    local_path,
    make_folder,
)

log = logging.getLogger(__name__)

FORMAT: Final = 1
"""The format of a root that this code reads and writes."""


def cure(uri: str) -> str:
    """How a person can make a damaged root usable again."""
    return (
        "nothing is bought on it; restore what is lost from a backup or another copy of this "
        f"root, or let `nightreel repair {shlex.quote(uri)}` say what can be done"
    )


class RootError(LedgerError):
    """The root is absent, damaged, or of another format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Root:
    """The identity of a root."""

    id: str
    created: str
    """In UTC, for people."""
    data: bytes
    """The content of its `root.json`."""


async def read(objects: Objects) -> Root | None:
    """The root's identity; None if it has no `root.json`.

    Raises:
        RootError: it has another format.
        DamagedError: its content is not what was written.
    """
    try:
        data = await objects.get(layout.ROOT)
    except MissingError:
        return None
    return _loaded(data, objects)


async def existing_root(objects: Objects) -> Root:
    """The identity of a root that must exist.

    Raises:
        RootError: it does not, or it has another format.
        DamagedError: its `root.json` is not what was written.
    """
    found = await read(objects) or await _refuse_foreign(objects)
    if found is None:
        raise RootError(
            f"{objects.root}: no root is there: it has no {layout.ROOT}; check the URI, "
            "and that its disk is mounted; only `nightreel run` begins a new root"
        )
    return found


async def refuse_foreign(objects: Objects) -> None:
    """Raise an error unless this is a root of ours, or a new one.

    Raises:
        RootError: it has objects of ours and no `root.json`, or it has another format.
        DamagedError: its `root.json` is not what was written.
    """
    if await read(objects) is None:
        await _refuse_foreign(objects)


async def open_root(
    objects: Objects,
    clock: Callable[[], float],
    known: KnownRoots | None = None,
    *,
    new_root: bool | None = None,
) -> Root:
    """The root's identity, for a run: a root that is new is begun, if it may be.

    From now on the root is held to this identity: see `Objects.pin`.

    Args:
        new_root: whether the run may begin a root; None: unless this machine knows a root
            at this URI, which must then be away.

    Raises:
        RootError: it is damaged, of another format, away, or must not be begun.
    """
    found = await read(objects) or await _begin(
        objects, clock, known, new_root=new_root
    )
    objects.pin(layout.ROOT, found.data)
    if known is not None and not objects.root.startswith("memory:"):
        await asyncio.to_thread(known.remember, objects.root, found.id)
    return found


async def join_root(objects: Objects, root_id: str | None) -> None:
    """Open the root of a batch for one of its shards, in another process.

    `root_id` is the identity that the batch opened. From now on the root is held to it.

    Raises:
        RootError: there is no root, or another one.
    """
    found = await existing_root(objects)
    if root_id not in {found.id, None}:
        raise RootError(
            f"{objects.root}: root {found.id} is there, but the batch runs on root "
            f"{root_id}; nothing was bought; check where this URI leads on this machine"
        )
    objects.pin(layout.ROOT, found.data)


async def begin_root(uri: str, *, new_root: bool | None = None) -> Objects:
    """Open the root at a URI before its run does; see `open_root`.

    Raises:
        RootError: it is damaged, of another format, away, or must not be begun.
    """
    known = KnownRoots()
    await asyncio.to_thread(make_root_folder, uri, known, new_root=new_root)
    objects = Objects.open(uri)
    await open_root(objects, time.time, known, new_root=new_root)
    return objects


def make_root_folder(
    uri: str, known: KnownRoots, *, new_root: bool | None = None
) -> None:
    """Make the folder of a local root that is new, if it may be begun: see `open_root`.

    Raises:
        RootError: it must not be begun, or its disk is not mounted.
    """
    if urlsplit(uri).scheme != "file" or local_path(uri).is_dir():
        return
    _refuse_new(uri, known, new_root=new_root)
    make_folder(uri)


async def ours(objects: Objects) -> str | None:
    """The key of an object that only a run can have written, besides `root.json`."""
    async for stored in objects.list(layout.LEDGER):
        # A run that was killed before it began the root leaves these.
        if stored.key != layout.CREATE_ONLY and not stored.key.startswith(layout.CLOCK):
            return stored.key
    for folder, pattern in _PATTERNS.items():
        for stored in await objects.first(folder):
            if pattern.fullmatch(stored.key):
                return stored.key
    return None


_PATTERNS: Final[Mapping[str, re.Pattern[str]]] = {
    layout.CLIPS: layout.CLIP,
    layout.TABLES: layout.TABLE,
}


async def _begin(
    objects: Objects,
    clock: Callable[[], float],
    known: KnownRoots | None,
    *,
    new_root: bool | None,
) -> Root:
    if (found := await _refuse_foreign(objects)) is not None:
        return found
    await asyncio.to_thread(_refuse_new, objects.root, known, new_root=new_root)
    # Without create-only puts, the identity could be overwritten.
    await conditional_put.proved(objects)
    root = new(clock())
    with suppress(ExistsError):
        await objects.create(layout.ROOT, root.data)
        log.warning(
            "root.created root=%s id=%s a new root begins here: no clip is known below it",
            objects.root,
            root.id,
        )
        return root
    # Another run has begun it at the same moment.
    found = await read(objects)
    if found is None:
        raise RootError(f"{objects.uri(layout.ROOT)}: there and not there")
    return found


async def _refuse_foreign(objects: Objects) -> Root | None:
    """Raise an error if a root without `root.json` has objects of ours.

    Returns the identity if another run has begun the root meanwhile.
    """
    if (key := await ours(objects)) is None:
        return None
    found = await read(objects)
    if found is None:
        uri = objects.uri(layout.ROOT)
        raise RootError(f"{uri}: missing, but {key} is there: {cure(objects.root)}")
    return found


def _refuse_new(uri: str, known: KnownRoots | None, *, new_root: bool | None) -> None:
    if new_root:
        return
    cure = (
        "nothing was bought; mount its disk or check its endpoint, or begin a new root "
        "there and buy every clip anew: --new-root, or new_root = true in a deployment"
    )
    if known is not None and (root_id := known.id_of(uri)) is not None:
        raise RootError(
            f"{uri}: no root is there, but an earlier run on this machine found root "
            f"{root_id} there; {cure}"
        )
    if new_root is False:
        raise RootError(
            f"{uri}: no root is there, and a deployment's run begins none unasked; {cure}"
        )


def new(now: float, root_id: str | None = None) -> Root:
    """An identity that no root has yet, or one that was lost."""
    root_id = root_id or str(uuid.uuid4())
    created = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    data = checksum.dump({"format": FORMAT, "id": root_id, "created": created})
    return Root(id=root_id, created=created, data=data)


def _loaded(data: bytes, objects: Objects) -> Root:
    uri = objects.uri(layout.ROOT)
    # A later format may have another checksum, so the number is looked at first.
    if (number := _format_of(data)) not in {FORMAT, None}:
        raise RootError(
            f"{uri}: the root has format {number!r}, this Nightreel knows format {FORMAT}; "
            "nothing was read or written; use the version of Nightreel that wrote the root"
        )
    try:
        fields = checksum.load(data, uri)
        return Root(id=fields["id"], created=fields["created"], data=data)
    except DamagedError as error:
        raise DamagedError(f"{error}; {cure(objects.root)}") from error
    except KeyError as error:
        raise RootError(f"{uri}: not the identity of a root: no {error}") from error


def _format_of(data: bytes) -> object:
    """The format that it names; None if it cannot be read."""
    try:
        fields: Any = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(fields, dict):
        return None
    return cast("dict[str, object]", fields).get("format", "?")
