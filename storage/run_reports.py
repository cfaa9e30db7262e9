"""The report of each run, for `nightreel status`: counts, troubles and reasons.

A run replaces its report while it works. No run reads one, and none decides about money.
"""

import re
from typing import Any, Final

import orjson

from storage import layout
from storage.objects import MissingError, Objects

READ: Final = 20
"""Reports that are read, the newest first."""

_EPOCH: Final = re.compile(r"(\d+)-")


async def put(objects: Objects, batch: str, report: dict[str, Any]) -> None:
    """Replace the report of a run.

    Raises:
        StorageError: the store is away, or refuses.
    """
    await objects.put(layout.run_report(batch), orjson.dumps(report))


async def newest(objects: Objects) -> list[dict[str, Any]]:
    """The reports of the latest runs, the newest first, one for each manifest.

    A report that cannot be read is left out.

    Raises:
        StorageError: the store is away, or refuses.
    """
    keys = [stored.key async for stored in objects.list(layout.REPORTS)]
    found: dict[str, dict[str, Any]] = {}
    for key in sorted(keys, key=_epoch, reverse=True)[:READ]:
        try:
            report = orjson.loads(await objects.get(key))
            found.setdefault(report["manifest"], report)
        except (MissingError, orjson.JSONDecodeError, KeyError, TypeError):
            continue
    return [*found.values()]


def _epoch(key: str) -> int:
    epoch = _EPOCH.match(key.rpartition("/")[2])
    return int(epoch[1]) if epoch else 0
