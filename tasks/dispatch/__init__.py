"""Dispatch: which lane makes a job, when its submit may be sent, and whether there is money.

A lane is a route in use (`manifests.catalogue.routes`) with an account, its limits and its
rate limiter. Nothing in this package sends a submit; `tasks.engine` does.

From a job to a lane
--------------------
`eligibility` finds the lanes that can make a job: by its model, content class, resolution,
duration, aspect ratio and price limit. `policy` puts them in order at this moment.
`balanced` takes the cheapest free lane, and `fastest` the free lane whose jobs take the
least time. `cheapest` computes how many jobs of each kind go to each lane, so that as many
as possible meet the deadline for the least money. `min_cost` solves that problem as a
minimum-cost flow, in whole millionths of a dollar. The allotment is computed at most once a
second, and it uses 95 % of the remaining time.

From a lane to a turn
---------------------
`lanes` deals out turns, first come, first served, to the first free lane in each job's
order. A lane (`lane`) is free if all of these allow a submit:

    rate_limit   slots, submits per minute, Retry-After, and the circuit breaker
    rests        no rest after answers that are not the provider's own, or a refused key
    off_peak     the hours of the route
    budget       the budget and the daily caps, if a shard still waits for a grant

Lanes of one account share one limiter, unless a lane sets its own limits.

Rate limits and polls
---------------------
`rate_limit` starts with the configured limits. A 429 lowers a limit, and further 429s of the
same volley do not lower it again. Successes raise it slowly. Three failures in a row open
the breaker: after a pause, the lane is tried with one job at a time. `poll_schedule` times
the polls by how long the lane's own jobs have taken.

Money
-----
`budget` reserves the price of a submit from the batch's budget and from the lane's daily
caps. A check and its reservation are one step. A refusal that was not charged releases the
price. Money in doubt stays spent. After a bill above its price, the lane's prices rise for
the rest of the run (`tasks.engine.charges`).

Before and between runs
-----------------------
`preflight` asks each provider about key, credit, model, prices and limits before any money
moves. `learned` starts a run with the latencies, the limits, the daily spending and the
submits of the last minute of earlier runs. It keeps the learned limits in `learned.json`
for the next one.
"""

from tasks.dispatch.budget import DAY_S, Budget
from tasks.dispatch.eligibility import Policy, candidates, standing_for
from tasks.dispatch.lane import Bill, HandsOver, Lane, OnDearer, dearest_bills
from tasks.dispatch.lanes import (
    BudgetChangedError,
    Lanes,
    NoLaneLeftError,
    SlotRequest,
    StoppedError,
    closing,
)
from tasks.dispatch.learned import (
    keep_limits,
    recall_day,
    recall_latencies,
    recall_limits,
    recall_minute,
)
from tasks.dispatch.min_cost import allot, capacity
from tasks.dispatch.off_peak import Hours, open_s, wait_s
from tasks.dispatch.policy import Router
from tasks.dispatch.poll_schedule import ENOUGH_FINISHED, TYPICAL_S
from tasks.dispatch.preflight import (
    CheckupError,
    Finding,
    cheaper,
    checked,
    dearer,
    refuse_wrong,
    usd,
)
from tasks.dispatch.rate_limit import RATE_WINDOW_S, LearnedLimits, Limits, RateLimiter
from tasks.dispatch.run_times import RunTimes

__all__ = [
    "DAY_S",
    "ENOUGH_FINISHED",
    "RATE_WINDOW_S",
    "TYPICAL_S",
    "Bill",
    "Budget",
    "BudgetChangedError",
    "CheckupError",
    "Finding",
    "HandsOver",
    "Hours",
    "Lane",
    "Lanes",
    "LearnedLimits",
    "Limits",
    "NoLaneLeftError",
    "OnDearer",
    "Policy",
    "RateLimiter",
    "Router",
    "RunTimes",
    "SlotRequest",
    "StoppedError",
    "allot",
    "candidates",
    "capacity",
    "cheaper",
    "checked",
    "closing",
    "dearer",
    "dearest_bills",
    "keep_limits",
    "open_s",
    "recall_day",
    "recall_latencies",
    "recall_limits",
    "recall_minute",
    "refuse_wrong",
    "standing_for",
    "usd",
    "wait_s",
]
