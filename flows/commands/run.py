"""The command `run`: buys every clip of a manifest that the root does not have yet."""

import asyncio
import shlex
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from flows.commands.batch_flow import run_batch
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
    deadline,
    names,
    place,
    print_json,
    tell,
)
from flows.config import Settings
from flows.config import lanes as lanes_of
from flows.logs.streams import outlive_terminal
from manifests.input import has_pairs, has_unknown_types, scan
from manifests.uris import is_several, scheme
from storage.objects import local_path
from storage.source_folders import files
from storage.sources import OpeningError
from tasks.batch.batch import BatchRun
from tasks.batch.request import public
from tasks.batch.summary import Summary


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
    until = None if finish_by is None else deadline(finish_by).isoformat("T", "seconds")
    uri = public(place(manifest, "manifest"), "manifest")
    _refuse_at_once(chosen(config, lanes), uri)
    run_to_its_end(
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


def run_to_its_end(
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
