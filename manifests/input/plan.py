"""A plan: the jobs that a manifest asks for, in a few numbers a row.

Ten million rows take 210 MB, and no code here makes a second copy of them: searches run
in parts, and changes are made in place.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import polars as pl

from manifests.input.first_pass import Survey, millionths
from manifests.input.validation import COMPLAINTS, Complaint
from manifests.job_keys import KEY, alike, held, keys
from manifests.lifecycle import OVER, State
from manifests.reasons import alike as shared
from manifests.reasons import unnamed

_NONE: Final = pl.Schema(
    {
        "row": pl.UInt32,
        **KEY,
        "first": pl.Boolean,
        "priority": pl.Int8,
        "max_usd": pl.UInt8,
    }
)
UNDONE: Final = frozenset(State) - OVER

States = Callable[[pl.DataFrame], pl.Series]
"""The states of the jobs with these keys, from the ledger."""

HEAVY: Final = 256 << 20
"""Bytes of stills in a row group up to which no warning is given."""

RANGES: Final = 1000
"""Rows, or ranges of rows, that a line names."""

_SLICE: Final = 500_000


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """The jobs that a manifest asks for, and the complaints about its bad rows."""

    uri: str
    """The manifest's URI, without any signature."""
    rows: int
    wanted: pl.DataFrame
    """The good rows, most urgent first: row, key, also, first, priority, max_usd.

    Rows that want the same clip are one job. It takes the highest priority and the most
    generous limit among them, and only one of them is `first`. `max_usd` is in
    millionths, 0 for none; it and `priority` have the smallest type that holds them.
    """
    complaints: pl.DataFrame
    """row, column, value, reason: see `complaints.Complaint`."""
    weight: int = 0
    """Bytes of embedded stills in the row group with the most."""

    @property
    def jobs(self) -> int:
        """The number of different clips wanted."""
        return int(self.wanted["first"].sum())

    @property
    def bad_rows(self) -> int:
        return self.rows - self.wanted.height

    @property
    def heavy(self) -> str | None:
        """A warning if reading the stills may take much memory, or None."""
        if self.weight <= HEAVY:
            return None
        return (
            f"{self.uri}: {self.weight / 1e9:.1f} GB of stills in one row group: reading "
            "them may take as much memory; write it with row_group_size=64"
        )

    @property
    def faults(self) -> Iterator[Complaint]:
        """The complaints, by row."""
        return (Complaint(*row) for row in self.complaints.iter_rows())

    def faults_alike(self, first: int) -> Iterator[tuple[str, int, list[int]]]:
        """Complaints in words, each with its number of rows and the first of these rows."""
        alike = self.complaints.group_by("column", "reason", maintain_order=True).agg(
            pl.col("row").n_unique().alias("rows"),
            pl.col("row").head(first).alias("first"),
        )
        found: dict[str, tuple[str, int, list[int]]] = {}
        for column, reason, rows, few in alike.iter_rows():
            like = f"{column} {shared(reason)}"
            told = f"{column} {unnamed(reason)}"
            _, count, earlier = found.get(like, (told, 0, []))
            found[like] = told, count + rows, sorted([*earlier, *few])[:first]
        yield from found.values()

    def alike(self) -> Iterator[str]:
        """The complaints in lines, one for each reason, with all its rows."""
        groups: dict[str, list[Complaint]] = {}
        for one in self.faults:
            like = f"{one.column} {shared(one.reason)}"
            groups.setdefault(like, []).append(one)
        for some in groups.values():
            first = some[0]
            if len(some) == 1:
                yield str(first)
                continue
            rows = sorted({one.row for one in some})
            what = f"{first.column} {unnamed(first.reason)}"
            yield f"{len(rows):,} rows: {what}: rows {_ranges(rows)}"

    def head(self, rows: int) -> "Plan":
        """The plan of the manifest's first rows alone."""
        few = pl.col("row") < rows
        return replace(
            self,
            rows=min(self.rows, rows),
            wanted=self.wanted.filter(few),
            complaints=self.complaints.filter(few),
        )

    def without(self, bad: Mapping[str, tuple[str, str]]) -> "Plan":
        """The plan without these jobs, with a complaint about the image of each.

        `bad` has the value and the reason of the complaint by job id.
        """
        if not bad:
            return self
        reasons = pl.DataFrame([*bad.values()], ["value", "reason"], orient="row")
        struck = keys([*bad]).hstack(reasons.cast(pl.String))
        wrong = held(self.wanted.select("row", *KEY), struck).join(struck, [*KEY])
        also = wrong.select("row", pl.lit("image").alias("column"), "value", "reason")
        return replace(
            self,
            wanted=self.wanted.filter(~pl.col("row").is_in(wrong["row"].implode())),
            complaints=self.complaints.vstack(also.cast(COMPLAINTS)).sort(
                "row", "column"
            ),
        )

    def shards(self, jobs: int) -> Iterator[pl.DataFrame]:
        """The plan in slices of `jobs` jobs, most urgent first, each for `orders`."""
        first = self.wanted["first"]
        some = self.wanted if first.all() else self.wanted.filter(first)
        return some.iter_slices(jobs)


