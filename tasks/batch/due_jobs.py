"""The due jobs of a batch: the order in which they are run, and their shards."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import polars as pl

from manifests.job_keys import KEY, keys
from manifests.jobs import Kind, Order


class DueJobs:
    """The part of a plan that is due, cut into shards.

    Jobs that earlier runs bought come first, in the order in which their clips expire.
    """

    def __init__(
        self,
        due: pl.DataFrame,
        *,
        bought: pl.DataFrame,
        expiring: Mapping[str, float],
        shard_rows: int,
    ) -> None:
        self._expiring = expiring
        """By job that an earlier run bought: when its clip expires (Unix seconds)."""
        self._shard_rows = shard_rows
        self._bought = 0
        """How many of the first jobs earlier runs bought."""
        self._due = due if bought.is_empty() else self._bought_first(due, bought)

    def _bought_first(self, due: pl.DataFrame, bought: pl.DataFrame) -> pl.DataFrame:
        # Half a key is enough: it decides only the order.
        owed = due["key"].is_in(bought["key"].implode())
        self._bought = int(owed.sum())
        expiring = keys(self._expiring).with_columns(
            at=pl.Series([*self._expiring.values()], dtype=pl.Float64)
        )
        first = (
            due.filter(owed)
            .join(expiring, [*KEY], how="left", maintain_order="left")
            .sort("at", nulls_last=True, maintain_order=True)
            .drop("at")
        )
        return pl.concat([first, due.filter(~owed)])

    @property
    def shards(self) -> range:
        """The numbers of the shards."""
        return range(math.ceil(self._due.height / self._shard_rows))

    def shard(self, number: int) -> pl.DataFrame:
        """A shard: its part of the plan."""
        return self._due.slice(number * self._shard_rows, self._shard_rows)

    def has_bought(self, number: int) -> bool:
        """Whether a shard has jobs that an earlier run bought."""
        return number * self._shard_rows < self._bought

    def mixed(self, orders: Sequence[Order]) -> list[Order]:
        """Order the jobs of a shard: first those whose clips expire soonest, then the others.

        The others alternate between kinds, so that no lane waits until all jobs that it
        cannot make are under way.
        """
        seen = Counter[tuple[int, Kind]]()
        places: list[tuple[float, int, int]] = []
        for order in orders:
            like = order.priority, order.kind
            expires_at = self._expiring.get(order.job.id, math.inf)
            places.append((expires_at, -order.priority, seen[like]))
            seen[like] += 1
        ranked = sorted(range(len(orders)), key=places.__getitem__)
        return [orders[n] for n in ranked]
