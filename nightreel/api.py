"""The functions of `nightreel`: the commands of the command line, for Python programs."""

import asyncio
import io
import logging
from collections.abc import Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

import polars as pl

from flows.commands.batch_flow import run_flow
from flows.commands.check import checked
from flows.commands.lanes import in_use
from flows.commands.plan import forecasted
from flows.commands.reconcile import Decided, settled
from flows.commands.status import observed
from flows.commands.terminal import existing, place
from flows.config import Settings, budget
from flows.config import policy as chosen
from flows.config import settings as settings_of
from flows.views import times
from manifests.parquet import readable
from nightreel.frames import (
    lanes_frame,
    plan_result,
    reconcile_result,
    status_result,
)
from nightreel.results import (
    CheckResult,
    PlanResult,
    ReconcileResult,
    RunResult,
    StatusResult,
)
from storage import layout
from storage.objects import DamagedError, Objects
from tasks.batch.batch import BatchRun
from tasks.batch.request import public
from tasks.dispatch import Policy

T = TypeVar("T")
log = logging.getLogger(__name__)
Place = str | PathLike[str]
"""A URI, or a path of this machine."""


def run(manifest: Place, *, root: Place, **options: Any) -> RunResult:
    """Buy every clip of a manifest that its root does not have; see `arun` for options.

    Raises:
        RuntimeError: an event loop is running here, as in a notebook: await `arun`.
    """
    if _in_a_loop():
        raise RuntimeError(
            "an event loop is running here, as in a notebook: "
            "use `await nightreel.arun(...)` in place of `nightreel.run(...)`"
        )
    return asyncio.run(arun(manifest, root=root, **options))


async def arun(  # noqa: PLR0913 - each is an option of the command
    manifest: Place,
    *,
    root: Place,
    config: Place | None = None,
    lanes: Sequence[str] | None = None,
    budget_usd: Decimal | float | None = None,
    limit: int | None = None,
    policy: Policy | None = None,
    finish_by: str | None = None,
    check: bool = False,
    strict: bool = False,
    trust_manifest: bool = False,
    take_over: bool = False,
    new_root: bool = False,
) -> RunResult:
    """Buy every clip of a manifest that its root does not have.

    The batch is a Prefect flow run: on the server that `PREFECT_API_URL` names, or on a
    temporary one. A row that fails does not raise: its state and reason are in `clips`.

    Args:
        manifest: a Parquet file, a folder of them or a pattern, one row per clip.
        root: where clips, tables and the ledger are kept; the same root never pays twice
            for a clip.
        config: path of nightreel.toml.
        lanes: names of lanes in it; all if None.
        budget_usd: no submit goes beyond this sum.
        limit: use only the first rows of the manifest.
        policy: cheapest, fastest or balanced; the configuration's if None.
        finish_by: "06:00" (the next one) or "2026-11-30T06:00": meet it at the least cost.
        check: ask every lane's provider first; buy nothing if something is wrong.
        strict: refuse the manifest if one row is bad.
        trust_manifest: let the manifest name any file of this machine and any address of
            its network; otherwise only files below its folder and the current one.
        take_over: fence out a run that seems to hold the root.
        new_root: begin a new root even where an earlier run on this machine found one.

    Raises:
        ManifestError, SettingsError, OpeningError, HeldError: before any money moves.
    """
    most_usd = budget(budget_usd)
    uri = public(place(fspath(manifest), "manifest"), "manifest")
    kept = place(fspath(root), "root")
    until = None if finish_by is None else _moment(finish_by)
    batch_run = await run_flow(
        _nothing,
        log.warning,
        manifest=uri,
        root=kept,
        config=None if config is None else fspath(config),
        lanes=None if lanes is None else list(lanes),
        budget_usd=None if most_usd is None else float(most_usd),
        limit=limit,
        policy=chosen(policy),
        finish_by=None if until is None else until.isoformat("T", "seconds"),
        check=check,
        strict=strict,
        trust_manifest=trust_manifest,
        stills_folder=str(Path.cwd()),
        take_over=take_over,
        new_root=new_root,
    )
    summary = batch_run.summary()
    objects = Objects.open(kept)
    return RunResult(
        summary=summary,
        root=kept,
        clips=await _table(objects, "clips", summary.batch),
        attempts=await _table(objects, "attempts", summary.batch),
        complaints=await _table(objects, "complaints", summary.batch),
    )


