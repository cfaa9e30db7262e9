"""`nightreel shard`: run one shard of a batch whose shards run in other processes."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.terminal import (
    Config,
    LaneNames,
    TrustManifest,
    names,
    place,
    tell,
)
from flows.logs.streams import outlive_terminal
from storage.ledger import FencedError


def shard(  # noqa: PLR0913 - each is an option
    root: Annotated[str, typer.Argument(help="The root of the batch.")],
    *,
    batch: Annotated[
        str, typer.Option(help="The name of the batch, such as 000003-portraits.")
    ],
    number: Annotated[
        int, typer.Option("--shard", min=0, help="The number of the shard.")
    ],
    config: Config = None,
    lanes: LaneNames = None,
    trust_manifest: TrustManifest = False,
) -> None:
    """Run one shard of a batch whose shards run in other processes."""
    # Prefect reads the environment when it is imported: not before `calm_prefect`.
    from flows.prefect_runtime import described, gently, run_configured_shard  # noqa: PLC0415

    try:
        with outlive_terminal():
            report = asyncio.run(
                run_configured_shard(
                    root=place(root, "root"),
                    batch=batch,
                    shard=number,
                    config=None if config is None else str(config),
                    lanes=names(lanes),
                    trust_manifest=trust_manifest,
                    stills_folder=str(Path.cwd()),
                    gently=gently,
                )
            )
    except FencedError as exc:
        tell(str(exc))
        raise typer.Exit(1) from exc
    tell(f"shard {number} of {batch}: {described(report)}")
