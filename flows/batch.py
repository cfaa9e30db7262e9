"""The batch flow: a manifest in, paid-once clips out."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from prefect import flow, get_run_logger
from prefect.context import TagsContext
from prefect.exceptions import TerminationSignal
from prefect.runtime import flow_run
from prefect.states import Completed, Failed

from flows.config import ReportSettings, Settings, SettingsError, budget
from flows.config import lanes as lanes_of
from flows.config import settings as settings_of
from flows.dashboard import (
    Artifacts,
    Board,
    complaints_table,
    late_warning,
    open_artifacts,
    refused_table,
    rejected_remark,
    watched,
)
from flows.logs.streams import outlive_readers_of_a_run, outlive_terminal
from flows.prefect_runtime import (
    RootWait,
    gently,
    is_deployed,
    located,
    may_begin_root,
    shared,
)
from flows.views import finish_by as meant
from flows.views import local_zone
from manifests.input import ManifestError
from storage.inbox import Claim, claimed
from storage.ledger import HeldError, begin_root
from tasks.batch.batch import BatchRun
from tasks.batch.lifespan import begun, refused
from tasks.batch.request import Wanted
from tasks.batch.summary import Summary
from tasks.dispatch import Policy, refuse_wrong
from tasks.providers.http import connected
from tasks.shard import shard

# Before the engine logs: a worker that was killed reads no more of what its run prints.
outlive_readers_of_a_run()


def _run_name() -> str:
    asked: dict[str, Any] = flow_run.get_parameters()
    return (
        PurePosixPath(unquote(urlsplit(str(asked["manifest"])).path)).stem or "manifest"
    )


@flow(name="nightreel", flow_run_name=_run_name, retries=0, persist_result=False)
async def batch(  # noqa: PLR0913 - each is a field of the form in the Prefect UI
    *,
    manifest: str,
    root: str,
    config: str | None = None,
    lanes: list[str] | None = None,
    budget_usd: float | None = None,
    limit: int | None = None,
    policy: Policy | None = None,
    finish_by: str | None = None,
    check: bool = False,
    strict: bool = False,
    trust_manifest: bool = False,
    stills_folder: str | None = None,
    take_over: bool = False,
    new_root: bool = False,
    version: str | None = None,
) -> Any:
    """Buy every clip of a manifest that its root does not already have.

    As a subflow it returns the batch's summary: a dict of plain values.

    Args:
        manifest: URI or path of a Parquet file, of a folder of them or of a pattern, one row
            per clip wanted; a deployment needs a URI or an absolute path.
        root: URI or path that everything is kept under; the same root never pays twice.
        config: path of nightreel.toml; the lanes, and where their keys are kept.
        lanes: only these of its lanes.
        budget_usd: the most that may be spent: no submit goes beyond it.
        limit: only the first rows of the manifest.
        policy: cheapest, fastest or balanced; else as the config says.
        finish_by: 06:00, the first after the run was due, or 2026-11-30T06:00: when all
            of it is to be done, at the least cost that allows.
        check: ask every lane's provider first, and buy nothing if something is wrong.
        strict: refuse the whole manifest if one row is bad.
        trust_manifest: let the manifest name every place that the worker can read.
        stills_folder: a folder of the worker's machine that the manifest may name, too.
        take_over: shut out a run that seems to be at work on the same root.
        new_root: begin a new root if none is there: a deployment's run otherwise refuses,
            because a root that is away looks like a new one.
        version: what the store calls the manifest's bytes, if they landed in an inbox:
            a version that another run has taken is not begun with again.
    """
    # A task with tags asks the server for a slot: one that is away would end its shard.
    with outlive_terminal(), TagsContext(current_tags=set()):
        most_usd = budget(budget_usd)
        if limit is not None and limit < 1:
            raise SettingsError(f"limit = {limit}: must be rows, 1 or more")
        by = f"flow run {flow_run.get_id()}"
        may_begin = may_begin_root(new_root=new_root)
        manifest, root = located(manifest, "manifest"), located(root, "root")
        begin = partial(begin_root, root, new_root=may_begin)
        async with open_artifacts() as seen:
            async with (
                _complained(seen),
                claimed(begin, manifest, version, by) as claim,
            ):
                if claim.taken_by is not None:
                    message = f"taken by {claim.taken_by}"
                    return Completed(name="AlreadyTaken", message=message)
                settings = settings_of.load(
                    Path(config) if config else None, lanes=lanes
                )
                until = None if finish_by is None else meant(finish_by, _due())
                wanted = Wanted(
                    manifest=manifest,
                    root=root,
                    budget_usd=most_usd,
                    limit=limit,
                    policy=policy or _policy(settings, until),
                    finish_at=None if until is None else until.timestamp(),
                    strict=strict,
                    max_rejected=settings.engine.max_rejected,
                    carry=settings.manifest.carry,
                    convert_stills=settings.manifest.convert_stills,
                    sources=lanes_of.sources(
                        settings, trust=trust_manifest, folder=stills_folder
                    ),
                    shard_rows=settings.engine.shard_rows,
                    take_over=take_over,
                    new_root=may_begin,
                )
                board = await _seen_to(wanted, settings, claim, seen, check=check)
            return await _ended(board, seen, left=claim.left)


async def _seen_to(
    wanted: Wanted, settings: Settings, claim: Claim, seen: Artifacts, *, check: bool
) -> Board:
    """Run the batch to its end or until it is stopped. If it is stopped, another run may
    continue, unless its owner has cancelled it."""
    owner = _Owner()
    try:
        board = await _bought(wanted, settings, claim, owner, seen, check=check)
    except (asyncio.CancelledError, TerminationSignal):
        claim.left = not (claim.begun or await _cancelled())
        raise
    cancelled = await owner.cancelled()
    if cancelled:
        board.set_cancelled()
    claim.left = board.batch_run.cut_short and not cancelled
    return board


class _Owner:
    """Asks the server whether the run was cancelled. It asks when the run is stopped, because
    a run that has ended may have been retried."""

    def __init__(self) -> None:
        self._asked: asyncio.Task[bool] | None = None

    def ask(self) -> None:
        self._asked = asyncio.create_task(_cancelled())

    async def cancelled(self) -> bool:
        return self._asked is not None and await self._asked


async def _cancelled() -> bool:
    async with open_artifacts() as seen:
        return await seen.cancelled()


async def _bought(  # noqa: PLR0913
    wanted: Wanted,
    settings: Settings,
    claim: Claim,
    owner: _Owner,
    seen: Artifacts,
    *,
    check: bool,
) -> Board:
    on = await lanes_of.opened(settings)
    if check:
        async with connected() as clients:
            await refuse_wrong(on, clients)
    async with begun(
        wanted,
        lanes=on,
        rules=lanes_of.rules(settings, wanted.sources),
        hints_url=settings.listen.hints_url if settings.listen.public_url else None,
        on_held=_on_held(wanted),
    ) as batch_run:
        with gently(batch_run, owner.ask):
            async with shared(batch_run, settings) as at_once:
                claim.begun = True
                return await _run(batch_run, settings.report, seen, at_once)


def _on_held(wanted: Wanted) -> Callable[[HeldError], Awaitable[None]]:
    """A deployment's run waits for a held root; any other run fails at once."""
    if not is_deployed():
        return refused
    return RootWait(wanted.finish_at, get_run_logger().warning).wait


