"""`nightreel plan`: forecast cost and time by lane; sends nothing."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.console import Console

from flows.commands.terminal import (
    Config,
    Json,
    LaneNames,
    Manifest,
    PolicyName,
    TrustManifest,
    chosen,
    deadline,
    opened,
    place,
    print_json,
    tell,
)
from flows.config import Settings
from flows.config import lanes as lanes_of
from flows.views import Answer, local_zone
from manifests.input import orders
from manifests.job_keys import KEY
from manifests.lifecycle import State
from storage.ledger import StateIndex, recall
from tasks.batch.request import MANIFEST, Wanted, planned, refusal
from tasks.dispatch import Lane, Policy, recall_limits
from tasks.forecast import typical
from tasks.forecast.forecast import forecast


async def forecasted(  # noqa: PLR0913 - each has its default
    settings: Settings,
    uri: str,
    *,
    policy: Policy | None = None,
    until: datetime | None = None,
    root: str | None = None,
    trust: bool = False,
) -> Answer:
    """Forecast what the manifest's clips cost and how long they take.

    With `root`, clips that its ledger knows are left out, and limits and times that
    earlier batches learned are used.

    Raises:
        ManifestError: the manifest cannot be read.
        OpeningError: the manifest or the root is out of reach.
    """
    lanes = lanes_of.keyless(settings)
    now = datetime.now(local_zone())
    how = policy or (settings.engine.policy if until is None else "cheapest")
    known = await _recalled(root, lanes)
    with TemporaryDirectory(prefix="nightreel-") as folder:
        wanted = Wanted(
            manifest=uri,
            root="",
            carry=settings.manifest.carry,
            sources=lanes_of.sources(settings, trust=trust, folder=str(Path.cwd())),
        )
        read = await asyncio.to_thread(planned, wanted, Path(folder), lanes)
        todo = read.wanted.filter(
            known.states(read.wanted.select(*KEY)) == State.PENDING
        )
        told = await asyncio.to_thread(
            forecast,
            orders(Path(folder) / MANIFEST, uri, todo, _kept_nowhere),
            lanes,
            policy=how,
            within_s=None if until is None else until.timestamp() - now.timestamp(),
            typical_s=typical(known.latencies),
            at=now.timestamp(),
        )
    owned = read.jobs - told.jobs - told.unserved
    return Answer(read=read, told=told, owned=owned, policy=how, now=now, by=until)


def plan(  # noqa: PLR0913 - each is an option
    manifest: Manifest,
    config: Config = None,
    lanes: LaneNames = None,
    *,
    policy: PolicyName = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--finish-by",
            help="Finish by this time at the lowest cost: 06:00 (the next one), or 2026-11-30T06:00.",
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            help="Leave out jobs that this root has, and use its measured times and limits."
        ),
    ] = None,
    trust_manifest: TrustManifest = False,
    as_json: Json = False,
) -> None:
    """Compute cost and time by lane. Sends nothing to a provider."""
    until = None if by is None else deadline(by)
    answer = asyncio.run(
        forecasted(
            chosen(config, lanes),
            place(manifest, "manifest"),
            policy=policy,
            until=until,
            root=root,
            trust=trust_manifest,
        )
    )
    if as_json:
        print_json(answer.plain())
        return
    Console(highlight=False).print(answer.rendered())
    if answer.read.bad_rows:
        tell(refusal(answer.read), "red")


async def _recalled(root: str | None, lanes: Sequence[Lane]) -> StateIndex:
    """The state of every job below the root; the lanes take on the limits it learned."""
    if root is None:
        return StateIndex()
    objects = await opened(root)
    await recall_limits(lanes, objects, 0.0)
    return await recall(objects)


def _kept_nowhere(_sha256: str, _content: bytes) -> str:
    return ""
