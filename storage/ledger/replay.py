"""Unbound epochs: what was written and not bound, as after a crash, read in few seconds.

Of a life that is over, the kind of its last entry says all that is wanted: only the
others are folded, entry by entry. Whether every step was a legal one is found out when
the epoch is bound.
"""

from collections.abc import Mapping
from typing import Any, Final, get_args

import polars as pl

from manifests.job_keys import KEY, ids, keys
from manifests.lifecycle import (
    Accepted,
    Entry,
    Event,
    Generated,
    History,
    Intended,
    Published,
    Refused,
    Rejected,
    Settled,
    State,
)
from storage.ledger.codec import LedgerError, read
from storage.ledger.segment_reader import after
from storage.ledger.state_index import LATEST, Book


class Look:
    """An unbound epoch as it is read into a book, some of it at a time."""

    def __init__(self, book: Book, root: str, epoch: int) -> None:
        self._book = book
        self._root = root
        self._place = f"{root}: epoch {epoch}"
        self._open = _standing(book.lives)
        """All there is of the lives that are not over so far."""

    def at(self, chunk: bytes) -> None:
        """Take the lines that come next."""
        said = self._rows(chunk)
        self._refuse_what_was_over(said)
        rows = pl.concat([self._open, said])
        last = _last(rows)
        over = last.drop_nulls("state")
        if not over.is_empty():
            self._forget(over, rows.join(over, on=[*KEY], how="semi"))
        left = last.filter(pl.col("state").is_null())
        rows = rows.join(left, on=[*KEY], how="semi", maintain_order="left")
        # Copied, or else each line would keep all its chunk in memory.
        self._open = rows.with_columns(pl.Series("line", [*rows["line"]], pl.String))

    def end(self) -> None:
        """Fold the lives that are not over."""
        for line in self._open["line"].drop_nulls():
            entry = read(line, self._place)
            if isinstance(entry, Entry):
                history = after(self._book.lives, entry, self._root)
                self._book.keep(entry.job, history)

    def _rows(self, chunk: bytes) -> pl.DataFrame:
        lines = pl.read_lines(chunk, name="line")
        said = lines.select(
            "line", pl.col("line").str.extract_groups(_LINE).struct.unnest()
        )
        if said["key"].null_count():
            for line in said.filter(pl.col("key").is_null())["line"]:
                if isinstance(read(line, self._place), Entry):
                    why = f"not as it is written: {line[:200]}"
                    raise LedgerError(f"{self._place}: {why}")
            said = said.drop_nulls("key")
        try:
            return said.select(_FOUND)
        except pl.exceptions.PolarsError as error:
            # It knows which line it is.
            for line in said["line"]:
                read(line, self._place)
            raise LedgerError(f"{self._place}: {error}") from error

    def _refuse_what_was_over(self, said: pl.DataFrame) -> None:
        steps = said.lazy().filter(pl.col("kind") != _SETTLED)
        over = self._book.forgotten(steps.select(*KEY).unique().collect())
        if over.is_empty():
            return
        again = steps.join(over.lazy(), on=[*KEY], how="semi").head(1).collect()
        for life, kind in zip(ids(again), again["kind"], strict=True):
            was = self._book.history(life).state
            raise LedgerError(f"{self._root}: job {life}: {kind} while {was}")

    def _forget(self, over: pl.DataFrame, rows: pl.DataFrame) -> None:
        self._book.learn(over)
        for life in ids(rows.filter(pl.col("line").is_null())):
            del self._book.lives[life]
        for lane, took in _latest(rows).iter_rows():
            self._book.latencies[lane].append(took)


def _standing(known: Mapping[str, History]) -> pl.DataFrame:
    """Lives that are known whole as if each were one entry, without a line."""
    said = [
        (past.accepted_at, _named(_LIKE[past.state]), past.lane, None)
        for past in known.values()
    ]
    rest = {name: _ROWS[name] for name in _ROWS.names()[len(KEY) :]}
    return keys(known).hstack(pl.DataFrame(said, rest, orient="row"))


def _last(rows: pl.DataFrame) -> pl.DataFrame:
    """The state of each life that did more than settle; null if it has not ended."""
    kind = pl.col("kind").last().cast(pl.String)
    return (
        rows.lazy()
        .filter(pl.col("kind") != _SETTLED)
        .group_by(*KEY)
        .agg(state=kind.replace_strict(_ENDS, default=None))
        .collect()
    )


def _latest(rows: pl.DataFrame) -> pl.DataFrame:
    """By lane, how long the latest of these lives' clips took."""
    # Where it was taken by an earlier epoch, nobody knows: only when somebody looked.
    here = pl.col("line").is_not_null()
    accepted, generated = (
        pl.col("at").filter(here, pl.col("kind") == _named(kind)).last()
        for kind in (Accepted, Generated)
    )
    took = (pl.col("generated") - pl.col("accepted")).alias("took")
    return (
        rows.lazy()
        .group_by(*KEY)
        .agg(
            pl.col("lane").drop_nulls().last(),
            accepted=accepted,
            generated=generated,
        )
        .filter(took >= 0, pl.col("lane").is_not_null())
        .sort("generated")
        .group_by("lane", maintain_order=True)
        .tail(LATEST)
        .select("lane", took)
        .collect()
    )


def _named(kind: type[Any]) -> str:
    return kind.__name__.lower()


_KINDS: Final = pl.Enum([_named(kind) for kind in get_args(Event)])
_SETTLED: Final = _named(Settled)
# As `records.dump` writes an entry.
_LINE: Final = (
    r'^\{"job":"(?<key>[0-9a-f]{16})(?<also>[0-9a-f]{16})",'
    r'"at":(?<at>[^,]+),"kind":"(?<kind>[a-z]+)"(?:,"lane":"(?<lane>[^"\\]*)")?'
)
_ROWS: Final = pl.Schema(
    {**KEY, "at": pl.Float64, "kind": _KINDS, "lane": pl.String, "line": pl.String}
)
_FOUND: Final = (
    *(pl.col(name).str.to_integer(base=16, dtype=pl.UInt64) for name in KEY),
    pl.col("at").cast(pl.Float64),
    pl.col("kind").cast(_KINDS),
    *("lane", "line"),
)
_ENDS: Final = {
    _named(Published): State.PUBLISHED.value,
    _named(Rejected): State.REJECTED.value,
}
# As which event a life stands among the others that was whole before the epoch.
_LIKE: Final[Mapping[State, type[Any]]] = {
    State.PENDING: Refused,
    State.IN_DOUBT: Intended,
    State.ACCEPTED: Accepted,
    State.GENERATED: Generated,
}