@asynccontextmanager
async def _complained(seen: Artifacts) -> AsyncGenerator[None]:
    """Show the errors of a refused manifest as a table; the run fails."""
    try:
        yield
    except ManifestError as exc:
        await seen.table("complaints", refused_table(exc))
        raise


def _due() -> datetime:
    """The scheduled start of the run, so that a late start does not move the deadline."""
    return (flow_run.get_scheduled_start_time() or datetime.now(UTC)).astimezone(
        local_zone()
    )


def _policy(settings: Settings, until: datetime | None) -> Policy:
    """The policy of a run that names none: the cheapest if it has a deadline."""
    return settings.engine.policy if until is None else "cheapest"


async def _run(
    batch_run: BatchRun, report: ReportSettings, seen: Artifacts, at_once: int
) -> Board:
    plan = batch_run.plan
    run_log = get_run_logger()
    for remark in filter(None, (late_warning(batch_run), plan.heavy)):
        run_log.warning("%s", remark)
    run_log.info("batch %s: %d rows, %d jobs", batch_run.batch, plan.rows, plan.jobs)
    window = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with window:
            await shard(batch_run, number)

    async with watched(batch_run, report, seen) as board:
        ends = await asyncio.gather(
            *map(one, range(len(batch_run.shards))), return_exceptions=True
        )
        # A lost store ends every shard with the same error: log it once.
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        await batch_run.settle_doubts()
    return board


async def _ended(board: Board, seen: Artifacts, *, left: bool) -> Any:
    batch_run = board.batch_run
    summary = batch_run.summary()
    text = str(summary)
    if batch_run.plan.bad_rows:
        bad = complaints_table(batch_run.plan)
        note = f"{batch_run.plan.bad_rows:,} bad rows of {batch_run.plan.uri}"
        await seen.table("complaints", bad, note)
    # Once more: clips of earlier runs were looked for after the last shard.
    await board.send_result()
    get_run_logger().info("%s: %s", summary.batch, text)
    why = batch_run.engine.stopped if left else None
    return state_of(summary, stopped=why, broken=batch_run.broken.total())


def state_of(summary: Summary, *, stopped: str | None, broken: int) -> Any:
    """The final state: failed if the owner must act; `stopped` is the reason, if any."""
    text = str(summary)
    if summary.fault is not None:
        todo = "mend Nightreel, and run the manifest again"
        return Failed(name="Broken", message=f"{summary.fault}: {text}: {todo}")
    if summary.short_of is not None:
        return Failed(message=f"out of {summary.short_of}: {text}")
    if stopped is not None:
        todo = "retry this run, or run the manifest again, to go on"
        return Failed(name="Stopped", message=f"{stopped}: {text}: {todo}")
    if broken:
        what = f"{broken:,} jobs broke off, the log says how"
        todo = "retry this run to try them again"
        return Failed(name="Broken", message=f"{what}: {text}: {todo}")
    if summary.too_many_rejected:
        return Failed(name="Rejected", message=f"{rejected_remark(summary)}: {text}")
    # Another run does not settle a doubt without its owner.
    return Completed(
        name="Unfinished" if summary.pending else None,
        message=text,
        data=summary.plain(),
    )
