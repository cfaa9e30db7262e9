"""One simulated night: the real engine plays the script."""

import asyncio
import hashlib
import logging
import tempfile
import zlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

import httpx
import pytest
from httpx import _urlparse, _urls

import storage.media.mp4
import storage.media.stills
from manifests import job_keys
from manifests.input import reader
from storage.ledger import (
    HeldError,
    LedgerError,
    compaction,
    owner,
    read,
    state_index,
)
from storage.media import BrokenClipError
from storage.objects import Objects, RetryPolicy, StorageError
from tasks.batch.batch import BatchRun
from tasks.batch.lifespan import begun
from tasks.batch.request import Wanted
from tasks.dispatch import Lane, Limits
from tasks.distributed import elsewhere, run_shard, supervisor
from tasks.engine.engine import Rules
from tasks.engine.environment import World
from tasks.providers import PROVIDERS
from tasks.providers.http import Clients, Endpoint
from tasks.providers.http import endpoint as endpoints
from tests.simulation import plan
from tests.simulation.laws import Breach, Witness
from tests.simulation.loop import (
    EPOCH,
    Node,
    StuckError,
    VirtualLoop,
    buried,
    fail,
    tell,
    uncollected,
)
from tests.simulation.plan import Fate, LanePlan, Run, Script
from tests.simulation.providers import HOST, NAMED, Provider
from tests.simulation.store import CALM, Door, Store
from tests.simulation.wire import clients

T = TypeVar("T")

ROOT: Final = "sim://root"
KEY: Final = "access:" + "secret" * 6
PATIENCE_S: Final = 600.0

TRIES: Final = 6
"""Number of times that a run starts again while another run holds the root."""
AGAIN_S: Final = 40.0
MEMORY: Final = next((each for each in ("/dev/shm",) if Path(each).is_dir()), None)
"""Folder for files of one night: in memory they take a twentieth of the time on a
disk."""
TABLES: Final = 24
"""In one of this number of nights, tables are written too."""
MANY: Final = 16
"""In one of this number of nights, a few rows are handled in the way of millions."""
BINDS: Final = 10
"""In one of this number of nights, ended epochs are bound, and wherever objects rot."""
QUIET: Final = 3
"""At most this number of quiet runs, until all is done."""
LONGEST_S: Final = 24 * 3600.0
"""After this time, a run that should have ended never will."""


@dataclass(frozen=True, slots=True)
class Told:
    """The outcome of a night."""

    seed: int
    breaches: Sequence[Breach]
    trace: Sequence[str]
    sales: int
    steps: int
    slept_s: float

    @property
    def digest(self) -> str:
        trace = "\n".join(self.trace).encode()
        return hashlib.blake2b(trace, digest_size=8).hexdigest()


