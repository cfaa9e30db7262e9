"""Checks that a root's claims all exist, before anything else below it is used.

A claim names the folder of its epoch's streams. Without the claim no run looks for the
epoch, and each clip that it bought would be bought again. So a root with traces of an
epoch but without its claim is damaged; it is not a new root. `root` checks the same for
`root.json`, before any claim is looked at.
"""

import re
from collections.abc import Collection, Iterable, Mapping

from storage import layout
from storage.ledger import root
from storage.ledger.codec import LedgerError
from storage.objects import Objects


async def traces(objects: Objects) -> Mapping[int, str]:
    """The epochs that left objects other than their claims, with one key of each."""
    keys = [one.key async for one in objects.list(layout.CHECKPOINTS)]
    found = {epoch_of(key): key for key in keys}
    for name in await objects.folders(layout.LEDGER):
        if epoch := layout.EPOCH.fullmatch(name):
            found[int(epoch["epoch"])] = layout.streams(name)
    return found


async def refuse_claims(
    objects: Objects, claims: Collection[int], traces: Mapping[int, str]
) -> None:
    """Raise an error if claims are missing.

    Raises:
        LedgerError: it names a missing claim, and an object that shows that it existed.
    """
    newest = max(claims, default=0)
    seen = {epoch: layout.claim(epoch) for epoch in claims} | dict(traces)
    for epoch in range(1, max(seen, default=0) + 1):
        if epoch not in claims:
            # The epoch's own traces, or the claims after it.
            _refuse(objects, epoch, seen.get(epoch) or layout.claim(newest))
    if not claims and (key := await root.ours(objects)):
        _refuse(objects, 1, key)


def refuse_writers(objects: Objects, batch: str, names: Iterable[str]) -> None:
    """Raise an error if the stream of an earlier writer of a shard is missing.

    Raises:
        LedgerError: it names the stream.
    """
    there = {*names}
    for name in sorted(there):
        shard = layout.SHARD.fullmatch(name)
        if shard is None:
            continue
        for generation in range(1, int(shard["generation"])):
            lost = layout.shard(int(shard["shard"]), generation)
            if lost not in there:
                uri = objects.uri(layout.stream(batch, lost))
                raise LedgerError(
                    f"{uri}: missing, but {name} is there: {root.cure(objects.root)}"
                )


def _refuse(objects: Objects, epoch: int, found: str) -> None:
    uri = objects.uri(layout.claim(epoch))
    raise LedgerError(
        f"{uri}: missing, but {found} is there: {root.cure(objects.root)}"
    )


def epoch_of(key: str) -> int:
    """The epoch in the name of a claim or a checkpoint."""
    name = re.search(r"/(\d+)\.[a-z]+$", key)
    if name is None:
        raise LedgerError(f"{key}: not of the ledger")
    return int(name[1])
