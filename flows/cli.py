"""The command line: `nightreel demo | check | plan | run | status | emulate`.

What a program reads goes to stdout; what a person watches goes to stderr.
"""

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, cast
from urllib.parse import quote

import typer
from rich.console import Console
from rich.table import Table

from flows import lanes as lanes_of
from flows import settings as settings_of
from flows.progress import show
from flows.settings import Settings, SettingsError
from manifests.columns import scan
from manifests.lifecycle import History, State, fold
from manifests.places import absolute, scheme
from manifests.reading import ManifestError, orders
from storage import ledger
from storage.errors import StorageError, UnavailableError
from storage.ledger import HeldError
from storage.objects import Objects
from storage.opening import OpeningError
from storage.stores import local_path
from tasks.forecast import forecast
from tasks.night import (
    MANIFEST,
    WATCHER,
    Night,
    Summary,
    Wanted,
    looked_at,
    planned,
    refusal,
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Stills in, paid-once clips out.",
)

err = Console(stderr=True, highlight=False)

Manifest = Annotated[str, typer.Argument(help="URI of a Parquet file, a row per clip")]
Root = Annotated[str, typer.Option(help="URI that clips, tables and ledger go under")]
Config = Annotated[
    Path | None, typer.Option(help="nightreel.toml; ./nightreel.toml if not given")
]
LaneNames = Annotated[str | None, typer.Option("--lanes", help="only these lanes: a,b")]
Json = Annotated[bool, typer.Option("--json", help="one JSON object on stdout")]

BAD_INPUT = 2
"""Exit code: a bad manifest, configuration or usage."""

CANNOT_KEEP = 1
"""Exit code: something is left to do, here because the store would not have it."""

_REFUSED = (ManifestError, SettingsError, OpeningError, HeldError)


def main() -> None:
    """The console script."""
    settings_of.calm_prefect()
    try:
        app()
    except _REFUSED as exc:
        tell(str(exc), "red")
        sys.exit(BAD_INPUT)
    except StorageError as exc:
        tell(str(exc), "red")
        sys.exit(CANNOT_KEEP)


@app.command()
def run(  # noqa: PLR0913 - each is an option
    manifest: Manifest,
    *,
    root: Root,
    config: Config = None,
    lanes: LaneNames = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="USD; a wall, never gone beyond")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="only the first rows")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="one bad row refuses the lot")
    ] = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="shut out a run that seems to be at work"),
    ] = False,
    as_json: Json = False,
) -> None:
    """Buy every clip of a manifest that its root does not already have."""
    uri = _place(manifest)
    _refuse_at_once(_settings(config, lanes), uri)
    summary = asyncio.run(
        _run(
            manifest=uri,
            root=_place(root),
            config=None if config is None else str(config),
            lanes=_names(lanes),
            budget_usd=budget,
            limit=limit,
            strict=strict,
            take_over=take_over,
        )
    )
    _say(summary, as_json=as_json)
    raise typer.Exit(summary.exit_code)


@app.command()
def demo(
    root: Annotated[Path, typer.Option(help="where the clips go")] = Path(
        "nightreel-demo"
    ),
) -> None:
    """Run the example manifest on the built-in emulator: no account, no money."""
    from flows.demo import emulated  # noqa: PLC0415 - only the demo needs a server

    with emulated(root) as (manifest, config):
        tell(f"emulated providers, example manifest: {manifest}")
        summary = asyncio.run(
            _run(manifest=manifest, root=_place(str(root)), config=str(config))
        )
    _say(summary, as_json=False)
    tell(f"clips: {root / 'clips'}\ntable: {root / 'tables'}")
    raise typer.Exit(summary.exit_code)


@app.command()
def check(
    manifest: Manifest,
    config: Config = None,
    lanes: LaneNames = None,
    *,
    stills: Annotated[bool, typer.Option(help="read and look at each still")] = True,
    as_json: Json = False,
) -> None:
    """Is it good? Rows, duplicates, complaints; sends nothing."""
    on = lanes_of.keyless(_settings(config, lanes))
    uri = _place(manifest)
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