class Sim:
    """The world of a night."""

    def __init__(self, script: Script, folder: Path) -> None:
        luck = Random(script.seed + 1)
        self.script = script
        self.loop = VirtualLoop(script.seed)
        self.store = Store(self.loop, Random(luck.random()))
        self.providers = {
            name: Provider(self.loop, name, terms, Random(luck.random()))
            for name, terms in script.terms.items()
        }
        self.witness = Witness(self.loop, self.store, self.providers, script)
        self.manifests = plan.written(folder, script)
        self.left: list[tuple[str, str, str]] = []
        self.batch_runs: dict[Node, Any] = {}
        self.rotten: dict[Node, str] = {}
        """The damaged object, by the run that found it."""
        self.asked = Counter[Node]()
        """The number of processes that each run has started for its shards."""

    async def main(self) -> None:
        script = self.script
        self.store.weather = script.store
        await asyncio.gather(*(self._played(run) for run in script.runs))
        self.store.weather = CALM
        for provider in self.providers.values():
            provider.calm()
        await asyncio.sleep(script.rests_s)
        for n in range(QUIET):
            self.left = []
            for manifest in range(len(script.manifests)):
                await self._played(_quiet(script, n, manifest))
            if not self._unfinished():
                break
            await asyncio.sleep(4 * 3600.0)
        self.witness.closing()
        self.witness.done(self.left)
        self.witness.reread(await read(self._objects(Node("reader"))))

    def _unfinished(self) -> bool:
        return any(
            why not in {"doubt", "attempts", "unserved"} for _, why, _ in self.left
        )

    async def _played(self, run: Run) -> None:
        """One process, from its start to its end or its death."""
        await asyncio.sleep(max(0.0, run.begins_s - self.loop.time()))
        node = Node(run.name)
        node.ahead_s = run.ahead_s
        self.witness.runs[node] = run
        over = asyncio.get_running_loop().create_future()
        process = self.loop.spawn(node, self._process(node, run))
        process.add_done_callback(lambda _: over.done() or over.set_result(None))
        heal = self._rot(node, run)
        timers = [*self._fates(node, run, process, over)]
        try:
            async with asyncio.timeout(LONGEST_S):
                await over
        except TimeoutError:
            self.witness.breach("stuck", f"{node} has not ended after a day")
            self.loop.kill(node)
        heal()
        for timer in timers:
            timer.cancel()
        if process.done() and not process.cancelled() and (exc := process.exception()):
            self.witness.breach("unbroken", f"{node}: {type(exc).__name__}: {exc}")

    def _rot(self, node: Node, run: Run) -> Callable[[], None]:
        """Damage the ledger as a run begins; returns the call that undoes it."""
        rotten = None if run.rots is None else self.store.rot(run.rots)
        if rotten is None:
            return lambda: None
        self.rotten[node], heal = rotten
        self.witness.note(f"{node} finds {self.rotten[node]} damaged")
        return heal

    def _fates(  # noqa: C901 - one line a fate
        self, node: Node, run: Run, process: Any, over: Any
    ) -> Generator[asyncio.TimerHandle]:
        """Schedule the events that hit a process from outside."""

        def at(when: float, do: Callable[[], object], text: str) -> asyncio.TimerHandle:
            def happen() -> None:
                if not process.done() and node.alive:
                    self.witness.note(f"{node} {text}")
                    do()

            return self.loop.call_at(when, happen)

        def killed() -> None:
            self.loop.kill(node)
            over.set_result(None)

        if run.killed_at is not None:
            yield at(run.killed_at, killed, "is killed")
        if run.cancelled_at is not None:
            yield at(run.cancelled_at, process.cancel, "is cancelled")
        if run.stopped_at is not None:
            yield at(run.stopped_at, lambda: self._stop(node), "is stopped")
        if run.paused is not None:
            since, until = run.paused
            yield at(since, lambda: self.loop.pause(node), "is paused")
            yield at(until, lambda: self.loop.resume(node), "is resumed")
        if run.jump is not None:
            when, by = run.jump

            def jump() -> None:
                node.ahead_s += by

            yield at(when, jump, f"has its clock set by {by} s")

    def _stop(self, node: Node) -> None:
        if batch_run := self.batch_runs.get(node):
            # Like a signal: in the process itself.
            self.loop.spawn(node, _call(lambda: batch_run.engine.stop("asked to")))

    async def _process(self, node: Node, run: Run) -> None:
        for _ in range(TRIES):
            try:
                await self._run(node, run)
            except HeldError:
                self.witness.note(f"{node} finds it held")
                await asyncio.sleep(AGAIN_S)
            except (LedgerError, StorageError) as exc:
                self.witness.note(f"{node} gives up: {exc}")
                if node in self.rotten and "repair" in str(exc):
                    self.witness.refuses(node, {*self.rotten.values()}, exc)
                return
            except asyncio.CancelledError:
                self.witness.note(f"{node} is cancelled")
                return
            else:
                return

    async def _run(self, node: Node, run: Run) -> None:
        lanes = [self._lane(each, node) for each in run.lanes]
        world, until = self._world(node), None
        if run.finish_in_s is not None:
            until = world.today() + run.finish_in_s
        wanted = Wanted(
            manifest=self.manifests[run.manifest],
            root=ROOT,
            budget_usd=run.budget_usd,
            policy=run.policy,  # type: ignore[arg-type]
            finish_at=until,
            shard_rows=run.shard_rows,
            take_over=run.take_over,
        )
        rules = self._rules(run)
        async with begun(wanted, lanes=lanes, rules=rules, world=world) as batch_run:
            self.batch_runs[node] = batch_run
            if run.elsewhere:
                start = partial(self._started, node, run, batch_run.batch)
                at_once = run.elsewhere
                async with elsewhere(batch_run, start, rules=rules, at_once=at_once):
                    await _all_shards(batch_run, at_once)
            else:
                await _all_shards(batch_run, len(batch_run.shards))
            summary = batch_run.summary()
            self.witness.note(f"{node} ends: {summary}")
        # All of its messages have arrived.
        self.witness.ended(node, batch_run, summary)
        if run.quiet:
            self.left += [
                (job, str(waiting.why), waiting.reason)
                for job, waiting in batch_run.engine.tally.waiting_jobs.items()
            ]

    async def _started(  # noqa: PLR0917 - whose it is, then what is asked
        self,
        parent: Node,
        run: Run,
        batch: str,
        number: int,
        attempt: int,
        begun: Callable[[], None],
    ) -> None:
        """Run a shard in a separate process, and report its outcome, or not."""
        fates, asked = run.fates, self.asked
        fate = fates[asked[parent]] if asked[parent] < len(fates) else plan.WELL
        if attempt >= supervisor.TRIES:
            # The run gives up a shard as broken after this number of accidents, so
            # there are no more.
            fate = plan.WELL
        asked[parent] += 1
        await asyncio.sleep(fate.begins_s)
        begun()
        node = Node(f"{parent}-{number}.{attempt}")
        node.ahead_s = fate.ahead_s or parent.ahead_s
        self.witness.joins(node, parent, run)
        over = asyncio.get_running_loop().create_future()

        def end(error: BaseException | None, told_s: float | None) -> None:
            if told_s is not None:
                say = tell if error is None else fail
                self.loop.later(told_s, say, over, error)

        process = self.loop.spawn(node, self._shard(node, run, batch, number))
        process.add_done_callback(
            lambda done: end(
                None if done.cancelled() else done.exception(), fate.told_s
            ),
            context=self.loop.outside,
        )
        for when, do, text in self._shard_fates(node, parent, run, fate, end):
            self._later(when, node, process, do, text)
        try:
            await over
        except asyncio.CancelledError:
            if fate.heeds:
                self.loop.kill(node)
            raise

    def _shard_fates(
        self, node: Node, parent: Node, run: Run, fate: Fate, end: Callable[..., None]
    ) -> Generator[tuple[float, Callable[[], object], str]]:
        """The events that hit a shard's process from outside."""
        now = self.loop.time()

        def killed() -> None:
            self.loop.kill(node)
            end(ConnectionError("it was killed"), fate.told_s)

        if fate.killed_s is not None:
            yield now + fate.killed_s, killed, "is killed"
        if fate.paused_s is not None:
            since, for_s = fate.paused_s
            yield now + since, lambda: self.loop.pause(node), "is paused"
            yield now + since + for_s, lambda: self.loop.resume(node), "is resumed"
        if fate.given_up_s is not None:
            lost = ConnectionError("nobody can reach it")
            yield now + fate.given_up_s, lambda: end(lost, 0.0), "is given up"
        if run.together and run.killed_at is not None:
            yield run.killed_at, killed, f"dies with {parent}"

    def _later(
        self, when: float, node: Node, process: Any, do: Callable[[], object], text: str
    ) -> None:
        def happen() -> None:
            if not process.done() and node.alive:
                self.witness.note(f"{node} {text}")
                do()

        self.loop.later(when - self.loop.time(), happen)

    async def _shard(self, node: Node, run: Run, batch: str, number: int) -> None:
        try:
            await run_shard(
                ROOT,
                batch=batch,
                shard=number,
                lanes=[self._lane(each, node) for each in run.lanes],
                rules=self._rules(run),
                world=self._world(node),
            )
        except (LedgerError, StorageError) as exc:
            self.witness.note(f"{node} gives up: {exc}")
            raise
        self.witness.note(f"{node} ends")

    def _world(self, node: Node) -> World:
        return World(
            objects=lambda _: self._objects(node),
            clients=lambda: self._clients(node),
            check=_checked,
            now=self.loop.time,
            today=lambda: EPOCH + self.loop.time() + node.ahead_s,
        )

    def _rules(self, run: Run) -> Rules:
        return Rules(
            deadline_s=self.script.deadline_s,
            settle_s=self.script.settle_s,
        )

    def _objects(self, node: Node) -> Objects:
        store: Any = Door(self.store, node)
        return Objects(store, ROOT, retry=RetryPolicy(unavailable_s=PATIENCE_S))

    @asynccontextmanager
    async def _clients(self, node: Node) -> AsyncGenerator[Clients]:
        yield clients(self.loop, node, self.providers)

    def _lane(self, each: LanePlan, node: Node) -> Lane:
        route = plan.catalogue_().route(each.route)
        provider: Any = PROVIDERS[route.provider](route, KEY)
        if hasattr(provider, "now"):
            today = lambda: EPOCH + self.loop.time() + node.ahead_s  # noqa: E731
            provider = replace(provider, now=today)
        return Lane(
            name=each.name,
            route=route,
            endpoint=Endpoint(provider, httpx.URL(f"{HOST}/{route.provider}")),
            limits=Limits(
                slots=each.slots,
                submits_per_minute=each.submits_per_minute,
                queues=route.queues,
                submits_per_day=each.submits_per_day,
            ),
            usd_per_day=each.usd_per_day,
            risk_usd=each.risk_usd,
        )


