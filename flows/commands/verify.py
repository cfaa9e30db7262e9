"""The command `verify`: finds published clips and sidecars that are gone or cut."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer

from flows.commands.terminal import Json, opened, print_json, tell
from tasks.verify import Verified, verified


def verify(
    root: Annotated[str, typer.Argument(help="The URI of the root.")],
    *,
    deep: Annotated[
        bool,
        typer.Option("--deep", help="Download every clip, and compare its SHA-256."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Find published clips and sidecars that are gone or cut. Changes nothing."""
    told = asyncio.run(_verified(root, deep=deep))
    if as_json:
        print_json({"clips": told.clips, "bad": [asdict(one) for one in told.bad]})
    else:
        _say(told)
    raise typer.Exit(1 if told.bad else 0)


async def _verified(root: str, *, deep: bool) -> Verified:
    return await verified(await opened(root), deep=deep)


def _say(told: Verified) -> None:
    for one in told.bad:
        place = f"; at {one.provider} it is {one.remote_id}" if one.remote_id else ""
        tell(f"{one.key}: {one.problem}{place}", "yellow")
    jobs = len({one.job for one in told.bad})
    tell(f"{told.clips:,} clips published, {jobs:,} of them gone, cut or changed")