@app.command()
def plan(
    manifest: Manifest,
    config: Config = None,
    lanes: LaneNames = None,
    *,
    as_json: Json = False,
) -> None:
    """What it would cost and take, by lane; sends nothing."""
    on = lanes_of.keyless(_settings(config, lanes))
    uri = _place(manifest)
    with TemporaryDirectory(prefix="nightreel-") as folder:
        read = planned(Wanted(manifest=uri, root=""), Path(folder), on)
        jobs = orders(Path(folder) / MANIFEST, uri, read.wanted, _kept_nowhere)
        told = forecast(jobs, on)
    if as_json:
        print_json(
            {
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
        )
        return
    table = Table("lane", "clips", "USD", "minutes", box=None)
    for share in told.shares:
        minutes = f"{share.seconds / 60:,.1f}"
        table.add_row(share.lane, f"{share.jobs:,}", f"{share.cost_usd:,.2f}", minutes)
    table.add_section()
    table.add_row(
        "all",
        f"{read.jobs - told.unserved:,}",
        f"{told.cost_usd:,.2f}",
        f"{told.seconds / 60:,.1f}",
    )
    Console(highlight=False).print(table)
    if read.bad_rows:
        tell(refusal(read), "red")


@app.command()
def status(
    root: Annotated[str, typer.Argument(help="the root of a run")],
    *,
    as_json: Json = False,
) -> None:
    """What the ledger says."""
    uri = _place(root)
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


@app.command()
def emulate(  # noqa: PLR0913 - each is a knob
    *,
    port: Annotated[int, typer.Option(help="on 127.0.0.1")] = 8400,
    latency: Annotated[str, typer.Option(help="of a clip: 60s, 500ms, 2m")] = "60s",
    jitter: Annotated[float, typer.Option(min=0, max=1, help="share of it")] = 0.0,
    faults: Annotated[
        str, typer.Option(help="chances: lose_answer=0.02,throttle=0.1")
    ] = "",
    seed: Annotated[int, typer.Option(help="of the chances")] = 0,
    slots: Annotated[int | None, typer.Option(min=1, help="clips at once")] = None,
    submits_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    clip: Annotated[
        Path | None, typer.Option(help="serve this MP4 for every job")
    ] = None,
) -> None:
    """Serve the emulated providers, with a bill at /bill and counts at /stats."""
    from tasks import emulator  # noqa: PLC0415 - no other command needs a server

    try:
        emulator.run(
            port=port,
            latency=emulator.parse_latency(latency),
            jitter=jitter,
            faults=emulator.parse_faults(faults),
            seed=seed,
            slots=slots,
            submits_per_minute=submits_per_minute,
            clip=clip,
            started=lambda url: tell(_served(url)),
        )
    except (OSError, ValueError) as exc:
        raise typer.BadParameter(str(exc)) from exc


def _served(url: str) -> str:
    lines = [
        f"base_url = {f'{url}/{name}'!r}" for name in ("wavespeed", "atlas", "fal")
    ]
    return "\n".join([*lines, f"bill: {url}/bill, counts: {url}/stats"])


async def _run(**parameters: Any) -> Summary:
    """Run the batch flow here, shown at the terminal, stopped by Ctrl-C or SIGTERM."""
    from flows.batch import batch  # noqa: PLC0415 - Prefect takes a second to import

    nights: list[Night] = []
    showing: list[asyncio.Task[None]] = []

    def begun(night: Night) -> None:
        nights.append(night)
        showing.append(asyncio.create_task(show(night, err)))
        for sign in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(
                sign, night.engine.stop, f"stopped by {sign.name}"
            )

    watching = WATCHER.set(begun)
    try:
        # Prefect's types know no asynchronous flow that returns its state.
        state: Any = await cast("Any", batch)(**parameters, return_state=True)
    finally:
        WATCHER.reset(watching)
        for task in showing:
            task.cancel()
        await asyncio.gather(*showing, return_exceptions=True)
    if nights and nights[0].over:
        return nights[0].summary()
    failure: Any = await state.aresult(raise_on_failure=False)
    if isinstance(failure, StorageError) and not (
        nights or isinstance(failure, UnavailableError)
    ):
        raise OpeningError(str(failure)) from failure
    raise failure if isinstance(failure, BaseException) else RuntimeError(state.message)


def _refuse_at_once(settings: Settings, manifest: str) -> None:
    """What is wrong at a glance is told without waiting for Prefect."""
    lanes_of.chosen(settings)
    for name, lane in settings.lanes.items():
        if lane.key.startswith("env:"):
            asyncio.run(settings_of.resolve_key(lane.key, lane=name))
    if scheme(manifest) == "file":
        path = local_path(manifest)
        if not path.is_file():
            raise OpeningError(f"{manifest}: no such file")
        scan(path, manifest)


def _kept_nowhere(_sha256: str, _content: bytes) -> str:
    return ""


def _settings(config: Path | None, lanes: str | None) -> Settings:
    return settings_of.load(config, lanes=_names(lanes))


def _names(lanes: str | None) -> list[str] | None:
    return None if lanes is None else [name.strip() for name in lanes.split(",")]


def _place(uri: str) -> str:
    """A URI that means the same whatever folder a worker runs in."""
    named = uri if scheme(uri) else quote(uri)
    return absolute(named, f"{Path.cwd().as_uri()}/")


def _say(summary: Summary, *, as_json: bool) -> None:
    if as_json:
        print_json(summary.plain())
        return
    for name, why in summary.lanes_closed.items():
        tell(f"lane {name} closed: {why}", "yellow")
    if summary.short_of == "lanes":
        tell("no lane is left: mend what closed them, and run it again")
    if summary.short_of == "budget":
        tell("the budget is spent: run it again with a larger one")
    tell(f"{summary.batch}: {summary}; bought {summary.bought:,} in this run")


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


def tell(said: str, style: str | None = None) -> None:
    """Say it on stderr as it is: nobody's brackets are markup, and no line is broken."""
    err.print(said, style=style, markup=False, soft_wrap=True)


def print_json(what: Any) -> None:
    """One object on stdout, and nothing else."""
    sys.stdout.write(json.dumps(what, ensure_ascii=False) + "\n")