async def _call(do: Callable[[], object]) -> None:
    do()


async def _all_shards(batch_run: BatchRun, at_once: int) -> None:
    """Run every shard, `at_once` at a time, then resolve the doubts that they left."""
    window = asyncio.Semaphore(max(1, at_once))

    async def one(number: int) -> None:
        async with window:
            await batch_run.run_shard(number)

    await asyncio.gather(*map(one, batch_run.shards))
    await batch_run.settle_doubts()


def _quiet(script: Script, number: int, manifest: int) -> Run:
    """A run without any obstacle."""
    lanes = [
        replace(
            lane,
            submits_per_day=None,
            usd_per_day=None,
            risk_usd=Decimal(0),
            slots=script.terms[lane.name].slots,
            submits_per_minute=script.terms[lane.name].submits_per_minute or 600,
        )
        for lane in script.lanes
    ]
    return Run(
        name=f"quiet{number}-{manifest}",
        manifest=manifest,
        lanes=lanes,
        # A dead holder may hold the root for as long as its clock was ahead.
        take_over=True,
        quiet=True,
    )


def played(seed: int, script: Script | None = None) -> Told:
    """Play the night of a seed to its end."""
    script = script or plan.drawn(seed)
    with (
        uncollected(),
        tempfile.TemporaryDirectory(prefix="nightreel-sim-", dir=MEMORY) as name,
        cheaply(
            name,
            tables=seed % TABLES == 0,
            binds=seed % BINDS == 0 or any(run.rots for run in script.runs),
        ),
        as_many(always=seed % MANY == 0),
    ):
        sim: Sim | None = Sim(script, Path(name))
        assert sim is not None
        witness, loop = sim.witness, sim.loop
        main = sim.main()
        try:
            loop.run(main)
        except StuckError as exc:
            witness.breach("stuck", str(exc))
        for error in loop.broken:
            witness.breach("unbroken", error)
        told = Told(
            seed,
            witness.breaches,
            witness.trace,
            sum(len(each.sales) for each in sim.providers.values()),
            loop.steps,
            loop.time(),
        )
        with buried():
            loop.bury()
            del main, loop, witness
            sim = None
    return told


