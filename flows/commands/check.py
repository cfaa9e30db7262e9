"""`nightreel check`: validate a manifest and its stills; sends nothing."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import polars as pl
import typer

from flows.commands.terminal import (
    Config,
    Json,
    LaneNames,
    Manifest,
    TrustManifest,
    chosen,
    place,
    print_json,
    tell,
)
from flows.config import Settings
from flows.config import lanes as lanes_of
from manifests.input import Plan, validation
from tasks.batch.request import LookedAt, Wanted, looked_at, planned, refusal
from tasks.batch.summary import ExitCode


@dataclass(frozen=True, slots=True)
class Checked:
    """A manifest after validation."""

    plan: Plan
    looked: LookedAt | None = None
    """The result of the check of the stills, if they were checked."""

    @property
    def duplicates(self) -> int:
        """Rows that want a clip which another row wants too."""
        return self.plan.wanted.height - self.plan.jobs

    @property
    def out_of_reach(self) -> pl.DataFrame:
        """Complaints about the rows whose still could not be checked."""
        return validation.none() if self.looked is None else self.looked.away

    def plain(self) -> dict[str, Any]:
        """The answer as JSON values."""
        plan = self.plan
        return {
            "manifest": plan.uri,
            "rows": plan.rows,
            "jobs": plan.jobs,
            "duplicates": self.duplicates,
            "bad_rows": plan.bad_rows,
            "complaints": [*plan.complaints.iter_rows(named=True)],
            "out_of_reach": [*self.out_of_reach.iter_rows(named=True)],
        }


async def checked(
    settings: Settings, uri: str, *, stills: bool = True, trust: bool = False
) -> Checked:
    """Validate every row, and every still unless `stills` is false.

    Raises:
        ManifestError: the manifest cannot be read.
        OpeningError: the manifest is out of reach.
    """
    lanes = lanes_of.keyless(settings)
    with TemporaryDirectory(prefix="nightreel-") as name:
        folder = Path(name)
        wanted = Wanted(
            manifest=uri,
            root="",
            carry=settings.manifest.carry,
            convert_stills=settings.manifest.convert_stills,
            sources=lanes_of.sources(settings, trust=trust, folder=str(Path.cwd())),
        )
        plan = await asyncio.to_thread(planned, wanted, folder, lanes)
        if stills:
            looked = await looked_at(plan, wanted, folder, lanes)
            return Checked(looked.plan, looked)
    return Checked(plan)


def check(  # noqa: PLR0913 - each is an option
    manifest: Manifest,
    config: Config = None,
    lanes: LaneNames = None,
    *,
    stills: Annotated[bool, typer.Option(help="Read and check every still.")] = True,
    trust_manifest: TrustManifest = False,
    as_json: Json = False,
) -> None:
    """Validate a manifest and its stills. Sends nothing to a provider."""
    found = asyncio.run(
        checked(
            chosen(config, lanes),
            place(manifest, "manifest"),
            stills=stills,
            trust=trust_manifest,
        )
    )
    plan = found.plan
    unread = found.looked and found.looked.unread
    if as_json:
        print_json(found.plain())
    else:
        tell(f"{plan.uri}: {plan.rows:,} rows, {plan.jobs:,} clips")
        if found.duplicates:
            tell(f"{found.duplicates:,} rows want a clip that another row wants too")
        if plan.bad_rows:
            tell(refusal(plan), "red")
        if unread:
            tell(unread, "red")
    raise typer.Exit(ExitCode.BAD_INPUT if plan.bad_rows or unread else 0)
