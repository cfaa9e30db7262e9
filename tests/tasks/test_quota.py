"""Laws of the allocator: late messages and dead runs never cause a limit to be exceeded."""

from collections import Counter, deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.dispatch import RATE_WINDOW_S
from tasks.distributed.quota import LATE_S, QuotaAllocator, evenly
from tasks.distributed.usage import Grant, Quota, Usage

SLOTS, MINUTES = 7, 5
PRICE = 2


@dataclass
class Run:
    """The true state of a shard's run; messages to and from it arrive late."""

    shard: int
    generation: int
    jobs: int
    in_flight: int = 0
    sent: deque[float] = field(default_factory=deque)
    spent: int = 0
    beat: int = 0
    grant_number: int = 0
    grant: Grant | None = None
    shut_out: bool = False

    def cap(self, quota: str) -> int:
        return self.grant.caps.get(quota, 0) if self.grant else 0

    def sends(self, now: float) -> bool:
        """Submit once, if its share allows."""
        recent = sum(at > now - RATE_WINDOW_S for at in self.sent)
        left = (self.grant.granted.get("usd", 0) if self.grant else 0) - self.spent
        may = self.in_flight < self.cap("slots") and recent < self.cap("minute")
        if not (may and self.jobs and left >= PRICE) or self.shut_out:
            return False
        self.jobs -= 1
        self.in_flight += 1
        self.spent += PRICE
        self.sent.append(now)
        return True

    def usage(self, now: float) -> Usage:
        self.beat += 1
        recent = sum(at > now - RATE_WINDOW_S for at in self.sent)
        return Usage(
            shard=self.shard,
            generation=self.generation,
            beat=self.beat,
            grant_number=self.grant_number,
            in_use={"slots": self.in_flight, "minute": recent},
            wanted={"slots": self.in_flight + self.jobs, "minute": self.jobs},
            spent={"usd": self.spent},
            needed={"usd": self.jobs * PRICE},
            minimum={"usd": PRICE},
        )

    def hears(self, number: int, grants) -> None:
        grant = grants.get(self.shard)
        if number > self.grant_number and grant and grant.generation == self.generation:
            self.grant_number, self.grant = number, grant


steps = st.lists(
    st.tuples(
        st.sampled_from(
            "join buy buy end tell see hear hear grant grant round wait die leave".split()
        ),
        st.integers(0, 2),
        st.integers(0, 60),
    ),
    min_size=100,
    max_size=150,
)


@settings(max_examples=60, deadline=None)
@given(steps, st.sampled_from([11, 300]))
def test_no_limit_is_exceeded_whatever_joins_dies_or_is_late(  # noqa: C901, PLR0912, PLR0915 - a case for each move
    moves, money
):
    """No limit is exceeded if runs join or die, or if messages are late."""
    quotas = {"slots": Quota(SLOTS), "minute": Quota(MINUTES, by_minute=True)}
    allocator = QuotaAllocator(quotas, {"usd": money})
    runs: dict[int, Run] = {}
    everyone: list[Run] = []
    messages: dict[int, list[Usage]] = {}
    joined = Counter()
    all_grants = [(0, {})]
    now, known = 0.0, 0

    for what, shard, n in moves:
        run = runs.get(shard)
        match what:
            case "join" if run is None:
                # A run that ended and joins again has fenced its predecessor.
                joined[shard] += 1
                runs[shard] = Run(shard, joined[shard], jobs=9)
                everyone.append(runs[shard])
                messages[shard] = []
            case "die" if run is not None:
                # Its successor fences it, and finds its jobs in flight in the ledger.
                joined[shard] += 1
                heir = Run(shard, joined[shard], run.jobs, run.in_flight)
                run.shut_out, run.in_flight = True, 0
                runs[shard] = heir
                everyone.append(heir)
            case "buy" if run is not None:
                while run.sends(now):
                    pass
            case "round":
                # Only the messages of one run are late: it has not heard of the grants.
                for one in runs.values():
                    messages[one.shard].append(one.usage(now))
                    allocator.record(messages[one.shard][-1], now)
                grants = allocator.allocate(own={}, spent={"usd": known}, now=now)
                all_grants.append((allocator.number, grants))
                for one in runs.values():
                    if one.shard != shard:
                        one.hears(*all_grants[-1])
            case "end" if run is not None and run.in_flight:
                run.in_flight -= 1
            case "tell" if run is not None:
                messages[shard].append(run.usage(now))
            case "see" if messages.get(shard):
                # Any message in transit may arrive, also an old one.
                allocator.record(messages[shard][-1 - n % len(messages[shard])], now)
            case "hear" if run is not None:
                run.hears(*all_grants[-1 - n % min(len(all_grants), 3)])
            case "grant":
                grants = allocator.allocate(own={}, spent={"usd": known}, now=now)
                all_grants.append((allocator.number, grants))
            case "leave" if run is not None and not run.in_flight:
                run.shut_out = True
                last = run.usage(now)
                allocator.record(
                    Usage(
                        shard=shard,
                        generation=run.generation,
                        beat=last.beat,
                        grant_number=run.grant_number,
                        in_use=last.in_use,
                        spent=last.spent,
                        done=True,
                    ),
                    now,
                )
                allocator.end_shard(shard, now, slots_s=0)
                known += sum(one.spent for one in everyone if one.shard == shard)
                allocator.records_counted(shard, float("inf"))
                del runs[shard], messages[shard]
                everyone = [one for one in everyone if one.shard != shard] + [
                    Run(-1, 0, 0, sent=one.sent, spent=one.spent, shut_out=True)
                    for one in everyone
                    if one.shard == shard
                ]
            case "wait":
                now += n
            case _:
                pass
        sent = [at for one in everyone for at in one.sent]
        assert sum(one.in_flight for one in everyone) <= SLOTS
        assert sum(at > now - RATE_WINDOW_S for at in sent) <= MINUTES
        assert sum(one.spent for one in everyone) <= money