def _ranges(rows: Sequence[int]) -> str:
    """Ascending numbers, those without a gap as `3-7`; the first `RANGES` of them."""
    runs: list[list[int]] = []
    for row in rows:
        if runs and row == runs[-1][1] + 1:
            runs[-1][1] = row
        else:
            runs.append([row, row])
    told = [f"{a}" if a == b else f"{a}-{b}" for a, b in runs[:RANGES]]
    more = sum(b - a + 1 for a, b in runs[RANGES:])
    return ", ".join(told) + (f" and {more:,} more" if more else "")


def todo(
    plan: Plan, states: States, *, among: Collection[State] = UNDONE
) -> pl.DataFrame:
    """The plan of the jobs that are in one of these states, most urgent first.

    The result is a copy only if it leaves some jobs out.
    """
    values = [state.value for state in among]
    some: list[pl.DataFrame] = []
    for rows in plan.wanted.iter_slices(_SLICE):
        matching = rows["first"] & states(rows).is_in(values)
        some.append(rows if matching.all() else rows.filter(matching))
    return pl.concat(some, rechunk=False) if some else plan.wanted


class Rows:
    """The good rows of a manifest, each put in its place as it is read.

    Sorting ten million rows would take as much memory again.
    """

    def __init__(self, survey: Survey) -> None:
        levels = survey.levels["priority"].shrink_dtype()
        most = pl.Series([survey.most], dtype=pl.UInt64).shrink_dtype()
        dtypes = {**_NONE, "priority": levels.dtype, "max_usd": most.dtype}
        count = int(survey.levels["count"].sum())
        self._columns = {
            name: pl.repeat(0, count, dtype=dtype, eager=True).alias(name)
            for name, dtype in dtypes.items()
            if name != "first"
        }
        starts = survey.levels["count"].cum_sum().shift(1, fill_value=0)
        self._starts = pl.DataFrame([survey.levels["priority"], starts.alias("at")])
        self._free = self._starts

    def add(self, part: pl.DataFrame) -> None:
        """Add rows in the file's order: row, key, also, priority and max_usd in dollars."""
        nth = pl.int_range(pl.len(), dtype=pl.UInt32).over("priority")
        at, free = pl.col("at"), self._free
        placed = part.select("priority", nth=nth).join(
            free, "priority", how="left", maintain_order="left"
        )
        places = placed.select(at + pl.col("nth")).to_series()
        numbers = part.with_columns(millionths(part["max_usd"]))
        for name, column in self._columns.items():
            column.scatter(places, numbers[name].cast(column.dtype))
        more = placed.group_by("priority").agg(more=pl.len())
        self._free = free.join(
            more, "priority", how="left", maintain_order="left"
        ).select("priority", at + pl.col("more").fill_null(0))

    def planned(self) -> pl.DataFrame:
        """All rows in the form of `Plan.wanted`."""
        runs = [*self._runs()]
        columns = {
            name: pl.concat([column[first:end] for first, end in runs])
            for name, column in self._columns.items()
        }
        columns["first"] = pl.repeat(value=True, n=len(columns["row"]), eager=True)
        moved = _share(columns)
        rows = pl.DataFrame([columns[name].alias(name) for name in _NONE])
        return rows.sort("priority", "row", descending=[True, False]) if moved else rows

    def _runs(self) -> Iterator[tuple[int, int]]:
        """The ranges that hold rows: bad rows leave gaps after each priority's last row."""
        start = end = 0
        for first, free in zip(self._starts["at"], self._free["at"], strict=True):
            if first != end:
                yield start, end
                start = first
            end = free
        yield start, end


def _share(columns: dict[str, pl.Series]) -> bool:
    """Give the rows of one job the highest priority and the most generous limit of them.

    Returns whether any row's priority has changed.
    """
    moved = False
    usd = pl.col("max_usd")
    most = pl.when((usd == 0).any()).then(0).otherwise(usd.max()).alias("max_usd")
    for some in alike(pl.DataFrame(columns), pl.col("priority").max(), most):
        later = some.filter(pl.col("row") != pl.col("earliest"))
        columns["first"].scatter(later["at"], values=False)
        was = columns["priority"].gather(some["at"])
        moved = moved or bool((was != some["priority"]).any())
        for name in ("priority", "max_usd"):
            columns[name].scatter(some["at"], some[name].cast(columns[name].dtype))
    return moved
