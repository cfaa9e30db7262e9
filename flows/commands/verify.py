"""The command `verify`: finds published clips and sidecars that are gone or cut."""

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

import typer

from flows.commands.terminal import (
    Config,
    Json,
    LaneNames,
    chosen,
    opened,
    print_json,
    tell,
)
from flows.config import Settings
from flows.config import lanes as lanes_of
from tasks.engine.environment import REAL
from tasks.restore import Restored, restored
from tasks.verify import Verified, verified


def verify(  # noqa: PLR0913 - each is an option
    root: Annotated[str, typer.Argument(help="The URI of the root.")],
    *,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Download every clip, and compare its SHA-256."),
    ] = False,
    fetch: Annotated[
        bool,
        typer.Option(
            "--fetch",
            help="Fetch them again from their providers, free. Without it, nothing is changed.",
        ),
    ] = False,
    config: Config = None,
    lanes: LaneNames = None,
    as_json: Json = False,
) -> None:
    """Find published clips and sidecars that are gone or cut; with --fetch, fetch them again."""
    settings = chosen(config, lanes) if fetch else None
    told, again = asyncio.run(_verified(settings, root, deep=deep))
    if as_json:
        print_json(_plain(told, again))
    else:
        _say(told, again)
    whole = set[str]() if again is None else again.restored
    raise typer.Exit(0 if told.lives.keys() <= whole else 1)


async def _verified(
    settings: Settings | None, root: str, *, deep: bool
) -> tuple[Verified, Restored | None]:
    """Verify the clips; fetch them again if there are settings to do it with."""
    objects = await opened(root)
    told = await verified(objects, deep=deep)
    if settings is None:
        return told, None
    lanes = await lanes_of.opened(settings)
    return told, await restored(objects, told.lives, lanes, REAL)


def _plain(told: Verified, again: Restored | None) -> dict[str, Any]:
    return {
        "clips": told.clips,
        "bad": [asdict(one) for one in told.bad],
        "restored": None if again is None else sorted(again.restored),
        "lost": None if again is None else again.lost,
    }


def _say(told: Verified, again: Restored | None) -> None:
    for one in told.bad:
        place = f"; at {one.provider} it is {one.remote_id}" if one.remote_id else ""
        tell(f"{one.key}: {one.problem}{place}", "yellow")
    gone = f"{len(told.lives):,} of them gone, cut or changed"
    tell(f"{told.clips:,} clips published, {gone}")
    if again is None:
        return
    for job, reason in again.lost.items():
        tell(f"{job}: not fetched: {reason}", "yellow")
    if again.restored:
        tell(f"{len(again.restored):,} fetched again, at no cost")
    if again.lost:
        tell(f"{len(again.lost):,} not fetched: another `take` of a row buys it again")
