"""Starts a run of a deployment for each version of a manifest that lands in an inbox.

The server creates one run for one idempotency key, however often it is asked. The key of a
version's first run is the version's name. The key of each later run also names the
run before it, which did not take the version. So a look needs no memory of earlier ones:
the register below the root has the versions that are taken, the server the runs.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final, Self
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import ObjectNotFound

from flows.config import SettingsError
from storage.backoff import backoff
from storage.inbox import PARQUET, SETTLE_S, Drop, Inbox, Register, digest
from storage.ledger import begin_root
from tasks.batch.request import public

DEPLOYMENT: Final = "nightreel/on-manifest"

AGAIN_S: Final = 300.0
"""Seconds from the start of a version's first run, which did not take it, to the next."""

MOST_S: Final = 3600.0
"""The longest such interval; it doubles each time up to this."""

_PAGE: Final = 200
"""The most runs that a server returns in one answer."""


@dataclass(frozen=True, slots=True)
class Watch:
    """An inbox, and the root whose clips its manifests want."""

    inbox: Inbox
    register: Register
    root: str

    @classmethod
    async def open(
        cls,
        inbox: str,
        root: str,
        *,
        pattern: str = PARQUET,
        marked: bool = False,
        new_root: bool | None = None,
    ) -> Self:
        """Open both by their URIs, which must not contain a secret.

        A new root is begun as `new_root` says: see `storage.ledger.open_root`.

        Raises:
            ManifestError: a URI contains a secret.
            StorageError: a URI cannot be used.
        """
        below = await begin_root(public(root, "root"), new_root=new_root)
        box = Inbox.open(
            public(inbox, "inbox"), below.root, pattern=pattern, marked=marked
        )
        return cls(box, Register(below), below.root)

    async def untaken(self) -> list[Drop]:
        """The versions that nobody has taken, the oldest first."""
        standing = await self.register.standing()
        return [drop for drop in await self.inbox.drops() if standing.is_free(drop)]

    def name(self, drop: Drop) -> str:
        """The name of a version's runs on a server; two roots may share an inbox."""
        place = f"{self.root}\n{drop.uri}"
        return f"inbox-{digest(place, drop.version)}"


def pause_s(times: int) -> float:
    """Seconds from the start of one try to the next, after `times` failed tries."""
    return backoff(times, AGAIN_S, MOST_S)


class Retries:
    """The times at which a process tries again to begin a version."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}
        """By the version's digest: the number of failures, and the time of the last."""

    def failed(self, drop: Drop) -> None:
        """Note that a version could not be begun."""
        times, _ = self._failures.get(drop.digest, (0, 0.0))
        self._failures[drop.digest] = times + 1, self._clock()

    def is_due(self, drop: Drop) -> bool:
        """Whether a version may be begun now."""
        times, last = self._failures.get(drop.digest, (0, 0.0))
        return not times or self._clock() >= last + pause_s(times)


async def start_runs(
    watch: Watch, deployment: str = DEPLOYMENT, settle_s: float = SETTLE_S
) -> list[Drop]:
    """Start a run for each version that is whole and due for one; these versions.

    Raises:
        SettingsError: the server has no such deployment.
    """
    named = {drop: watch.name(drop) for drop in await watch.untaken()}
    if not named:
        return []
    async with get_client() as client:
        runs = await _runs(client, [*named.values()])
        now = datetime.now(UTC)
        keys = {drop: next_key(name, runs[name], now) for drop, name in named.items()}
        due = [drop for drop, key in keys.items() if key is not None]
        if not due:
            return []
        found = await _deployment(client, deployment)
        whole = await watch.inbox.whole(due, settle_s)
        for drop in whole:
            await client.create_flow_run_from_deployment(
                found,
                parameters={
                    "manifest": drop.uri,
                    "version": drop.version,
                    "root": watch.root,
                },
                idempotency_key=keys[drop],
                tags=[named[drop]],
            )
    return whole


def next_key(name: str, runs: Sequence[FlowRun], now: datetime) -> str | None:
    """The idempotency key of the run that an untaken version is due for, if it is.

    A run that is scheduled takes the version when its time comes. Any other takes it
    within seconds of its start, or never will.
    """
    if not runs:
        return name
    if any(run.state is not None and run.state.is_scheduled() for run in runs):
        return None
    latest = max(runs, key=_begun_at)
    again_at = _begun_at(latest) + timedelta(seconds=pause_s(len(runs)))
    return f"{name}:{latest.id}" if now >= again_at else None


def _begun_at(run: FlowRun) -> datetime:
    known = run.start_time or (run.state and run.state.timestamp) or run.created
    return known or datetime.min.replace(tzinfo=UTC)


async def _runs(
    client: PrefectClient, names: Sequence[str]
) -> Mapping[str, list[FlowRun]]:
    """The runs that were started for versions, by the versions' names."""
    found = defaultdict[str, list[FlowRun]](list)
    for first in range(0, len(names), _PAGE):
        some = FlowRunFilterTags(any_=[*names[first : first + _PAGE]])
        for page in count():
            runs = await client.read_flow_runs(
                flow_run_filter=FlowRunFilter(tags=some),
                limit=_PAGE,
                offset=page * _PAGE,
            )
            for run in runs:
                for tag in run.tags:
                    found[tag].append(run)
            if len(runs) < _PAGE:
                break
    return found


async def _deployment(client: PrefectClient, name: str) -> UUID:
    try:
        return (await client.read_deployment_by_name(name)).id
    except ObjectNotFound as exc:
        problem = f"no deployment {name!r} on the server"
        raise SettingsError(f"{problem}: prefect deploy --all") from exc
