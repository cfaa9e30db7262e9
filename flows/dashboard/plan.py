"""The expected cost and time of a batch, shown in the Prefect UI before it buys."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from math import ceil
from typing import Final

from flows.dashboard.markdown import bare, safe, table
from flows.views import Answer, local_zone, moment
from tasks.batch.batch import BatchRun
from tasks.dispatch import usd
from tasks.forecast import Forecast, bounds, in_turn
from tasks.forecast.forecast import forecast

PLAYED: Final = 50_000
"""The most jobs that are simulated, which takes a second; of a larger batch, a
proportional sample of each kind."""


@dataclass(frozen=True, slots=True)
class Planned:
    """The forecast of a batch before it buys."""

    page: str
    note: str
    """The page in a line."""
    clips: int
    usd: Decimal
    until: str
    """The local time at which the last clip is expected."""
    deadline: str | None
    """How that compares with the deadline, if there is one."""


def planned(batch_run: BatchRun) -> Planned:
    """Reckon the cost and the time of a batch."""
    now, kinds = datetime.now(local_zone()), batch_run.demand()
    by, jobs = batch_run.wanted.finish_at, sum(kinds.values())
    times = max(1.0, jobs / PLAYED)
    told = forecast(
        in_turn({kind: ceil(count / times) for kind, count in kinds.items()}),
        batch_run.engine.lanes.all,
        policy=batch_run.wanted.policy,
        within_s=None if by is None else (by - now.timestamp()) / times,
        at=now.timestamp(),
    )
    answer = Answer(
        read=batch_run.plan,
        told=told if times == 1 else _larger(told, times),
        owned=batch_run.plan.jobs - jobs,
        policy=batch_run.wanted.policy,
        now=now,
        by=None if by is None else datetime.fromtimestamp(by, now.tzinfo),
    )
    page = _page(answer, bounds(kinds, batch_run.engine.lanes.all), batch_run)
    if times > 1:
        page += f"\nPlayed with {PLAYED:,} jobs like these: all of it is about so.\n"
    told = answer.told
    return Planned(
        page,
        # The cost first: the card of an artifact has room for few words.
        f"{told.cost_usd:,.2f} USD for {answer.heading()}",
        told.jobs,
        told.cost_usd,
        moment(answer.after(told.seconds), now),
        answer.deadline(),
    )


def _larger(told: Forecast, times: float) -> Forecast:
    """The forecast scaled to `times` as many jobs, approximately."""
    return replace(
        told,
        shares=[
            replace(
                share,
                jobs=round(share.jobs * times),
                cost_usd=round(share.cost_usd * Decimal(times), 2),
                seconds=share.seconds * times,
            )
            for share in told.shares
        ],
        unserved=round(told.unserved * times),
        late=round(told.late * times),
    )


def _page(answer: Answer, bounds: tuple[Decimal, Decimal], batch_run: BatchRun) -> str:
    read, told = answer.read, answer.told
    least, most = bounds
    states = batch_run.states()
    header = ["rows", "clips wanted", "there already", "to buy", "bad rows"]
    counts = [read.rows, read.jobs, states["published"], told.jobs, read.bad_rows]
    parts = [table(header, [[f"{n:,}" for n in counts]], words=0)]
    shares = [[safe(share.lane), *answer.cells(share)] for share in told.shares]
    shares.append(["**all**", *answer.cells(answer.all)])
    parts.append(table(["lane", "clips", "USD", "takes", "until"], shares))
    if least != most:
        parts.append(
            f"Whichever lanes make them, {least:,.2f} to {most:,.2f} USD, and what "
            "fails and is charged."
        )
    parts += [f"{words}." for words, _ in answer.remarks()]
    parts += [f"{words}." for words in _walls(answer, batch_run)]
    parts.append(f"Manifest `{bare(read.uri)}`, root `{bare(batch_run.wanted.root)}`.")
    return "\n\n".join(parts) + "\n"


def _walls(answer: Answer, batch_run: BatchRun) -> Iterator[str]:
    cost, budget = answer.told.cost_usd, batch_run.wanted.budget_usd
    if budget is None:
        yield "No budget: nothing but the lanes' own caps ends the buying"
    elif budget < cost:
        yield f"**The budget of {usd(budget)} USD does not reach**: some will be left"
    else:
        yield f"The budget is {usd(budget)} USD"