def check(
    manifest: Place,
    *,
    config: Place | None = None,
    lanes: Sequence[str] | None = None,
    stills: bool = True,
    trust_manifest: bool = False,
) -> CheckResult:
    """Validate every row of a manifest and, unless `stills` is false, every still.

    With `trust_manifest`, it may name any file of this machine and any address of its
    network; otherwise only files below its folder and the current one.

    Raises:
        ManifestError: the manifest cannot be read.
        SettingsError: the configuration cannot be used.
        OpeningError: the manifest is out of reach.
    """
    settings = _settings(config, lanes)
    uri = place(fspath(manifest), "manifest")
    found = _run(checked(settings, uri, stills=stills, trust=trust_manifest))
    return CheckResult(
        manifest=found.plan.uri,
        rows=found.plan.rows,
        jobs=found.plan.jobs,
        duplicates=found.duplicates,
        bad_rows=found.plan.bad_rows,
        complaints=found.plan.complaints,
        out_of_reach=found.out_of_reach,
    )


def plan(  # noqa: PLR0913 - each is an option of the command
    manifest: Place,
    *,
    root: Place | None = None,
    config: Place | None = None,
    lanes: Sequence[str] | None = None,
    policy: Policy | None = None,
    finish_by: str | None = None,
    trust_manifest: bool = False,
) -> PlanResult:
    """Forecast what the clips of a manifest cost and how long they take, by lane.

    With `root`, clips that it has are left out. `trust_manifest` is as for `check`.

    Raises:
        ManifestError: the manifest cannot be read.
        SettingsError: the configuration cannot be used.
        OpeningError: the manifest or the root is out of reach.
    """
    answer = _run(
        forecasted(
            _settings(config, lanes),
            place(fspath(manifest), "manifest"),
            policy=chosen(policy),
            until=None if finish_by is None else _moment(finish_by),
            root=None if root is None else fspath(root),
            trust=trust_manifest,
        )
    )
    return plan_result(answer)


def status(root: Place, *, config: Place | None = None) -> StatusResult:
    """Read a root's ledger: jobs, money, doubts, and clips that are still at providers.

    With `config`, the routes in it say how long a provider keeps a clip.

    Raises:
        OpeningError: there is no such root.
    """
    seen = _run(
        observed(fspath(root), config=None if config is None else Path(fspath(config)))
    )
    return status_result(seen)


def reconcile(  # noqa: PLR0913 - each is an option of the command
    root: Place,
    *,
    config: Place | None = None,
    lanes: Sequence[str] | None = None,
    resubmit: Sequence[str] = (),
    write_off: Sequence[str] = (),
    charged: Mapping[str, Decimal] | None = None,
    take_over: bool = False,
) -> ReconcileResult:
    """Ask the providers about submits in doubt, fetch ready clips, adjust the bill.

    Args:
        root: the root of earlier runs.
        config: path of nightreel.toml.
        lanes: names of lanes in it; all if None.
        resubmit: ids of jobs in doubt to buy again at your risk: you may pay twice.
        write_off: ids of jobs in doubt to count as charged and give up.
        charged: what the provider billed in the end, in USD, by job id.
        take_over: fence out a run that seems to hold the root.

    Raises:
        SettingsError: the configuration cannot be used.
        OpeningError: there is no such root.
        HeldError: a run holds the root.
    """
    decided = Decided(
        resubmit=frozenset(resubmit),
        write_off=frozenset(write_off),
        charged=dict(charged or {}),
    )
    told = _run(
        settled(
            _settings(config, lanes),
            existing(fspath(root)),
            decided,
            take_over=take_over,
        )
    )
    return reconcile_result(told)


def lanes(
    *, config: Place | None = None, lanes: Sequence[str] | None = None
) -> pl.DataFrame:
    """List the lanes in use: one row per lane and price.

    Columns: lane, route, provider, model, content, resolution, seconds, usd, slots,
    submits_per_minute, submits_per_day.

    Raises:
        SettingsError: the configuration cannot be used.
    """
    return lanes_frame(in_use(_settings(config, lanes)))


def _settings(config: Place | None, lanes: Sequence[str] | None) -> Settings:
    path = None if config is None else Path(fspath(config))
    return settings_of.load(path, lanes=lanes)


def _moment(text: str) -> datetime:
    return times.finish_by(text, datetime.now(times.local_zone()))


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine: in a thread where this one runs an event loop, as a notebook's."""
    if not _in_a_loop():
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def _in_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _nothing(_batch: BatchRun) -> None:
    """Watch no progress."""


async def _table(objects: Objects, name: str, batch: str) -> pl.DataFrame:
    key = layout.table(name, batch)
    data = await objects.get(key)
    with readable(objects.uri(key), DamagedError):
        return pl.read_parquet(io.BytesIO(data))