def spoken(allocator: QuotaAllocator, *usages: Usage, now: float = 0.0):
    for usage in usages:
        allocator.record(usage, now)
    return allocator.allocate(own={}, spent={}, now=now)


def usage(shard: int, beat: int = 1, generation: int = 1, **more) -> Usage:
    more = {"wanted": {"slots": 99}, **more}
    return Usage(shard=shard, generation=generation, beat=beat, **more)


def test_slots_are_granted_again_only_once_released():
    """Slots go to another run only after their holder has released them."""
    allocator = QuotaAllocator({"slots": Quota(6)})
    alone = spoken(allocator, usage(1))

    joined = spoken(
        allocator, usage(1, 2, grant_number=1, in_use={"slots": 6}), usage(2)
    )
    busy = spoken(allocator, usage(1, 3, grant_number=2, in_use={"slots": 5}))
    let_go = spoken(allocator, usage(1, 4, grant_number=3, in_use={"slots": 3}))

    assert alone[1].caps == {"slots": 6}
    assert [joined[n].caps["slots"] for n in (1, 2)] == [3, 0]
    assert [busy[n].caps["slots"] for n in (1, 2)] == [3, 1]
    assert [let_go[n].caps["slots"] for n in (1, 2)] == [3, 3]


def test_recent_submits_of_a_dead_run_stay_reserved():
    """Calls that a dead run may have sent recently are not granted again for a while."""
    allocator = QuotaAllocator({"minute": Quota(10, by_minute=True)})
    spoken(allocator, usage(1, wanted={"minute": 99}))

    heir = usage(1, 1, 2, wanted={"minute": 99})
    at_once = spoken(allocator, heir, now=5.0)
    later = allocator.allocate(own={}, spent={}, now=5.0 + LATE_S)

    assert at_once[1].caps == {"minute": 0}
    assert later[1].caps == {"minute": 10}


def test_minute_of_an_earlier_batch_is_granted_once_it_is_over():
    """Submits of an earlier batch leave the shards less of the minute until it is over."""
    allocator = QuotaAllocator({"minute": Quota(10, by_minute=True)})
    for _ in range(4):
        allocator.reserve_until("minute", 30.0)
    allocator.record(Usage(shard=1, generation=1, beat=1, wanted={"minute": 20}), 0.0)

    caps = [
        allocator.allocate(own={}, spent={}, now=now)[1].caps["minute"]
        for now in (0.0, 31.0)
    ]

    assert caps == [6, 10]


def test_last_of_the_money_goes_to_one_if_all_wait():
    """If all runs wait for each other, one of them gets the last of the money."""
    allocator = QuotaAllocator({}, {"usd": 7})
    short = {"needed": {"usd": 50}, "minimum": {"usd": 5}}

    first = spoken(allocator, usage(1, **short), usage(2, **short))
    allocator.record(usage(2, 2, spent={"usd": 0}, done=True), 1.0)
    allocator.end_shard(2, 1.0, slots_s=0)
    allocator.records_counted(2, float("inf"))
    after = allocator.allocate(own={}, spent={}, now=1.0)

    assert (first[1].final, first[2].final) == ([], ["usd"])
    assert (after[1].granted, after[1].final) == ({"usd": 7}, [])


