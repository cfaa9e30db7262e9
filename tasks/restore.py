"""Brings published clips back that are gone from the store, or were cut there.

A provider keeps a clip for a while, so a fresh link to the same request brings it back
free. Only the bytes on record are put in its place, and the ledger does not change.
"""

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import orjson

from manifests.catalogue import Route
from manifests.expiry import is_over
from manifests.lifecycle import Facts, History, Ticket
from manifests.plain_json import plain
from storage import layout
from storage.media import foreign
from storage.objects import MissingError, Objects, StorageError
from tasks.dispatch import Lane
from tasks.engine.download import made
from tasks.engine.environment import World
from tasks.engine.own_faults import explained
from tasks.engine.past_tables import Asked, asking
from tasks.engine.recover import AT_ONCE, SILENT, TABLES_WITHIN_S
from tasks.engine.steps import known_routes
from tasks.engine.submit_mark import lane_for_ticket
from tasks.providers.errors import NotFoundError, ProviderError
from tasks.providers.http import Clients, ask, download, retrying
from tasks.providers.protocol import Finished, UnreadableError

TRIES: Final = 3
"""The most downloads of one clip in a row."""

log = logging.getLogger(__name__)


class LostError(Exception):
    """A clip cannot be brought back; the message says why."""


@dataclass(slots=True)
class Restored:
    """The result of bringing clips back."""

    restored: set[str] = field(default_factory=set[str])
    """Jobs whose clip and sidecar are whole again."""
    lost: dict[str, str] = field(default_factory=dict[str, str])
    """By job: why its clip or its sidecar is still not whole."""


async def restored(
    objects: Objects, lives: Mapping[str, History], lanes: Iterable[Lane], world: World
) -> Restored:
    """Bring back the clips and sidecars of these published jobs.

    Raises:
        StorageError: the store is out of reach.
    """
    told, lanes = Restored(), [*lanes]
    async with (
        world.clients() as clients,
        asking(objects, lives, within_s=TABLES_WITHIN_S) as asked,
    ):
        routes = known_routes(lanes)
        each = _Restorer(objects, lanes, clients, world, asked, told, routes)
        coming = iter(lives.items())
        async with asyncio.TaskGroup() as workers:
            for _ in range(min(AT_ONCE, len(lives))):
                workers.create_task(each.work(coming))
    for reason, clips in Counter(told.lost.values()).most_common(SILENT):
        log.warning("clips.not_restored clips=%d %s", clips, reason)
    return told


@dataclass(slots=True)
class _Restorer:
    objects: Objects
    lanes: list[Lane]
    clients: Clients
    world: World
    asked: Asked
    told: Restored
    routes: Mapping[str, Route]
    failures: Counter[str] = field(default_factory=Counter[str])
    """Failures in a row, by the lane's name."""

    async def work(self, coming: Iterable[tuple[str, History]]) -> None:
        for job, history in coming:
            try:
                await self._restore(job, history)
            except StorageError:
                raise
            except (LostError, ProviderError, UnreadableError) as exc:
                self.told.lost[job] = str(exc)
            except Exception as exc:
                log.exception("clip.not_restored job=%s our own code failed", job)
                self.told.lost[job] = explained(exc)
            else:
                self.told.restored.add(job)

    async def _restore(self, job: str, history: History) -> None:
        ticket, facts = history.ticket, history.facts
        if ticket is None or facts is None:
            raise LostError("its ticket is not on record")
        key = layout.clip(job, "mp4")
        there = await self._stored(key)
        if await _digest(there) != facts.sha256:
            mp4 = await self._fetched(history, ticket, facts)
            # An owner may have put another file there: it is not overwritten.
            if not mp4.startswith(there):
                raise LostError("another file is in its place: delete that one first")
            await self.objects.put(key, mp4)
        # As when it was published: the sidecar last.
        await self._put_sidecar(job, history, ticket, facts)

    async def _put_sidecar(
        self, job: str, history: History, ticket: Ticket, facts: Facts
    ) -> None:
        key = layout.clip(job, "json")
        if tells(await self._stored(key), facts):
            return
        sidecar: dict[str, Any] = {
            **await self.asked(job),
            **made(job, history, ticket),
            **asdict(facts),
        }
        encoded = orjson.dumps(sidecar, default=plain, option=orjson.OPT_INDENT_2)
        await self.objects.put(key, encoded)

    async def _fetched(self, history: History, ticket: Ticket, facts: Facts) -> bytes:
        """The bytes on record, from the provider."""
        lane = lane_for_ticket(self.lanes, history)
        if lane is None:
            raise LostError(f"no lane in use asks {ticket.provider}")
        route = self.routes.get(history.route or "")
        if is_over(history, route, self.world.today()):
            raise LostError(f"{ticket.provider} does not keep it any more")
        if self.failures[lane.name] >= SILENT:
            raise LostError(f"{ticket.provider} does not answer")
        try:
            data = await self._downloaded(lane, ticket)
        except NotFoundError:
            raise
        except ProviderError:
            self.failures[lane.name] += 1
            raise
        self.failures[lane.name] = 0
        for mp4 in (data, await asyncio.to_thread(_converted, data)):
            if await _digest(mp4) == facts.sha256:
                return mp4
        raise LostError(f"{ticket.provider} has another file now")

    async def _downloaded(self, lane: Lane, ticket: Ticket) -> bytes:
        async for attempt in retrying(TRIES, but=_is_not_there):
            with attempt:
                poll = lane.endpoint.provider.poll(ticket)
                progress = await ask(self.clients, lane.endpoint, poll)
                if not isinstance(progress, Finished):
                    raise LostError(f"{ticket.provider} no longer has it")
                request = lane.endpoint.fetching(progress.url)
                return await download(self.clients.free, request, self.world.pace)
        raise AssertionError  # pragma: no cover - retrying() reraises

    async def _stored(self, key: str) -> bytes:
        try:
            return await self.objects.get(key)
        except MissingError:
            return b""


def tells(sidecar: bytes, facts: Facts) -> bool:
    """Whether a sidecar is whole, and is about the clip with these facts."""
    try:
        told = orjson.loads(sidecar)
    except orjson.JSONDecodeError:
        return False
    return isinstance(told, dict) and told.get("sha256") == facts.sha256  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _is_not_there(error: BaseException) -> bool:
    return isinstance(error, NotFoundError)


def _converted(data: bytes) -> bytes:
    """The MP4 of a video in another container; empty if it is none."""
    converted = foreign.to_mp4(data)
    return b"" if converted is None else converted.mp4


async def _digest(data: bytes) -> str:
    return await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
