"""A seed's script: the manifest, the lanes, the runs, and all faults."""

import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Final

import polars as pl
from PIL import Image

from manifests.catalogue import loader as catalogue
from manifests.jobs import Job
from tasks.dispatch.rate_limit import MAX_UNANSWERED
from tasks.emulator.faults import Fault
from tests.simulation.providers import Terms
from tests.simulation.store import Weather

ROUTES: Final = (
    "wavespeed/wan-2.2-spicy",
    "wavespeed/wan-2.2",
    "302ai/wan-2.2-spicy",
    "302ai/unified",
    "atlas/wan-2.2-spicy",
    "fal/wan-2.2",
    "fal/kling-2.5-turbo",
    "kling/kling-2.5-turbo",
    "runway/gen4-turbo",
    "replicate/wan-2.2",
)

LOST: Final = (
    Fault.LOSE_ANSWER,
    Fault.LOSE_ANSWER_MID,
    Fault.MALFORMED_ACCEPT,
    Fault.ERROR_AFTER,
    Fault.ERROR_BEFORE,
    Fault.GATEWAY_BEFORE,
)
FAILS: Final = (Fault.FAIL, Fault.REFUSE_CONTENT, Fault.REJECT_INPUT)
CLOSES: Final = (Fault.UNAUTHORIZED, Fault.NO_CREDIT, Fault.DAILY_CAP)
ODD: Final = (
    Fault.THROTTLE,
    Fault.THROTTLE_WITH_RETRY_AFTER,
    Fault.NOT_FOUND_AT_FIRST,
    Fault.UNKNOWN_STATUS,
    Fault.TRUNCATED_CLIP,
    Fault.CUT_CLIP,
    Fault.HTML_CLIP,
    Fault.EMPTY_CLIP,
    Fault.EXPIRED_LINK,
)


ELSEWHERE: Final = 0.05
"""The share of nights in which shards are run by other processes."""


SHORT: Final = 0.3
"""The share of providers whose listings show only their latest jobs."""

