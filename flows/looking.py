"""The commands that only look: check, plan and status send nothing that costs."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flows import lanes as lanes_of
from flows.terminal import (
    BAD_INPUT,
    Config,
    Json,
    LaneNames,
    Manifest,
    chosen,
    place,
    print_json,
    tell,
)
from manifests.lifecycle import History, State, fold
from manifests.places import scheme
from manifests.reading import Plan, orders
from storage import ledger
from storage.objects import Objects
from storage.opening import OpeningError
from storage.stores import local_path
from tasks.forecast import Forecast, forecast
from tasks.wanted import MANIFEST, Wanted, looked_at, planned, refusal


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


def plan(
    manifest: Manifest,
    config: Config = None,
    lanes: LaneNames = None,
    *,
    as_json: Json = False,
) -> None:
    """What it would cost and take, by lane; sends nothing."""
    on = lanes_of.keyless(chosen(config, lanes))
    uri = place(manifest)
    with TemporaryDirectory(prefix="nightreel-") as folder:
        read = planned(Wanted(manifest=uri, root=""), Path(folder), on)
        jobs = orders(Path(folder) / MANIFEST, uri, read.wanted, _kept_nowhere)
        told = forecast(jobs, on)
    if as_json:
        print_json(_forecast_plain(read, told))
        return
    Console(highlight=False).print(_forecast_table(read, told))
    if read.bad_rows:
        tell(refusal(read), "red")


def _forecast_plain(read: Plan, told: Forecast) -> dict[str, Any]:
    return {
        "rows": read.rows,
        "jobs": read.jobs,
        "bad_rows": read.bad_rows,
        "unserved": told.unserved,
        "cost_usd": float(told.cost_usd),
        "seconds": round(told.seconds),
        "lanes": [
            {
                "lane": share.lane,
                "jobs": share.jobs,
                "cost_usd": float(share.cost_usd),
                "seconds": round(share.seconds),
            }
            for share in told.shares
        ],
    }


def _forecast_table(read: Plan, told: Forecast) -> Table:
    table = Table("lane", "clips", "USD", "minutes", box=None)
    for share in told.shares:
        minutes = f"{share.seconds / 60:,.1f}"
        table.add_row(share.lane, f"{share.jobs:,}", f"{share.cost_usd:,.2f}", minutes)
    minutes = f"{told.seconds / 60:,.1f}"
    clips = f"{read.jobs - told.unserved:,}"
    table.add_row("all", clips, f"{told.cost_usd:,.2f}", minutes, style="bold")
    return table


def status(
    root: Annotated[str, typer.Argument(help="the root of a run")],
    *,
    as_json: Json = False,
) -> None:
    """What the ledger says."""
    uri = place(root)
    # Opened, a local root that is not there would be made.
    if scheme(uri) == "file" and not local_path(uri).is_dir():
        raise OpeningError(f"{uri}: no such folder")
    entries = asyncio.run(ledger.read(Objects.open(uri)))
    said = _ledger_says(fold(entries))
    if as_json:
        print_json(said)
        return
    table = Table(box=None, show_header=False)
    for name, value in said.items():
        if not isinstance(value, list):
            table.add_row(name.replace("_", " "), str(value))
    Console(highlight=False).print(table)
    for doubt in said["doubts"]:
        tell("in doubt: {job} on {lane} since {since}: {reason}".format(**doubt))


def _kept_nowhere(_sha256: str, _content: bytes) -> str:
    return ""


def _ledger_says(past: Mapping[str, History]) -> dict[str, Any]:
    states = Counter(history.state for history in past.values())
    waiting = {State.PENDING, State.ACCEPTED, State.GENERATED}
    return {
        "jobs": len(past),
        "published": states[State.PUBLISHED],
        "rejected": states[State.REJECTED],
        "in_doubt": states[State.IN_DOUBT],
        "pending": sum(states[state] for state in waiting),
        "at_providers": states[State.ACCEPTED] + states[State.GENERATED],
        "spent_usd": float(sum(history.spent_usd for history in past.values())),
        "doubts": [
            {
                "job": job,
                "lane": history.lane,
                "since": _utc(history.submitted_at),
                "price_usd": float(history.price_usd),
                "reason": history.reason or "its answer is not on record",
            }
            for job, history in past.items()
            if history.state is State.IN_DOUBT
        ],
    }


def _utc(at: float | None) -> str:
    return (
        "" if at is None else datetime.fromtimestamp(at, UTC).isoformat(" ", "seconds")
    )
