"""The page that tells a batch in the Prefect UI, while it runs and when it is over.

The result and the money come first, with the forecast beside them. The lanes follow, then
why rows have no clip, and some of the clips.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flows.dashboard.markdown import bare, safe, table
from flows.dashboard.pages import NONE, lane_bills, seconds, total, usd_a_clip
from flows.dashboard.plan import Planned
from flows.dashboard.summary import late_warning, rejected_remark, unusual
from flows.views import clock, counted, halt_reason, lasting, left_s, shortened, span
from tasks.batch.batch import BatchRun
from tasks.batch.summary import Summary
from tasks.dispatch import Lane, dearest_bills, usd
from tasks.engine.charges import told_dearer
from tasks.engine.lane_costs import LaneBill
from tasks.engine.stats import WaitReason

COUNTED: Final = 50_000
"""The most jobs put aside for which the page still counts the doubts while it runs."""

REASONS: Final = 8
"""Reasons on the page; `nightreel-wrong` has more of them, and the stills."""

LaneState = Callable[[BatchRun, Lane], str]
"""Tells the state of a lane in a few words."""


@dataclass(slots=True)
class NightPage:
    """The page of one batch, and the parts of it that are known already."""

    batch_run: BatchRun
    planned: Planned | None = None
    without_clip: Sequence[Mapping[str, Any]] = ()
    """The rows of `wrong_table`."""
    posters: str = ""
    """Some of the clips, as HTML."""
    error: str | None = None
    """The name of the exception that ended the batch, if one did."""
    cancelled: bool = False
    """Whether the owner cancelled the run."""

    def live(self) -> str:
        """The page while the batch runs."""
        result = f"**Running**: {headline(self.batch_run)}."
        return self._page(result, _present, self._so_far())

    def over(self) -> str:
        """The page of a batch that is over, however it ended."""
        summary = self.batch_run.summary()
        parts = [_rows_by_state(summary), *self._causes(summary)]
        if summary.in_doubt:
            parts.append("## In doubt\n\n" + _ask_about_it(self.batch_run))
        if self.posters:
            more = "More of them are in `nightreel-contact-sheet`."
            parts.append(f"## Some of the clips\n\n{self.posters}\n\n{more}")
        return self._page(self._result(summary), _final, parts)

    def _page(self, result: str, state: LaneState, parts: Sequence[str]) -> str:
        batch_run = self.batch_run
        late = late_warning(batch_run)
        remarks = [f"{one}." for one in (late, *unusual(batch_run)) if one]
        head = [f"# {batch_run.batch}", result, self._money(), *remarks]
        lanes = [
            "## Lanes\n\n" + _lanes_table(batch_run, state),
            *_lane_remarks(batch_run),
        ]
        foot = f"Clips, tables and ledger are under `{bare(batch_run.wanted.root)}`."
        return "\n\n".join([*head, *lanes, *parts, foot]) + "\n"

    def _money(self) -> str:
        """The forecast, the purchases of this run and its limits, one below another."""
        batch_run = self.batch_run
        bought = total(line for _, line in batch_run.engine.tally.bill)
        rows: list[list[str]] = []
        if plan := self.planned:
            price = usd_a_clip(plan.usd / plan.clips if plan.clips else None)
            until = f"until {plan.until}" if plan.clips else NONE
            cells = [f"{plan.clips:,}", usd(plan.usd), price, until]
            rows.append(["planned", *cells])
        took = clock(batch_run.elapsed_s)
        each = usd_a_clip(bought.usd_a_clip)
        rows.append(["bought", f"{bought.clips:,}", usd(bought.usd), each, took])
        if (most := batch_run.wanted.budget_usd) is not None:
            rows.append(["budget", NONE, usd(most), NONE, NONE])
        parts = [table(["", "clips", "USD", "USD a clip", "time"], rows)]
        if plan and plan.deadline:
            parts.append(f"Deadline, as planned: {plan.deadline}.")
        return "\n\n".join(parts)

    def _so_far(self) -> list[str]:
        """The troubles at this moment, and the jobs that were put aside."""
        parts: list[str] = []
        now = self.batch_run.world.today()
        if troubles := self.batch_run.troubles:
            rows = [
                [
                    safe(trouble.lane or NONE),
                    str(trouble.stage),
                    lasting(trouble, now),
                    safe(shortened(trouble.reason)),
                ]
                for trouble in troubles
            ]
            header = ["lane", "stage", "how long", "why"]
            parts.append("## Trouble\n\n" + table(header, rows, words=4))
        return [*parts, *_put_aside(self.batch_run)]

    def _causes(self, summary: Summary) -> Iterator[str]:
        """Why rows have no clip, the commonest reason first."""
        if summary.broken:
            rows = [[safe(why), f"{jobs:,}"] for why, jobs in summary.broken.items()]
            yield "## Broken off\n\n" + table(["why", "jobs"], rows)
        if self.without_clip:
            header = ["rows", "state", "first", "why"]
            fields = ("how many", "state", "first rows", "why")
            first = self.without_clip[:REASONS]
            rows = [[safe(shortened(row[name])) for name in fields] for row in first]
            yield "## Without a clip\n\n" + table(header, rows, words=4)
            if len(self.without_clip) > REASONS:
                yield "More reasons, and the stills, are in `nightreel-wrong`."
        if clips := summary.differing:
            verb = "differs" if clips == 1 else "differ"
            yield (
                f"{counted(clips, 'clip')} {verb} from the order: `differs` in the table "
                "of clips says how."
            )
        if bad := self.batch_run.plan.bad_rows:
            verb = "is" if bad == 1 else "are"
            bad_rows = counted(bad, "row")
            yield f"{bad_rows} of the manifest {verb} bad: see `nightreel-complaints`."

    def _result(self, summary: Summary) -> str:
        if self.error is not None:
            return f"**The run failed**: {safe(self.error)}; the log says where."
        if why := self.batch_run.engine.stopped:
            left = f" {_rows(summary.pending)} pending." if summary.pending else ""
            told = "cancelled" if self.cancelled else safe(why)
            return f"**{told[:1].upper()}{told[1:]}**.{left}"
        return _outcome(summary)


def headline(batch_run: BatchRun) -> str:
    """The state of the batch in one line."""
    tally = batch_run.engine.tally
    done = f"{batch_run.done:,} of {batch_run.plan.jobs:,} done"
    if tally.rejected:
        done += f" ({tally.rejected:,} rejected)"
    parts = [done, f"{_spent(batch_run)} USD"]
    if halt := halt_reason(batch_run):
        parts.append(halt)
    elif (left := left_s(batch_run)) is not None:
        parts.append(f"{span(left)} left")
    return ", ".join(parts)


def _spent(batch_run: BatchRun) -> str:
    most, spent = batch_run.wanted.budget_usd, batch_run.engine.tally.budget.spent_usd
    return f"{spent:,.2f}" + ("" if most is None else f" of {most:,.2f}")


def _lanes_table(batch_run: BatchRun, state: LaneState) -> str:
    """The state of each lane, and its purchases in this run."""
    lanes = batch_run.engine.lanes
    rows: list[list[str]] = []
    for name, line in lane_bills(batch_run):
        lane = lanes.get(name)
        refused = lane.limiter.refused if lane else 0
        rows.append(
            [
                safe(name),
                state(batch_run, lane) if lane else NONE,
                f"{line.clips:,}",
                _without_clip(line),
                usd(line.usd),
                usd_a_clip(line.usd_a_clip),
                seconds(line.median_s),
                f"{refused:,}" if refused else NONE,
            ]
        )
    header = ["lane", "state", "clips", "no clip", "USD", "USD a clip", "takes", "429s"]
    return table(header, rows, words=2)


def _without_clip(line: LaneBill) -> str:
    charged = f" ({line.lost:,} charged)" if line.lost else ""
    count = line.free + line.lost
    return f"{count:,}{charged}" if count else NONE


def _present(batch_run: BatchRun, lane: Lane) -> str:
    """The state of a lane at this moment, in a few words."""
    if lane.closed:
        return "closed"
    at_work = f"{batch_run.at_work(lane):,} of {lane.limiter.slots:,} at work"
    if (rest := lane.rests.wait_s(batch_run.world.now())) > 0:
        return f"{at_work}, rests {rest:.0f} s"
    if lane.limiter.breaker.is_open:
        return f"{at_work}, fails: one try at a time"
    if lane.opens_in_s(batch_run.world.today()) > 0:
        return f"{at_work}, out of its hours"
    return at_work


def _final(_: BatchRun, lane: Lane) -> str:
    """The state in which a batch left a lane."""
    if lane.closed:
        return "closed"
    return "failed at the end" if lane.limiter.breaker.is_open else "open"


def _lane_remarks(batch_run: BatchRun) -> Iterator[str]:
    """Why lanes are closed, and how much dearer than their price lists others are."""
    lanes = batch_run.engine.lanes.all
    closed = {lane.name: lane.closed for lane in lanes if lane.closed}
    dearer = {name: told_dearer(bill) for name, bill in dearest_bills(lanes).items()}
    for title, reasons in (("Closed", closed), ("Dearer", dearer)):
        rows = [[safe(name), safe(why)] for name, why in reasons.items()]
        if rows:
            yield f"### {title}\n\n" + table(["lane", "why"], rows, words=2)


def _put_aside(batch_run: BatchRun) -> Iterator[str]:
    waiting_jobs = batch_run.engine.tally.waiting_jobs
    if not waiting_jobs:
        return
    remark = f"{len(waiting_jobs):,} put aside"
    if len(waiting_jobs) <= COUNTED:
        why = Counter(waiting.why for waiting in waiting_jobs.values())
        doubts = why[WaitReason.DOUBT]
        remark += f", {doubts:,} of them in doubt" if doubts else ""
    yield f"{remark}: this page says why at the end."


def _rows_by_state(summary: Summary) -> str:
    counts = {
        "rows": summary.rows,
        "clips": summary.published,
        "rejected": summary.rejected,
        "unplayable": summary.unplayable,
        "in doubt": summary.in_doubt,
        "pending": summary.pending,
    }
    return "## Rows\n\n" + table(
        [*counts], [[f"{n:,}" for n in counts.values()]], words=0
    )


def _outcome(summary: Summary) -> str:
    """The result in a sentence, and what the owner may do about it."""
    if summary.fault is not None:
        return f"**Nightreel itself failed**: {safe(summary.fault)}."
    if summary.short_of == "lanes":
        return "**No lane is left**: mend what closed them, and run the batch again."
    if summary.short_of == "budget":
        return "**The budget is spent**: run the batch again with a larger one."
    if summary.too_many_rejected:
        return f"**Too many rejected**: {rejected_remark(summary)}."
    if summary.in_doubt:
        return (
            f"**{_rows(summary.in_doubt)} in doubt**: what was submitted may have been "
            "charged, so it is not sent again."
        )
    if summary.pending:
        return f"**{_rows(summary.pending)} pending**: run the batch again."
    if summary.unplayable:
        return (
            f"**{_rows(summary.unplayable)} unplayable**: a paid file is no clip. It is "
            "kept, and is not bought again."
        )
    return "**Done**: every row has its clip, or is rejected for good."


def _rows(count: int) -> str:
    return "1 row is" if count == 1 else f"{count:,} rows are"


def _ask_about_it(batch_run: BatchRun) -> str:
    return (
        f"`nightreel reconcile {bare(batch_run.wanted.root)}` asks the providers that can be "
        "asked and fetches what they have. The rest is yours to decide: `--resubmit` "
        "may pay a second time, `--write-off` gives it up."
    )
