"""The command `watch`: a batch for each manifest that lands, without a server."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.batch_flow import run_batch
from flows.commands.terminal import (
    Config,
    LaneNames,
    NewRoot,
    Root,
    TrustManifest,
    budgeted,
    chosen,
    existing,
    names,
    place,
    tell,
)
from flows.config import lanes as lanes_of
from flows.config import seconds
from manifests.input import ManifestError
from storage.inbox import PARQUET, SETTLE_S, Drop
from storage.ledger import HeldError
from storage.objects import StorageError, UnavailableError
from storage.sources import OpeningError
from tasks.batch.summary import ExitCode

if TYPE_CHECKING:
    from flows.prefect_runtime import Watch

BY = "nightreel watch"
"""The name under which every `watch` process takes a manifest, so that the next process can
continue it."""

NOT_NOW = (OpeningError, StorageError)


def watch(  # noqa: PLR0913 - each is an option
    inbox: Annotated[
        str, typer.Argument(help="The URI that is watched for manifests.")
    ],
    *,
    root: Root,
    config: Config = None,
    lanes: LaneNames = None,
    budget: Annotated[
        float | None,
        typer.Option(
            callback=budgeted,
            help="The most that each batch may spend, in USD, 0 or more.",
        ),
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse a manifest if one row is bad.")
    ] = False,
    pattern: Annotated[
        str, typer.Option(help="The pattern of a manifest's name.")
    ] = PARQUET,
    settle: Annotated[
        float,
        typer.Option(min=0, help="The seconds that a manifest must stay unchanged."),
    ] = SETTLE_S,
    marked: Annotated[
        bool,
        typer.Option(
            "--marked",
            help="Run only manifests with a _SUCCESS or NAME.ready beside them, at once.",
        ),
    ] = False,
    every: Annotated[
        float, typer.Option(min=1, help="The seconds between two looks.")
    ] = SETTLE_S,
    once: Annotated[
        bool,
        typer.Option("--once", help="Process the manifests that are there, then exit."),
    ] = False,
    trust_manifest: TrustManifest = False,
    new_root: NewRoot = False,
) -> None:
    """Run a batch for each manifest that appears in an inbox, one after the other."""
    seconds("--settle", settle)
    seconds("--every", every)
    # Prefect reads the environment when it is imported: not before `calm_prefect`.
    from flows.prefect_runtime import Watch  # noqa: PLC0415

    at = asyncio.run(
        Watch.open(
            existing(inbox, "inbox"),
            place(root, "root"),
            pattern=pattern,
            marked=marked,
            new_root=new_root or None,
        )
    )
    # Report a lane without its key now, not when a manifest lands.
    asyncio.run(lanes_of.opened(chosen(config, lanes)))
    asked = {
        "root": at.root,
        "config": None if config is None else str(config),
        "lanes": names(lanes),
        "budget_usd": budget,
        "strict": strict,
        "trust_manifest": trust_manifest,
    }
    keeper = _Keeper(at, asked)
    raise typer.Exit(asyncio.run(keeper.keep(settle, every_s=None if once else every)))


class _Keeper:
    """Watches the inbox, and runs a batch for each manifest that lands."""

    def __init__(self, at: "Watch", asked: dict[str, Any]) -> None:
        from flows.prefect_runtime import Retries  # noqa: PLC0415 - as above

        self._at = at
        self._asked = asked
        self._retries = Retries()
        self._stopped = False
        self._terminal_closed = asyncio.Event()
        self._code = 0

    async def keep(self, settle_s: float, *, every_s: float | None) -> int:
        """Run batches until stopped; returns the worst exit code.

        A closed terminal ends the watching, after the batch under way.
        """
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            asyncio.get_running_loop().add_signal_handler(
                signal.SIGHUP, self._terminal_closed.set
            )
        tell(f"watching {self._at.inbox.objects.root} for {self._at.root}")
        for drops in (self._left(), self._landed(settle_s)):
            if not self._stopped:
                await self._see_to(drops)
        while every_s is not None and not await self._ends_within(every_s):
            try:
                await self._see_to(self._left())
                if not self._stopped:
                    await self._see_to(self._landed(settle_s))
            except UnavailableError as exc:
                tell(f"{exc}: looked at again", "yellow")
        return self._code

    async def _ends_within(self, seconds: float) -> bool:
        """Wait for the next look; whether there is none."""
        if not self._stopped:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._terminal_closed.wait(), seconds)
        return self._stopped or self._terminal_closed.is_set()

    async def _left(self) -> AsyncIterator[Drop]:
        """Manifests that an earlier `watch` process has begun and not finished."""
        standing = await self._at.register.standing()
        for drop in await self._at.inbox.drops():
            begun = drop.digest in standing.taken
            if begun and drop.digest not in standing.over and await self._take(drop):
                yield drop

    async def _landed(self, settle_s: float) -> AsyncIterator[Drop]:
        due = [x for x in await self._at.untaken() if self._retries.is_due(x)]
        for drop in await self._at.inbox.whole(due, settle_s):
            if await self._take(drop):
                tell(f"{drop.uri}: landed, {drop.size:,} bytes")
                yield drop

    async def _take(self, drop: Drop) -> bool:
        by = await self._at.register.take(drop.uri, drop.version, BY)
        return by is None

    async def _see_to(self, drops: AsyncIterator[Drop]) -> None:
        async for drop in drops:
            self._code = max(self._code, await self._run(drop))
            if self._stopped:
                return

    async def _run(self, drop: Drop) -> int:
        try:
            batch_run = await run_batch(manifest=drop.uri, **self._asked)
        except ManifestError as exc:
            tell(f"{exc}\nlooked at again when it changes", "red")
            await self._at.register.close(drop)
            return ExitCode.BAD_INPUT
        except HeldError as exc:
            # Another `watch` process may be running this manifest: do not give it back.
            tell(f"{exc}\nlooked at again", "yellow")
            return ExitCode.BAD_INPUT
        except NOT_NOW as exc:
            tell(f"{exc}\nbegun again later", "yellow")
            self._retries.failed(drop)
            await self._at.register.give_back(drop.uri, drop.version)
            return (
                ExitCode.BAD_INPUT
                if isinstance(exc, OpeningError)
                else ExitCode.UNFINISHED
            )
        tell(f"{batch_run.batch}: {batch_run.summary()}")
        self._stopped = (
            batch_run.engine.stopped is not None or self._terminal_closed.is_set()
        )
        if not batch_run.cut_short:
            await self._at.register.close(drop)
        return batch_run.summary().exit_code
