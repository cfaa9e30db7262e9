"""The rows of a batch and their present states.

The states of any number of rows are looked up by their keys, in slices. No row is a Python
object here.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from manifests.input import Plan, todo
from manifests.job_keys import KEY, held, ids, keys
from manifests.lifecycle import OVER, State
from manifests.reasons import alike, unnamed
from storage.ledger import Ledger
from tasks.engine.stats import FIRST, UNANSWERED, Tally, WaitReason
from tasks.engine.trouble import Trouble

UNTOLD = "not its turn yet"
PASSED_OVER: Final[Mapping[WaitReason, str]] = {
    WaitReason.BUDGET: "the budget is spent",
    WaitReason.NO_LANE: "every lane is closed",
    WaitReason.STOPPED: "the run was stopped",
    WaitReason.FAULT: "Nightreel itself failed",
}
"""The reasons for jobs that were passed over, because nothing could be bought any more."""

TROUBLES: Final = 2
"""Troubles, the oldest first, that are named for jobs whose turn did not come."""

_SLICE = 1_000_000


@dataclass(slots=True)
class ReasonGroup:
    """Jobs in one state whose reasons differ only in names and quantities."""

    state: str
    reason: str
    """The reason of the first of them."""
    jobs: int = 0
    ids: list[str] = field(default_factory=list[str])
    """The first few jobs, where their ids are known."""
    rows: list[int] = field(default_factory=list[int])
    """The first few rows of the manifest."""


@dataclass(frozen=True, slots=True)
class Reasons:
    """Why jobs have no clip, by state and reason."""

    jobs: Counter[tuple[str, str]] = field(default_factory=Counter[tuple[str, str]])
    rows: defaultdict[tuple[str, str], list[int]] = field(
        default_factory=lambda: defaultdict[tuple[str, str], list[int]](list)
    )
    """By state and reason: the first few rows of the manifest."""
    ids: defaultdict[tuple[str, str], list[str]] = field(
        default_factory=lambda: defaultdict[tuple[str, str], list[str]](list)
    )
    """By state and reason: the first few jobs."""

    def add(self, state: str, reason: str, row: int, job: str) -> None:
        self.jobs[state, reason] += 1
        if len(rows := self.rows[state, reason]) < FIRST:
            rows.append(row)
            self.ids[state, reason].append(job)

    def groups(self) -> list[ReasonGroup]:
        """The jobs by state and like reasons, the largest group first."""
        found: dict[tuple[str, str], ReasonGroup] = {}
        for (state, reason), count in self.jobs.items():
            key = state, alike(reason)
            if (group := found.get(key)) is None:
                group = found[key] = ReasonGroup(state, reason)
            else:
                # The name of the first one's still is no part of the reason of all.
                group.reason = unnamed(group.reason)
            group.jobs += count
            group.ids = [*group.ids, *self.ids.get((state, reason), [])][:FIRST]
            rows = [*group.rows, *self.rows.get((state, reason), [])]
            group.rows = sorted(rows)[:FIRST]
        return sorted(found.values(), key=lambda group: -group.jobs)


class Rows:
    """A plan's rows, with their states from the ledger."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self.plan = plan
        self._ledger = ledger

    def of(self, jobs: Collection[str]) -> pl.DataFrame:
        """The part of the plan for those of these jobs that are in it."""
        return held(self.plan.wanted, keys(sorted({*jobs}))).filter("first")

    def among(self, jobs: Collection[str]) -> set[str]:
        """Which of these jobs are in the plan."""
        return {*ids(held(self.plan.wanted, keys(jobs)))}

    def states(self, tally: Tally, *, jobs: bool = False) -> Counter[str]:
        """How many rows, or jobs, are in each of the five states of a summary."""
        counts = Counter[str]()
        wanted = self.plan.wanted.filter("first") if jobs else self.plan.wanted
        for of in self._sliced(wanted):
            for state, count in of.value_counts().iter_rows():
                counts[_summed(State(state))] += count
        # No provider would take the still: these rows are rejected for good.
        unfit = [
            job
            for job, waiting in tally.waiting_jobs.items()
            if waiting.why is WaitReason.STILL
        ]
        struck = held(wanted, keys(unfit)).height
        counts["pending"] -= struck
        counts["rejected"] += struck
        return +counts

    def without_clip(self, tally: Tally, troubles: Sequence[Trouble] = ()) -> Reasons:
        """How many jobs have no clip, by state and reason, and which rows first.

        Jobs whose turn did not come waited for the `troubles`.
        """
        why = self._reasons(
            self._ledger.lives.keys() | tally.waiting_jobs.keys(), tally
        )
        for reason, count in tally.refusals.items():
            why.jobs["rejected", reason] += count
            first = tally.refused_first.get(reason, [])
            for job, row in self._rows_of(first):
                why.rows["rejected", reason].append(row)
                why.ids["rejected", reason].append(job)
        self._add_untold(why.jobs, tally, troubles)
        return why

    def put_aside(self, tally: Tally) -> Reasons:
        """The same of the jobs that wait for another run or a person, while the batch runs."""
        return self._reasons(tally.waiting_jobs.keys(), tally)

    def unbought(self, tally: Tally) -> int:
        """How many jobs were never submitted, and may be."""
        pending = todo(self.plan, self._ledger.states, among={State.PENDING}).height
        history = self._ledger.history
        tried = [
            job
            for job, life in self._ledger.lives.items()
            if life.state is State.PENDING and life.attempts
        ]
        unfit = [
            job
            for job, waiting in tally.waiting_jobs.items()
            if waiting.why is WaitReason.STILL and not history(job).attempts
        ]
        return pending - len(self.among({*tried, *unfit}))

    def _reasons(self, jobs: Collection[str], tally: Tally) -> Reasons:
        why = Reasons()
        for job, row in self._rows_of(jobs):
            history, waiting = self._ledger.history(job), tally.waiting_jobs.get(job)
            if history.state is State.PUBLISHED:
                continue
            state = _summed(history.state)
            if waiting is not None and waiting.why is WaitReason.STILL:
                state = "rejected"
            reason = waiting.reason if waiting else history.reason
            untold = UNANSWERED if history.state is State.IN_DOUBT else UNTOLD
            why.add(state, reason or untold, row, job)
        return why

    def _rows_of(self, jobs: Collection[str]) -> Iterator[tuple[str, int]]:
        """Those of these jobs that are in the plan, most urgent first, with their first rows."""
        planned = self.of(jobs)
        return zip(ids(planned), planned["row"], strict=True)

    def _add_untold(
        self,
        why: Counter[tuple[str, str]],
        tally: Tally,
        troubles: Sequence[Trouble],
    ) -> None:
        """Add the jobs of which only the state is known."""
        known = {**PASSED_OVER}
        if fault := tally.faults.stopped:
            known[WaitReason.FAULT] = fault
        over = sorted(known[why] for why in tally.passed_over)
        words = {
            "rejected": "by an earlier batch",
            "unplayable": "its bytes are kept beside the clips",
            "in_doubt": UNANSWERED,
        }
        if over or troubles:
            waited = [str(trouble) for trouble in troubles[:TROUBLES]]
            words["pending"] = "; ".join([*(over or [UNTOLD]), *waited])
        counts = self.states(tally, jobs=True)
        del counts["published"]
        for (state, _), count in why.items():
            counts[state] -= count
        for state, count in (+counts).items():
            why[state, words.get(state, UNTOLD)] += count

    def _sliced(self, rows: pl.DataFrame) -> Iterator[pl.Series]:
        for some in rows.iter_slices(_SLICE):
            yield self._ledger.states(some.select(*KEY))


def _summed(state: State) -> str:
    """The state of a summary that this state counts as."""
    if state in OVER or state is State.IN_DOUBT:
        return str(state)
    return str(State.PENDING)