@contextmanager
def cheaply(folder: str, *, tables: bool, binds: bool) -> Generator[None]:
    """Run code that is not ours, or that always gives the same result, only once:
    mostly the decoding of clips and the reading of a manifest. Tables are written, and
    old epochs bound, on some nights only: each can be read without them too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage.media.stills, "look", _looked)
        patch.setattr(reader, "check", _remembered(reader.check, _plan_of))
        patch.setattr(reader, "orders", _row_by_row({}))
        patch.setattr(endpoints, "_moved", _moved)
        patch.setattr(owner, "born", _born)
        patch.setattr(_urls, "urlparse", _parsed)
        patch.setattr(_urlparse, "urlparse", _parsed)
        patch.setattr(tempfile, "tempdir", folder)
        # State on a machine lasts for the night, and is shared by all its processes.
        patch.setenv("XDG_STATE_HOME", folder)
        if not binds:
            patch.setattr(compaction, "bind", _nothing)
        if not tables:
            keeps = "keep_tables" if hasattr(BatchRun, "keep_tables") else "keep"
            patch.setattr(BatchRun, keeps, _nothing)
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level)


@contextmanager
def as_many(*, always: bool) -> Generator[None]:
    """Handle few rows in the way that otherwise only many rows take."""
    with pytest.MonkeyPatch.context() as patch:
        if always:
            patch.setattr(job_keys, "FEW", 0)
            patch.setattr(state_index, "FEW", 0)
        yield


def _remembered(
    find: Callable[..., T], told_by: Callable[..., object]
) -> Callable[..., T]:
    known: dict[object, T] = {}

    def found(*args: Any) -> T:
        key = told_by(*args)
        if key not in known:
            known[key] = find(*args)
        return known[key]

    return found


def _plan_of(
    _: Path,
    uri: str,
    routes: Sequence[Any],
    carry: Collection[str] = (),
    _refused: object = None,
) -> object:
    return uri, tuple(route.name for route in routes), tuple(carry)


def _row_by_row(known: dict[object, Any]) -> Callable[..., list[Any]]:
    def orders(path: Path, uri: str, shard: Any, keep: Any) -> list[Any]:
        rows = shard.filter("first").select("row", "priority", "max_usd").iter_rows()
        # A shard that runs elsewhere has different rows under the manifest's name.
        whose = zlib.crc32(path.read_bytes())
        asked = [(uri, whose, *row) for row in rows]
        if not known.keys() >= {*asked}:
            known.update(zip(asked, _orders(path, uri, shard, keep), strict=True))
        return [known[row] for row in asked]

    return orders


_born = lru_cache(owner.born)
_moved = lru_cache(maxsize=4096)(endpoints._moved)  # noqa: SLF001
_parsed = lru_cache(maxsize=4096)(_urlparse.urlparse)
_look, _check, _orders = (
    storage.media.stills.look,
    storage.media.mp4.check,
    reader.orders,
)


async def _nothing(*_: object) -> None:
    """Stands in for tables that no test reads."""


@lru_cache(maxsize=64)
def _looked(content: bytes, *, name: str, min_px: int, convert: bool = True) -> Any:
    return _look(content, name=name, min_px=min_px, convert=convert)


def _checked(mp4: bytes, *, decode: bool = True) -> Any:
    """Decode only one of several clips that differ in their owner's number alone."""
    named = mp4[-NAMED:-32] == NAMED.to_bytes(4, "big") + b"free"
    found = _known(mp4[:-NAMED] if named else mp4, decode)
    if isinstance(found, BrokenClipError):
        raise BrokenClipError(str(found), whole=found.whole)
    return found


@lru_cache(maxsize=64)
def _known(mp4: bytes, decode: bool) -> Any:  # noqa: FBT001
    try:
        return _check(mp4, decode=decode)
    except BrokenClipError as exc:
        # A new error: the traceback of the old one would keep the whole night in
        # memory.
        return BrokenClipError(str(exc), whole=exc.whole)


def brief(seed: int) -> tuple[int, list[str], int, int]:
    """The result for other processes: the seed, its breaches, sales and steps."""
    try:
        told = played(seed)
    except Exception as exc:  # noqa: BLE001 - one seed's failure is told, the rest go on
        return seed, [f"simulator: {type(exc).__name__}: {exc}"], 0, 0
    return seed, [*map(str, told.breaches)], told.sales, told.steps