MINIMUM = {"usd": 2, "submits": 1}


@dataclass
class Buyer:
    """A run that buys all it can: jobs of one price, each done within a round."""

    shard: int
    jobs: int
    price: int
    spent: Counter[str] = field(default_factory=Counter)
    beat: int = 0
    grant_number: int = 0
    grant: Grant | None = None

    def left(self, budget: str) -> int:
        granted = self.grant.granted.get(budget, 0) if self.grant else 0
        return granted - self.spent[budget]

    def short(self) -> bool:
        last = self.grant.final if self.grant else ()
        return any(
            self.left(p) < least for p, least in MINIMUM.items() if p not in last
        )

    def able(self) -> bool:
        return self.left("usd") >= self.price and self.left("submits") > 0

    def done(self) -> bool:
        return not self.jobs or not (self.short() or self.able())

    def usage(self) -> Usage:
        self.beat += 1
        return Usage(
            shard=self.shard,
            generation=1,
            beat=self.beat,
            grant_number=self.grant_number,
            wanted={"slots": 0 if self.grant_number and self.short() else self.jobs},
            spent=dict(self.spent),
            needed={budget: self.jobs * least for budget, least in MINIMUM.items()},
            minimum=MINIMUM,
            all_wait=bool(self.grant_number and self.short()),
            done=bool(self.grant_number and self.done()),
        )

    def hears(self, number: int, grant: Grant) -> None:
        self.grant_number, self.grant = number, grant
        for _ in range(grant.caps["slots"]):
            if self.jobs and self.able() and not self.short():
                self.jobs -= 1
                self.spent += Counter(usd=self.price, submits=1)


PLENTY = 99
buyers = st.tuples(st.integers(1, 9), st.sampled_from([1, 2]))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(buyers, min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(0, 40) | st.just(PLENTY),
    st.integers(0, 30) | st.just(PLENTY),
)
def test_everything_affordable_is_bought_however_granted(jobs, slots, usd, submits):
    """All affordable jobs are bought, whichever run holds the slots or the money."""
    allocator = QuotaAllocator(
        {"slots": Quota(slots)}, {"usd": usd, "submits": submits}
    )
    runs = {n: Buyer(n, *each) for n, each in enumerate(jobs)}
    everyone, known = [*runs.values()], Counter()

    for now in range(200):
        for shard, run in [*runs.items()]:
            usage = run.usage()
            allocator.record(usage, now)
            if usage.done:
                allocator.end_shard(shard, now, slots_s=0)
                allocator.records_counted(shard, 2)
                known += runs.pop(shard).spent
        for shard, grant in allocator.allocate(own={}, spent=known, now=now).items():
            runs[shard].hears(allocator.number, grant)

    assert not runs
    # If money and submits both run out, the last run may keep some of one.
    if PLENTY in {usd, submits} and any(one.jobs for one in everyone):
        assert usd - known["usd"] < MINIMUM["usd"] or submits == known["submits"]


@given(st.integers(0, 40), st.lists(st.integers(0, 20), max_size=6))
def test_everything_wanted_is_divided_evenly(most, wants):
    """Everything wanted is granted, and no run that wants more is two behind another."""
    shares = evenly(most, wants)

    assert sum(shares) == min(most, sum(wants))
    hungry = [got for got, want in zip(shares, wants, strict=True) if got < want]
    assert all(got <= want for got, want in zip(shares, wants, strict=True))
    assert not hungry or max(shares) - min(hungry) <= 1


def test_use_above_a_limit_is_not_granted_when_it_ends():
    """Slots taken above the limit are not granted again when they become free."""
    allocator = QuotaAllocator({"slots": Quota(6)})
    for shard, held in ((0, 5), (1, 6)):
        allocator.record(
            Usage(
                shard=shard,
                generation=1,
                beat=1,
                in_use={"slots": held},
                wanted={"slots": 20},
            ),
            0.0,
        )

    grants = allocator.allocate(own={}, spent={}, now=0.0)

    # Five jobs of one run end at once, and the other run still holds its six slots.
    assert [grants[shard].caps["slots"] for shard in (0, 1)] == [0, 1]
