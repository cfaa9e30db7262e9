"""The bill that the documentation computes, after every kind of end of a batch."""

import asyncio
import re
import shutil
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from flows.dashboard.pages import bill_table
from manifests.lifecycle import fold
from storage.ledger import read
from storage.objects import Objects
from tasks.emulator import Fault, running
from tasks.engine.engine import Rules
from tasks.reconcile import opened

pytestmark = pytest.mark.anyio

PAGE = Path(__file__).parents[2] / "docs/how-to/money.md"
KLING = "kling/kling-2.5-turbo"


@pytest.fixture
def world(worlds, emulator):
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=[KLING], slots=2)


def documented(root: Path) -> pl.DataFrame:
    """The attempts that the query of the documentation sums."""
    page = PAGE.read_text()
    (query,) = re.findall(r"```python\n(.*?tables/attempts.*?)```", page, re.DOTALL)
    names = {}
    exec(query.replace("reel/", f"{root}/"), names)
    return names["attempts"]


async def check(root: Path) -> pl.DataFrame:
    """The documented attempts; each has one row, and they cost what the ledger says."""
    attempts = documented(root)
    jobs = fold(await read(Objects.open(root.as_uri()))).values()
    assert attempts.select("job", "attempt").is_unique().all()
    assert attempts.height == sum(job.attempts for job in jobs)
    assert attempts["charged_usd"].sum() == sum(job.spent_usd for job in jobs)
    return attempts


def killed_copy(world, *, after: int):
    """A hook that copies the root, as a kill leaves it, after this many clips."""
    copy = world.folder / "killed"

    def during(batch_run):
        published = []

        def publish(*_):
            published.append(1)
            if len(published) == after:
                shutil.copytree(world.folder / "root", copy)

        batch_run.engine.on_published(publish)

    return copy, during


def stopped_after(seconds):
    """A hook that stops the run after all is done but a doubt."""

    def during(batch_run):
        loop = asyncio.get_running_loop()
        loop.call_later(seconds, batch_run.engine.stop, "stopped by a test")

    return during


async def reconciled(world, root: Path, *, take_over: bool = False) -> None:
    lanes = [world.lane(route) for route in world.routes]
    async with opened(
        root.as_uri(), lanes=lanes, rules=world.rules, take_over=take_over
    ) as reconciliation:
        await reconciliation.ask()
        await reconciliation.fetch()


async def test_bill_is_right_after_a_clean_end(world):
    summary = await world.run(4)

    attempts = await check(world.folder / "root")

    assert attempts["charged_usd"].sum() == summary.spent_usd == world.owed


async def test_bill_is_right_after_a_stop(world):
    """A run that is stopped leaves clips at the provider; the next run fetches them."""

    def stopped(batch_run):
        def stop(*_):
            batch_run.engine.stop("stopped by a test")

        batch_run.engine.on_published(stop)

    first = await world.run(8, during=stopped)
    between = (await check(world.folder / "root"))["charged_usd"].sum()
    second = await world.run(8)

    attempts = await check(world.folder / "root")
    assert between == first.spent_usd
    assert attempts["charged_usd"].sum() == world.owed
    assert first.spent_usd + second.spent_usd == world.owed
    assert set(attempts["outcome"]) == {"published"}


@pytest.mark.parametrize("heir", ["run", "reconcile"])
async def test_bill_is_right_after_a_kill(world, heir, caplog):
    """A killed batch leaves no table: the next run or a reconciliation writes it."""
    copy, during = killed_copy(world, after=3)
    await world.run(8, during=during)
    assert not (copy / "tables/attempts").exists()

    if heir == "run":
        await world.run(8, root=copy.as_uri(), take_over=True)
    else:
        await reconciled(world, copy, take_over=True)

    attempts = await check(copy)
    killed = [*copy.glob("tables/attempts/batch=000001-*/*.parquet")]
    assert "damaged" not in caplog.text
    assert pl.read_parquet(killed).height >= 3
    assert attempts["charged_usd"].sum() >= 3 * attempts["price_usd"][0]


async def test_bill_is_right_after_two_kills(world):
    """An attempt that one killed batch made and another one finished is counted once."""
    copy, during = killed_copy(world, after=1)
    await world.run(4, during=during)
    shutil.move(copy, world.folder / "once")
    copy, during = killed_copy(world, after=1)
    world.folder.joinpath("root").rename(world.folder / "first")
    shutil.copytree(world.folder / "once", world.folder / "root")
    await world.run(4, during=during, take_over=True)

    await world.run(4, root=copy.as_uri(), take_over=True)

    await check(copy)
    assert len([*copy.glob("tables/attempts/*/*.parquet")]) == 3


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [(Fault.LOSE_ANSWER, "published"), (Fault.ERROR_BEFORE, "refused")],
)
async def test_doubt_that_a_later_run_settles_is_counted_once(world, fault, outcome):
    """A later run settles a doubt: its row changes in the table of the first run."""
    world.rules = Rules(settle_s=3600.0)
    world.emulator.faults["pan 1"] = [fault]
    first = await world.run(3, during=stopped_after(1.0))
    doubted = await check(world.folder / "root")
    world.rules = Rules(settle_s=0.0)
    await world.run(3)

    attempts = await check(world.folder / "root")
    assert first.in_doubt == 1
    assert doubted["outcome"].to_list().count("in_doubt") == 1
    settled = attempts.join(
        doubted.filter(outcome="in_doubt"), on=["job", "attempt"], how="semi"
    )
    assert settled["outcome"].to_list() == [outcome]
    assert attempts["charged_usd"].sum() == world.owed > Decimal(0)


async def test_counts_mean_the_same_in_all_places(world):
    """Summary, bill, board and table agree, also about a doubt of an earlier run."""
    world.rules = Rules(settle_s=3600.0)
    world.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]
    world.emulator.faults["pan 2"] = [Fault.REFUSE_CONTENT]
    await world.run(3, during=stopped_after(1.0))
    world.rules = Rules(settle_s=0.0)

    summary = await world.run(6)

    for run, rejected in zip(world.batch_runs, (1, 0), strict=True):
        tables = world.folder / "root/tables"
        table = pl.read_parquet(tables / f"attempts/batch={run.batch}/part-0.parquet")
        (line,) = [line for _, line in run.engine.tally.bill]
        (row,) = bill_table(run)
        accepted = table["accepted_at"].count()
        # The second run settled one submit of the first, whose bill was closed by then.
        settled = run is world.batch_runs[0]
        assert run.summary().bought == line.accepted == accepted - settled
        assert table.height == line.submits == int(row["submits"])
        assert run.summary().spent_usd == line.usd == table["charged_usd"].sum()
        assert table["outcome"].to_list().count("rejected") == rejected
    assert (summary.published, summary.rejected) == (5, 1)
    assert str(summary).startswith("5 clips, 1 rejected, ")
    assert world.batch_runs[1].done == summary.published + summary.rejected


async def test_table_that_is_written_late_has_later_outcomes(world):
    """A table that is lost is written again, with what later runs did to its attempts."""
    copy, during = killed_copy(world, after=1)
    await world.run(6, during=during)
    await world.run(6, root=copy.as_uri(), take_over=True)
    for table in copy.glob("tables/attempts/batch=000001-*"):
        shutil.rmtree(table)

    await world.run(6, root=copy.as_uri())

    attempts = await check(copy)
    assert set(attempts["outcome"]) <= {"published", "refused"}