DEARER: Final = 0.3
"""The share of providers that charge more than their price list, of those that state
the charge with the clip."""
ROTS: Final = 0.15
"""The share of runs that find the record of earlier ones damaged."""
STATES_CHARGES: Final = {"kling", "runway"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LanePlan:
    """A lane as its owner set it up, possibly with more than its provider allows."""

    route: str
    slots: int
    submits_per_minute: int
    submits_per_day: int | None = None
    usd_per_day: Decimal | None = None
    risk_usd: Decimal = Decimal(0)
    quickest_s: float = 10.0

    @property
    def name(self) -> str:
        return self.route.partition("/")[0]

    @property
    def most(self) -> int:
        """The most jobs it may have under way: its slots, and the jobs it may queue."""
        if not catalogue_().route(self.route).queues:
            return self.slots
        # `RateLimiter` reckons like this, for jobs as quick as the quickest here. Between two
        # polls, a quarter of their time apart, jobs are assumed to have ended half-way.
        quickest_s = max(0.1, self.quickest_s) * (1 + 1 / 1.25) / 2
        share = 2.0 / min(10.0, quickest_s) + 0.05
        return self.slots + math.ceil(self.slots * min(1.0, share))

    @property
    def volley(self) -> int:
        """The number of submits that may be on their way at once."""
        return max(MAX_UNANSWERED, math.ceil(self.most / MAX_UNANSWERED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """The fate of one process that runs a shard for another process."""

    begins_s: float = 0.0
    """Seconds from the request to the start: the process that requests a shard is not
    the one that runs it."""
    killed_s: float | None = None
    """Seconds from its start to its kill."""
    paused_s: tuple[float, float] | None = None
    """Seconds from its start to its pause, and the pause's length."""
    told_s: float | None = 1.0
    """Seconds from its end until its requester learns of it; never, if None."""
    given_up_s: float | None = None
    """Seconds from its start until its requester learns that it failed, while it still
    runs."""
    heeds: bool = True
    """Whether it is killed once it is no longer wanted."""
    ahead_s: float = 0.0


WELL: Final = Fate()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One process that runs a manifest."""

    name: str
    manifest: int
    lanes: Sequence[LanePlan]
    begins_s: float = 0.0
    take_over: bool = False
    budget_usd: Decimal | None = None
    policy: str = "balanced"
    finish_in_s: float | None = None
    shard_rows: int = 500
    killed_at: float | None = None
    stopped_at: float | None = None
    cancelled_at: float | None = None
    paused: tuple[float, float] | None = None
    ahead_s: float = 0.0
    jump: tuple[float, float] | None = None
    """When its clock jumps, and by how much."""
    quiet: bool = False
    elsewhere: int = 0
    """The number of its shards that run at once in separate processes; 0 for none."""
    fates: Sequence[Fate] = ()
    """The fates of those processes, in the order of their start; later ones are
    well."""
    rots: float | None = None
    """Which object of the ledger is damaged while it runs, from 0 to 1, if one is."""
    together: bool = False
    """Whether they die together with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """A whole night."""

    seed: int
    jobs: Sequence[Job]
    manifests: Sequence[Sequence[Job]]
    lanes: Sequence[LanePlan]
    runs: Sequence[Run]
    terms: Mapping[str, Terms]
    store: Weather
    deadline_s: float
    settle_s: float = 60.0
    rests_s: float = 130.0
    """How long no run is active before all faults end."""
    clocks_agree: bool = True
    max_usd: Mapping[str, Decimal] = field(default_factory=dict)
    priority: Mapping[str, int] = field(default_factory=dict)


@cache
def catalogue_() -> catalogue.Catalogue:
    return catalogue.load()


@cache
def stills() -> Sequence[str]:
    """A few small stills, the same on every night, at a place that every process
    finds."""
    folder = Path(tempfile.gettempdir()) / "nightreel-simulation"
    folder.mkdir(exist_ok=True)
    every: list[str] = []
    for n in range(6):
        path = folder / f"{n}.png"
        if not path.exists():
            draft = folder / f".{n}-{os.getpid()}.png"
            Image.new("RGB", (304, 304), (n * 40, 90, 120)).save(draft)
            draft.replace(path)
        every.append(path.as_uri())
    return every


def drawn(seed: int) -> Script:
    """The night of a seed."""
    luck = Random(seed)
    routes = _routes(luck)
    count = _count(luck)
    jobs = [_job(luck, n, routes) for n in range(count)]
    terms = {each.partition("/")[0]: _terms(luck) for each in routes}
    lanes = [_lane(luck, each, terms, count) for each in routes]
    terms = _dearer_bills(seed, _short_listings(seed, terms))
    length_s = _length_s(lanes, terms, count)
    manifests = _manifests(luck, jobs)
    runs = _runs(luck, lanes, len(manifests), length_s, count)
    # Separate randomness: the rest of each seed's script stays as it was before this
    # option.
    aside = Random(f"{seed} elsewhere")
    if aside.random() < ELSEWHERE:
        runs = [_elsewhere(aside, run, length_s, count) for run in runs]
    runs = _damaged(seed, runs)
    return Script(
        seed=seed,
        jobs=jobs,
        manifests=manifests,
        lanes=lanes,
        runs=runs,
        terms=terms,
        store=_weather(luck, runs, length_s),
        deadline_s=luck.choice([600.0, 1800.0, 3600.0]),
        rests_s=luck.choice([130.0, 130.0, 8 * 3600.0]),
        clocks_agree=not any(run.ahead_s or run.jump for run in runs),
        max_usd={
            job.id: Decimal(str(luck.choice([0.1, 0.2, 0.5, 1.5])))
            for job in jobs
            if luck.random() < 0.05
        },
        priority={job.id: luck.randrange(3) for job in jobs if luck.random() < 0.2},
    )


def _count(luck: Random) -> int:
    """The number of jobs, 20 to 200: usually few, since a fault can hit any job;
    sometimes many, which fill slots, minutes and budgets in another way."""
    more = 60 if luck.random() < 0.05 else 4
    return min(200, 20 + int(luck.expovariate(1 / more)))


def _routes(luck: Random) -> list[str]:
    """One route at each of some providers."""
    count = luck.choice([1, 1, 2, 2, 3, 4])
    chosen: dict[str, str] = {}
    for route in luck.sample(ROUTES, len(ROUTES)):
        if len(chosen) < count:
            chosen.setdefault(route.partition("/")[0], route)
    return [*chosen.values()]


def _job(luck: Random, number: int, routes: Sequence[str]) -> Job:
    route = catalogue_().route(luck.choice(routes))
    resolution, seconds = luck.choice(sorted(route.prices_usd))
    return Job(
        image=luck.choice(stills()),
        prompt=f"pan {number} of {luck.randrange(10**6)}",
        model=route.model if luck.random() < 0.5 else "",
        resolution=resolution,  # type: ignore[arg-type]
        duration_s=seconds,
    )


def _terms(luck: Random) -> Terms:
    bad = luck.random() < 0.75
    chances: dict[Fault, float] = {}
    if bad:
        for faults, most in ((LOST, 0.06), (FAILS, 0.05), (ODD, 0.08), (CLOSES, 0.004)):
            for fault in faults:
                if luck.random() < 0.5:
                    chances[fault] = luck.random() * most
    rough = bad and luck.random() < 0.6
    return Terms(
        latency_s=luck.choice([3.0, 8.0, 20.0, 45.0, 90.0]),
        jitter=luck.random() * 0.6,
        slots=luck.randint(2, 12),
        submits_per_minute=luck.choice([10, 30, 60, 600]),
        stragglers=luck.choice([0.0, 0.0, 0.01, 0.03]) if bad else 0.0,
        lag_s=luck.choice([0.0, 2.0, 15.0]),
        retry_after=luck.random() < 0.5,
        chances=chances,
        refused=luck.random() * 0.02 if rough else 0.0,
        cut=luck.random() * 0.02 if rough else 0.0,
        silent=luck.random() * 0.01 if rough else 0.0,
        slow=luck.random() * 0.03 if rough else 0.0,
    )


def _short_listings(seed: int, terms: Mapping[str, Terms]) -> dict[str, Terms]:
    """The same terms; the listings of some providers show only their latest jobs."""
    # Separate randomness, for the reason that `drawn` gives.
    aside = Random(f"{seed} listings")
    return {
        name: replace(each, lists=aside.choice([1, 3, 10]))
        if aside.random() < SHORT
        else each
        for name, each in terms.items()
    }


def _dearer_bills(seed: int, terms: Mapping[str, Terms]) -> dict[str, Terms]:
    """The same terms; some providers charge more than their price list."""
    # Separate randomness, for the reason that `drawn` gives.
    aside = Random(f"{seed} bills")
    return {
        name: replace(each, dearer=aside.choice([2, 4]))
        if name in STATES_CHARGES and aside.random() < DEARER
        else each
        for name, each in terms.items()
    }


def _lane(luck: Random, route: str, terms: Mapping[str, Terms], count: int) -> LanePlan:
    offer = terms[route.partition("/")[0]]
    prices = catalogue_().route(route).prices_usd.values()
    price = min(prices)
    over = luck.choice([1.0, 1.0, 1.0, 1.5, 2.5])
    capped = luck.random()
    return LanePlan(
        route=route,
        slots=max(1, round(offer.slots * over)),
        submits_per_minute=round((offer.submits_per_minute or 600) * over),
        submits_per_day=luck.randint(1, count) if capped < 0.06 else None,
        usd_per_day=price * luck.randint(1, count) if capped > 0.95 else None,
        risk_usd=max(prices) * luck.randint(1, 3)
        if luck.random() < 0.3
        else Decimal(0),
        quickest_s=offer.latency_s * (1 - offer.jitter),
    )


def _length_s(
    lanes: Sequence[LanePlan], terms: Mapping[str, Terms], count: int
) -> float:
    """The approximate length of the whole night."""
    pace = sum(
        min(
            terms[lane.name].slots / terms[lane.name].latency_s,
            (terms[lane.name].submits_per_minute or 600) / 60,
        )
        for lane in lanes
    )
    return count / pace + 10.0


def _manifests(luck: Random, jobs: Sequence[Job]) -> list[list[Job]]:
    """One manifest with some duplicate rows, or two that overlap."""
    first = [*jobs]
    first += luck.sample(first, luck.randint(0, 3))
    if luck.random() < 0.6:
        return [first]
    cut, most = sorted(luck.sample(range(1, len(jobs)), 2))
    return [[*jobs[:most]], [*jobs[cut:]]]


def _runs(
    luck: Random,
    lanes: Sequence[LanePlan],
    manifests: int,
    length_s: float,
    count: int,
) -> list[Run]:
    runs: list[Run] = []
    begins = 0.0
    skewed = luck.random() < 0.15
    for n in range(luck.choice([1, 2, 2, 3, 3])):
        run = Run(
            name=f"run{n}",
            manifest=luck.randrange(manifests),
            lanes=lanes,
            begins_s=begins,
            take_over=n > 0 and luck.random() < 0.3,
            budget_usd=_budget(luck, lanes, count),
            policy=luck.choice(["balanced", "balanced", "cheapest", "fastest"]),
            finish_in_s=luck.choice([None, None, length_s * (0.3 + luck.random())]),
            shard_rows=luck.choice([7, 30, 500]),
        )
        luck.random()  # unused: it keeps the nights of the seeds that tests name
        over = begins + length_s * (0.2 + luck.random()) * (luck.random() > 0.1)
        match luck.choice(["kill", "kill", "pause", "stop", "cancel", "end", "end"]):
            case "kill":
                run = replace(run, killed_at=begins + length_s * 1.2 * luck.random())
                over = run.killed_at or over
            case "pause":
                since = begins + length_s * luck.random()
                run = replace(run, paused=(since, since + 10 ** (3 * luck.random())))
                over = since
            case "stop":
                run = replace(run, stopped_at=over)
            case "cancel":
                run = replace(run, cancelled_at=over)
            case _:
                pass
        if skewed:
            run = replace(
                run, ahead_s=_skew(luck), jump=(over * luck.random(), _skew(luck))
            )
        runs.append(run)
        begins = over + luck.choice([0.0, 1.0, 120.0]) * luck.random()
    return runs


def _elsewhere(luck: Random, run: Run, length_s: float, count: int) -> Run:
    """The same run, usually with its shards in other processes."""
    if luck.random() < 0.2:
        return run
    skewed = run.ahead_s != 0 or run.jump is not None
    return replace(
        run,
        elsewhere=luck.randint(1, 3),
        shard_rows=max(5, math.ceil(count / luck.randint(2, 4))),
        fates=[_fate(luck, length_s, skewed=skewed) for _ in range(luck.randint(0, 6))],
        together=luck.random() < 0.3,
    )


def _damaged(seed: int, runs: Sequence[Run]) -> list[Run]:
    """The same runs; some later ones find an object of the ledger damaged or gone."""
    # Separate randomness, for the reason that `drawn` gives.
    aside = Random(f"{seed} rot")
    return [
        replace(run, rots=aside.random())
        if aside.random() < ROTS and run is not runs[0]
        else run
        for run in runs
    ]


def _fate(luck: Random, length_s: float, *, skewed: bool) -> Fate:
    fate = Fate(
        begins_s=luck.choice([0.0, 1.0, 40.0]) * luck.random(),
        told_s=luck.choice([0.0, 5.0, 60.0, None]),
        heeds=luck.random() < 0.5,
        ahead_s=_skew(luck) if skewed else 0.0,
    )
    when = length_s * luck.random()
    match luck.choice(["kill", "kill", "pause", "give up", "end", "end"]):
        case "kill":
            return replace(fate, killed_s=when)
        case "pause":
            return replace(fate, paused_s=(when, 10 ** (3 * luck.random())))
        case "give up":
            return replace(fate, given_up_s=when)
        case _:
            return fate


def _skew(luck: Random) -> float:
    return luck.choice([0.0, -0.5, 3.0, -30.0, 90.0, 600.0, -4000.0])


def _budget(luck: Random, lanes: Sequence[LanePlan], count: int) -> Decimal | None:
    if luck.random() < 0.7:
        return None
    prices = [
        price
        for lane in lanes
        for price in catalogue_().route(lane.route).prices_usd.values()
    ]
    return min(prices) * luck.randint(1, count)


def _weather(luck: Random, runs: Sequence[Run], length_s: float) -> Weather:
    away: list[tuple[float, float]] = []
    away_for: dict[str, list[tuple[float, float]]] = {}
    if luck.random() < 0.25:
        since = luck.random() * length_s
        away.append((since, since + luck.choice([3.0, 40.0, 200.0, 540.0])))
    if luck.random() < 0.2:
        since = luck.random() * length_s
        until = since + luck.choice([15.0, 100.0, 540.0])
        away_for[luck.choice(runs).name] = [(since, until)]
    rough = luck.random() < 0.5
    return Weather(
        lost_asks=luck.random() * 0.02 if rough else 0.0,
        lost_answers=luck.random() * 0.03 if rough else 0.0,
        late=luck.random() * 0.01 if rough else 0.0,
        away=away,
        away_for=away_for,
    )


def written(folder: Path, script: Script) -> list[str]:
    """Write the manifests to files; returns their URIs."""
    every: list[str] = []
    for n, jobs in enumerate(script.manifests):
        rows: list[dict[str, Any]] = [
            {
                "image": job.image,
                "prompt": job.prompt,
                "model": job.model or None,
                "resolution": job.resolution,
                "duration_s": job.duration_s,
                "max_usd": script.max_usd.get(job.id),
                "priority": script.priority.get(job.id),
            }
            for job in jobs
        ]
        path = folder / f"m{n}.parquet"
        schema = {
            "image": pl.String,
            "prompt": pl.String,
            "model": pl.String,
            "resolution": pl.String,
            "duration_s": pl.Int64,
            "max_usd": pl.Decimal(12, 4),
            "priority": pl.Int64,
        }
        pl.DataFrame(rows, schema=schema).write_parquet(path)
        every.append(path.as_uri())
    return every
