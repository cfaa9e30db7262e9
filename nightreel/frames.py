"""Builds the results of `nightreel` and their polars frames from the commands' values."""

from collections.abc import Sequence
from datetime import UTC, datetime

import polars as pl

from flows.commands.lanes import LaneRow
from flows.commands.status import Seen
from flows.views import Answer
from manifests.expiry import AT_PROVIDERS
from manifests.lifecycle import State
from manifests.parquet import MONEY
from nightreel.results import PlanResult, ReconcileResult, StatusResult
from tasks.reconcile import Reconciled

_TIME = pl.Datetime("us", "UTC")


def plan_result(answer: Answer) -> PlanResult:
    """The forecast of `nightreel plan`."""
    forecast = answer.told
    return PlanResult(
        rows=answer.read.rows,
        jobs=answer.read.jobs,
        bad_rows=answer.read.bad_rows,
        owned=answer.owned,
        unserved=forecast.unserved,
        late=forecast.late,
        cost_usd=forecast.cost_usd,
        seconds=forecast.seconds,
        done_at=answer.after(forecast.seconds),
        lanes=pl.DataFrame(
            [
                (share.lane, share.jobs, share.cost_usd, share.seconds)
                for share in forecast.shares
            ],
            schema={
                "lane": pl.String,
                "jobs": pl.UInt32,
                "cost_usd": MONEY,
                "seconds": pl.Float64,
            },
            orient="row",
        ),
    )


def status_result(seen: Seen) -> StatusResult:
    """The state of a root, as `nightreel status` shows it."""
    states = seen.totals.states
    away = sum(states[state] for state in AT_PROVIDERS)
    return StatusResult(
        jobs={
            "published": states[State.PUBLISHED],
            "rejected": states[State.REJECTED],
            "unplayable": states[State.UNPLAYABLE],
            "in_doubt": states[State.IN_DOUBT],
            "pending": states[State.PENDING] + away,
            "at_providers": away,
        },
        spent_usd=seen.totals.every_lane.usd,
        in_doubt_usd=seen.in_doubt_usd,
        paused_at=_utc(seen.paused_at),
        lanes=_shares(seen),
        doubts=_doubts(seen),
        expiring=_expiring(seen),
    )


def reconcile_result(reconciled: Reconciled) -> ReconcileResult:
    """The outcome of `nightreel reconcile`."""
    columns = ("job", "lane", "age_s", "price_usd", "reason", "askable")
    return ReconcileResult(
        accepted=reconciled.accepted,
        absent=reconciled.absent,
        fetched=reconciled.fetched,
        expired=reconciled.expired,
        resubmit=reconciled.resubmit,
        written_off=reconciled.written_off,
        adjusted_usd=reconciled.settled_usd,
        doubts=pl.DataFrame(
            [
                tuple(getattr(line, name) for name in columns)
                for line in reconciled.doubts
            ],
            schema={
                "job": pl.String,
                "lane": pl.String,
                "age_s": pl.Float64,
                "price_usd": MONEY,
                "reason": pl.String,
                "askable": pl.Boolean,
            },
            orient="row",
        ),
    )


def lanes_frame(lanes: Sequence[LaneRow]) -> pl.DataFrame:
    """One row per lane and price."""
    text = ("lane", "route", "provider", "model", "content", "resolution")
    return pl.DataFrame(
        [
            (
                lane.lane,
                lane.route.name,
                lane.route.provider,
                lane.route.model,
                lane.route.content,
                resolution,
                seconds,
                usd,
                lane.limits.slots,
                lane.limits.submits_per_minute,
                lane.limits.submits_per_day,
            )
            for lane in lanes
            for (resolution, seconds), usd in lane.route.prices_usd.items()
        ],
        schema={
            **dict.fromkeys(text, pl.String),
            "seconds": pl.UInt16,
            "usd": MONEY,
            "slots": pl.UInt32,
            "submits_per_minute": pl.UInt32,
            "submits_per_day": pl.UInt32,
        },
        orient="row",
    )


def _shares(seen: Seen) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (name, lane.accepted, lane.clips, lane.usd)
            for name, lane in sorted(seen.totals.lanes.items())
        ],
        schema={
            "lane": pl.String,
            "accepted": pl.UInt32,
            "published": pl.UInt32,
            "spent_usd": MONEY,
        },
        orient="row",
    )


def _doubts(seen: Seen) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (
                line.job,
                line.lane,
                _utc(seen.now - line.age_s),
                line.price_usd,
                line.reason,
            )
            for line in seen.doubts
        ],
        schema={
            "job": pl.String,
            "lane": pl.String,
            "since": _TIME,
            "price_usd": MONEY,
            "reason": pl.String,
        },
        orient="row",
    )


def _expiring(seen: Seen) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (
                clip.job,
                clip.lane,
                str(clip.attempt.state),
                clip.attempt.cost_usd,
                _utc(clip.expires_at),
            )
            for clip in seen.clips
        ],
        schema={
            "job": pl.String,
            "lane": pl.String,
            "state": pl.String,
            "price_usd": MONEY,
            "expires_at": _TIME,
        },
        orient="row",
    )


def _utc(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)
