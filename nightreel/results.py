"""The values that the functions of `nightreel` return; tables are polars frames."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

import polars as pl

from tasks.batch.summary import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The outcome of a batch."""

    summary: Summary
    """Counts of rows by state, the money of this run, closed lanes, seconds."""
    root: str
    """The URI of the root."""
    clips: pl.DataFrame
    """One row per row of the manifest: its own columns, then state, URI of the clip, lane,
    price, times and the reason where there is no clip."""
    attempts: pl.DataFrame
    """One row per submit of this batch: lane, times, price and what was charged."""
    complaints: pl.DataFrame
    """One row per complaint about a bad row: row, column, value, reason."""

    @property
    def batch(self) -> str:
        """The batch's name below the root, such as `000003-portraits`."""
        return self.summary.batch

    @property
    def complete(self) -> bool:
        """Whether every row is published or finally rejected, and no more rows are rejected
        than `max_rejected` of the configuration allows; `exit_code` is then 0."""
        return self.summary.exit_code == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckResult:
    """A manifest after validation."""

    manifest: str
    """The URI of the manifest."""
    rows: int
    """The rows of the manifest."""
    jobs: int
    """Different clips that the good rows want."""
    duplicates: int
    """Rows that want a clip which another row wants too."""
    bad_rows: int
    """Rows with a complaint."""
    complaints: pl.DataFrame
    """One row per complaint: row, column, value, reason."""
    out_of_reach: pl.DataFrame
    """The same of the rows whose still was out of reach, and so was not checked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanResult:
    """A forecast of cost and time; nothing was sent."""

    rows: int
    """The rows of the manifest."""
    jobs: int
    """Different clips that the good rows want."""
    bad_rows: int
    """Rows with a complaint."""
    owned: int
    """Jobs that the root's ledger knows already: nothing is bought for them."""
    unserved: int
    """Jobs that no lane makes within their `max_usd`."""
    late: int
    """Jobs that cannot be done by `finish_by`."""
    cost_usd: Decimal
    """The price of all clips to buy."""
    seconds: float
    """How long the batch takes."""
    done_at: datetime
    """When the last clip is done, if the batch starts now."""
    lanes: pl.DataFrame
    """One row per lane: lane, jobs, cost_usd, seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusResult:
    """The state of a root at one moment, from its ledger."""

    jobs: Mapping[str, int]
    """Jobs by state: published, rejected, unplayable, in_doubt, pending; at_providers is a part of
    pending."""
    spent_usd: Decimal
    """The money that all runs on the root have spent."""
    in_doubt_usd: Decimal
    """The part of `spent_usd` whose submits were never answered."""
    paused_at: datetime | None
    """When the root was paused; None if it is not."""
    lanes: pl.DataFrame
    """One row per lane: lane, accepted, published, spent_usd."""
    doubts: pl.DataFrame
    """One row per job in doubt, oldest first: job, lane, since, price_usd, reason."""
    expiring: pl.DataFrame
    """One row per clip that is still at its provider, first to expire first: job, lane,
    state, price_usd, expires_at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileResult:
    """The outcome of asking the providers about a root."""

    accepted: int
    """Doubts whose request the provider has: their clips are fetched."""
    absent: int
    """Doubts whose request the provider never had: refunded, and bought by the next run."""
    fetched: int
    """Clips that were fetched."""
    expired: int
    """Clips that were paid for and that their providers no longer keep."""
    resubmit: int
    """Jobs that the next run buys again at your risk."""
    written_off: int
    """Jobs that were given up as charged."""
    adjusted_usd: Decimal
    """The change of the bill; below 0 where a provider charged less than was counted."""
    doubts: pl.DataFrame
    """One row per job still in doubt: job, lane, age_s, price_usd, reason, askable."""
