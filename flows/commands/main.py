"""The command line: `nightreel demo | check | plan | run | watch | status | …`.

What a program reads goes to stdout; what a person watches goes to stderr.
"""

import asyncio
import shlex
from collections.abc import Coroutine
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from flows.commands import check as check_command
from flows.commands import config as inforce
from flows.commands import (
    emulate,
    listen,
    pause,
    reconcile,
    repair,
    shard,
    status,
    verify,
    watch,
    worker,
)
from flows.commands import lanes as surveying
from flows.commands import plan as plan_command
from flows.commands.command import command, options
from flows.commands.run import run_batch
from flows.commands.terminal import (
    Config,
    Json,
    LaneNames,
    Manifest,
    NewRoot,
    PolicyName,
    Root,
    TrustManifest,
    budgeted,
    chosen,
    names,
    place,
    print_json,
    replace_unknown_characters,
    tell,
)
from flows.config import Settings
from flows.config import lanes as lanes_of
from flows.config import settings as settings_of
from flows.logs.streams import outlive_readers, outlive_terminal
from flows.views import times
from manifests.input import has_pairs, has_unknown_types, scan
from manifests.uris import is_several, scheme
from storage.objects import local_path
from storage.source_folders import files
from storage.sources import OpeningError
from tasks.batch.batch import BatchRun
from tasks.batch.request import public
from tasks.batch.summary import Summary

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.callback()(options)


def main() -> None:
    """The console script."""
    outlive_readers()
    replace_unknown_characters()
    settings_of.calm_prefect()
    app()


app.command()(command(check_command.check))
app.command()(command(plan_command.plan))
app.command()(command(status.status))
app.command()(command(surveying.lanes))
app.command()(command(listen.listen, service=True))
app.command()(command(reconcile.reconcile))
app.command()(command(repair.repair))
app.command()(command(verify.verify))
app.command()(command(watch.watch))
app.add_typer(inforce.app, name="config")
app.command()(command(pause.pause))
app.command()(command(pause.resume))
app.command()(command(emulate.emulate, service=True))
app.command()(command(shard.shard))
app.command()(command(worker.worker, service=True))


@app.command()
@command
def run(  # noqa: PLR0913 - each is an option
    manifest: Manifest,
    *,
    root: Root,
    config: Config = None,
    lanes: LaneNames = None,
    budget: Annotated[
        float | None,
        typer.Option(
            callback=budgeted,
            help="The most that this run may spend, in USD, 0 or more.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only the first rows of the manifest.")
    ] = None,
    policy: PolicyName = None,
    finish_by: Annotated[
        str | None,
        typer.Option(
            help="Finish by this time at the lowest cost: 06:00 (the next one), or 2026-11-30T06:00."
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Ask every provider first; buy nothing if a key, model, price or limit is wrong.",
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse the manifest if one row is bad.")
    ] = False,
    trust_manifest: TrustManifest = False,
    take_over: Annotated[
        bool,
        typer.Option("--take-over", help="Fence out a run that holds the root."),
    ] = False,
    new_root: NewRoot = False,
    as_json: Json = False,
) -> None:
    """Buy every clip of a manifest that the root does not have yet."""
    until = None if finish_by is None else _finish_by(finish_by)
    uri = public(place(manifest, "manifest"), "manifest")
    _refuse_at_once(chosen(config, lanes), uri)
    _run_to_its_end(
        run_batch(
            manifest=uri,
            root=place(root, "root"),
            config=None if config is None else str(config),
            lanes=names(lanes),
            budget_usd=budget,
            limit=limit,
            policy=policy,
            finish_by=until,
            check=check,
            strict=strict,
            trust_manifest=trust_manifest,
            stills_folder=str(Path.cwd()),
            take_over=take_over,
            new_root=new_root,
        ),
        root,
        as_json=as_json,
    )


@app.command()
@command
def demo(
    root: Annotated[Path, typer.Option(help="The folder for the clips.")] = Path(
        "nightreel-demo"
    ),
) -> None:
    """Run the example manifest on the emulator. Needs no account and no money."""
    from flows.commands.demo import emulated  # noqa: PLC0415 - only the demo needs a server

    with emulated(root) as (manifest, config):
        tell(f"emulated providers, example manifest: {manifest}")
        _run_to_its_end(
            # A root that was deleted is not away: emulated clips cost nothing.
            run_batch(
                manifest=manifest,
                root=place(str(root), "root"),
                config=str(config),
                new_root=True,
            ),
            str(root),
            f"clips: {root / 'clips'}\ntable: {root / 'tables'}",
        )


def _run_to_its_end(
    work: Coroutine[Any, Any, BatchRun],
    root: str,
    remark: str = "",
    *,
    as_json: bool = False,
) -> NoReturn:
    """Run a batch and print its summary, even if the terminal is closed meanwhile."""
    with outlive_terminal():
        summary = asyncio.run(work).summary()
        _say(summary, root, as_json=as_json)
        if remark:
            tell(remark)
    raise typer.Exit(summary.exit_code)


def _finish_by(text: str) -> str:
    """The deadline with its date and zone, so that it has one meaning later too."""
    try:
        then = times.finish_by(text, datetime.now(times.local_zone()))
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--finish-by") from exc
    return then.isoformat("T", "seconds")


def _refuse_at_once(settings: Settings, manifest: str) -> None:
    """Report obvious errors before Prefect is imported."""
    lanes_of.chosen(settings)
    for name, lane in settings.lanes.items():
        if lane.key.startswith("env:"):
            asyncio.run(lanes_of.key_of(name, lane))
    if scheme(manifest) == "file":
        if is_several(manifest):
            files(manifest)
            return
        path = local_path(manifest)
        if not path.is_file():
            raise OpeningError(f"{manifest}: no such file")
        if not (has_unknown_types(path) or has_pairs(path)):
            scan(path, manifest)


def _say(summary: Summary, root: str, *, as_json: bool) -> None:
    if as_json:
        print_json(summary.plain())
        return
    for name, why in summary.lanes_closed.items():
        tell(f"lane {name} closed: {why}", "yellow")
    for name, why in summary.lanes_dearer.items():
        tell(f"lane {name} is dearer: {why}", "yellow")
    for reason, jobs in summary.broken.items():
        tell(f"{jobs:,} broke off: {reason}", "yellow")
    if summary.fault is not None:
        tell(
            "nothing more is bought until Nightreel is mended: what is paid for is kept"
        )
    elif summary.short_of == "lanes":
        tell("no lane is left: mend what closed them, and run it again")
    if summary.short_of == "budget":
        tell("the budget is spent: run it again with a larger one")
    if summary.too_many_rejected:
        # Prefect reads the environment when it is imported: not before `calm_prefect`.
        from flows.dashboard import rejected_remark  # noqa: PLC0415

        tell(rejected_remark(summary), "yellow")
    if summary.in_doubt:
        tell(
            f"in doubt: `nightreel reconcile {shlex.quote(root)}` asks about what can be asked"
        )
    tell(f"{summary.batch}: {summary}; bought {summary.bought:,} in this run")
