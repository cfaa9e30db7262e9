"""The commands that look ahead: check and plan send nothing that costs."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from flows.commands.terminal import (
    BAD_INPUT,
    Config,
    Json,
    LaneNames,
    Manifest,
    chosen,
    existing,
    place,
    print_json,
    tell,
)
from flows.config import lanes as lanes_of
from flows.views.plan import Answer
from flows.views.times import Local, finish_by
from manifests.input.reader import orders
from manifests.job_keys import KEY
from manifests.lifecycle import State
from storage.ledger import segments
from storage.ledger.epoch_reader import recalled
from storage.ledger.state_index import Book
from storage.objects.client import Objects
from tasks.batch.request import MANIFEST, Wanted, looked_at, planned, refusal
from tasks.dispatch.eligibility import Policy
from tasks.dispatch.lanes import Lane
from tasks.dispatch.learned import recall_limits
from tasks.forecast.forecast import forecast, typical


def check(
    manifest: Manifest,
    config: Config = None,
    lanes: LaneNames = None,
    *,
    stills: Annotated[bool, typer.Option(help="read and look at each still")] = True,
    as_json: Json = False,
) -> None:
    """Is it good? Rows, duplicates, complaints; sends nothing."""
    on = lanes_of.keyless(chosen(config, lanes))
    uri = place(manifest)
    with TemporaryDirectory(prefix="nightreel-") as name:
        folder = Path(name)
        plan = planned(Wanted(manifest=uri, root=""), folder, on)
        if stills:
            plan = asyncio.run(looked_at(plan, uri, folder, on))
    twice = plan.wanted.height - plan.jobs
    if as_json:
        found = [*plan.complaints.iter_rows(named=True)]
        print_json(
            {
                "manifest": plan.uri,
                "rows": plan.rows,
                "jobs": plan.jobs,
                "duplicates": twice,
                "bad_rows": plan.bad_rows,
                "complaints": found,
            }
        )
    else:
        tell(f"{plan.uri}: {plan.rows:,} rows, {plan.jobs:,} clips")
        if twice:
            tell(f"{twice:,} rows want a clip that another row wants too")
        if plan.bad_rows:
            tell(refusal(plan), "red")
    raise typer.Exit(BAD_INPUT if plan.bad_rows else 0)


def plan(  # noqa: PLR0913 - each is an option
    manifest: Manifest,
    config: Config = None,
    lanes: LaneNames = None,
    *,
    policy: Annotated[
        Policy | None,
        typer.Option(help="else as the config says; with --finish-by, cheapest"),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option("--finish-by", help="HH:MM, the next one; or 2026-11-30T06:00"),
    ] = None,
    root: Annotated[
        str | None, typer.Option(help="leave out what it has; learn from its ledger")
    ] = None,
    as_json: Json = False,
) -> None:
    """What it would cost and take, by lane; sends nothing."""
    settings = chosen(config, lanes)
    on = lanes_of.keyless(settings)
    now, uri = datetime.now(Local()), place(manifest)
    until = None if by is None else _finish_by(by, now)
    how: Policy = policy or (settings.engine.policy if until is None else "cheapest")
    past = asyncio.run(_recalled(root, on))
    with TemporaryDirectory(prefix="nightreel-") as folder:
        read = planned(Wanted(manifest=uri, root=""), Path(folder), on)
        todo = read.wanted.filter(
            past.states(read.wanted.select(*KEY)) == State.PENDING
        )
        told = forecast(
            orders(Path(folder) / MANIFEST, uri, todo, _kept_nowhere),
            on,
            policy=how,
            within_s=None if until is None else until.timestamp() - now.timestamp(),
            typical_s=typical(past.latencies),
            at=now.timestamp(),
        )
    owned = read.jobs - told.jobs - told.unserved
    answer = Answer(read=read, told=told, owned=owned, policy=how, now=now, by=until)
    if as_json:
        print_json(answer.plain())
        return
    Console(highlight=False).print(answer.shown())
    if read.bad_rows:
        tell(refusal(read), "red")


def _finish_by(text: str, now: datetime) -> datetime:
    try:
        return finish_by(text, now)
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--finish-by") from exc


async def _recalled(root: str | None, lanes: Sequence[Lane]) -> Book:
    """What a root's ledger says; these lanes are told what it has taught of them."""
    if root is None:
        return Book()
    objects = Objects.open(existing(root))
    await recall_limits(lanes, objects, 0.0)
    return await recalled(objects, range(1, await segments.claimed(objects) + 1))


def _kept_nowhere(_sha256: str, _content: bytes) -> str:
    return ""
