"""Laws of dealing: late messages and dead runs never cause a limit to be exceeded."""

from collections import Counter, deque
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.dispatch.rate_limit import RATE_WINDOW_S
from tasks.distributed.quota import LATE_S, Dealer, Hand, Quota, Share, evenly

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
    deal: int = 0
    share: Share | None = None
    shut_out: bool = False

    def cap(self, quota: str) -> int:
        return self.share.caps.get(quota, 0) if self.share else 0

    def sends(self, now: float) -> bool:
        """Submit once, if its share allows."""
        recent = sum(at > now - RATE_WINDOW_S for at in self.sent)
        left = (self.share.granted.get("usd", 0) if self.share else 0) - self.spent
        may = self.in_flight < self.cap("slots") and recent < self.cap("minute")
        if not (may and self.jobs and left >= PRICE) or self.shut_out:
            return False
        self.jobs -= 1
        self.in_flight += 1
        self.spent += PRICE
        self.sent.append(now)
        return True

    def hand(self, now: float) -> Hand:
        self.beat += 1
        recent = sum(at > now - RATE_WINDOW_S for at in self.sent)
        return Hand(
            shard=self.shard,
            generation=self.generation,
            beat=self.beat,
            deal=self.deal,
            held={"slots": self.in_flight, "minute": recent},
            wants={"slots": self.in_flight + self.jobs, "minute": self.jobs},
            used={"usd": self.spent},
            needs={"usd": self.jobs * PRICE},
            least={"usd": PRICE},
        )

    def hears(self, number: int, deal) -> None:
        share = deal.get(self.shard)
        if number > self.deal and share and share.generation == self.generation:
            self.deal, self.share = number, share


steps = st.lists(
    st.tuples(
        st.sampled_from(
            "join buy buy end tell see hear hear deal deal round wait die leave".split()
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
    dealer = Dealer(quotas, {"usd": money})
    runs: dict[int, Run] = {}
    everyone: list[Run] = []
    messages: dict[int, list[Hand]] = {}
    joined = Counter()
    deals = [(0, {})]
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
                # Only the messages of one run are late: it has not heard of the deal.
                for one in runs.values():
                    messages[one.shard].append(one.hand(now))
                    dealer.hear(messages[one.shard][-1], now)
                share = dealer.deal(own={}, spent={"usd": known}, now=now)
                deals.append((dealer.number, share))
                for one in runs.values():
                    if one.shard != shard:
                        one.hears(*deals[-1])
            case "end" if run is not None and run.in_flight:
                run.in_flight -= 1
            case "tell" if run is not None:
                messages[shard].append(run.hand(now))
            case "see" if messages.get(shard):
                # Any message in transit may arrive, also an old one.
                dealer.hear(messages[shard][-1 - n % len(messages[shard])], now)
            case "hear" if run is not None:
                run.hears(*deals[-1 - n % min(len(deals), 3)])
            case "deal":
                share = dealer.deal(own={}, spent={"usd": known}, now=now)
                deals.append((dealer.number, share))
            case "leave" if run is not None and not run.in_flight:
                run.shut_out = True
                last = run.hand(now)
                dealer.hear(
                    Hand(
                        shard=shard,
                        generation=run.generation,
                        beat=last.beat,
                        deal=run.deal,
                        held=last.held,
                        used=last.used,
                        done=True,
                    ),
                    now,
                )
                dealer.over(shard, now, slots_s=0)
                known += sum(one.spent for one in everyone if one.shard == shard)
                dealer.known(shard, float("inf"))
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


def spoken(dealer: Dealer, *hands: Hand, now: float = 0.0):
    for hand in hands:
        dealer.hear(hand, now)
    return dealer.deal(own={}, spent={}, now=now)


def hand(shard: int, beat: int = 1, generation: int = 1, **more) -> Hand:
    more = {"wants": {"slots": 99}, **more}
    return Hand(shard=shard, generation=generation, beat=beat, **more)


def test_share_is_dealt_again_only_once_its_holder_let_it_go():
    """A share goes to another run only after its holder has released it."""
    dealer = Dealer({"slots": Quota(6)})
    alone = spoken(dealer, hand(1))

    joined = spoken(dealer, hand(1, 2, deal=1, held={"slots": 6}), hand(2))
    busy = spoken(dealer, hand(1, 3, deal=2, held={"slots": 5}))
    let_go = spoken(dealer, hand(1, 4, deal=3, held={"slots": 3}))

    assert alone[1].caps == {"slots": 6}
    assert [joined[n].caps["slots"] for n in (1, 2)] == [3, 0]
    assert [busy[n].caps["slots"] for n in (1, 2)] == [3, 1]
    assert [let_go[n].caps["slots"] for n in (1, 2)] == [3, 3]


def test_recent_sends_of_a_dead_run_are_not_dealt_for_a_while():
    """Calls that a dead run may have sent recently are not dealt again for a while."""
    dealer = Dealer({"minute": Quota(10, by_minute=True)})
    spoken(dealer, hand(1, wants={"minute": 99}))

    heir = hand(1, 1, 2, wants={"minute": 99})
    at_once = spoken(dealer, heir, now=5.0)
    later = dealer.deal(own={}, spent={}, now=5.0 + LATE_S)

    assert at_once[1].caps == {"minute": 0}
    assert later[1].caps == {"minute": 10}


def test_last_of_the_money_goes_to_one_if_all_wait():
    """If all runs wait for each other, one of them gets the last of the money."""
    dealer = Dealer({}, {"usd": 7})
    short = {"needs": {"usd": 50}, "least": {"usd": 5}}

    first = spoken(dealer, hand(1, **short), hand(2, **short))
    dealer.hear(hand(2, 2, used={"usd": 0}, done=True), 1.0)
    dealer.over(2, 1.0, slots_s=0)
    dealer.known(2, float("inf"))
    after = dealer.deal(own={}, spent={}, now=1.0)

    assert (first[1].last, first[2].last) == ([], ["usd"])
    assert (after[1].granted, after[1].last) == ({"usd": 7}, [])


LEAST = {"usd": 2, "submits": 1}


@dataclass
class Buyer:
    """A run that buys all it can: jobs of one price, each done within a round."""

    shard: int
    jobs: int
    price: int
    spent: Counter[str] = field(default_factory=Counter)
    beat: int = 0
    deal: int = 0
    share: Share | None = None

    def left(self, purse: str) -> int:
        granted = self.share.granted.get(purse, 0) if self.share else 0
        return granted - self.spent[purse]

    def short(self) -> bool:
        last = self.share.last if self.share else ()
        return any(self.left(p) < least for p, least in LEAST.items() if p not in last)

    def able(self) -> bool:
        return self.left("usd") >= self.price and self.left("submits") > 0

    def done(self) -> bool:
        return not self.jobs or not (self.short() or self.able())

    def hand(self) -> Hand:
        self.beat += 1
        return Hand(
            shard=self.shard,
            generation=1,
            beat=self.beat,
            deal=self.deal,
            wants={"slots": 0 if self.deal and self.short() else self.jobs},
            used=dict(self.spent),
            needs={purse: self.jobs * least for purse, least in LEAST.items()},
            least=LEAST,
            short=bool(self.deal and self.short()),
            done=bool(self.deal and self.done()),
        )

    def hears(self, number: int, share: Share) -> None:
        self.deal, self.share = number, share
        for _ in range(share.caps["slots"]):
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
def test_everything_affordable_is_bought_however_dealt(jobs, slots, usd, submits):
    """All affordable jobs are bought, whichever run holds the slots or the money."""
    dealer = Dealer({"slots": Quota(slots)}, {"usd": usd, "submits": submits})
    runs = {n: Buyer(n, *each) for n, each in enumerate(jobs)}
    everyone, known = [*runs.values()], Counter()

    for now in range(200):
        for shard, run in [*runs.items()]:
            hand = run.hand()
            dealer.hear(hand, now)
            if hand.done:
                dealer.over(shard, now, slots_s=0)
                dealer.known(shard, 2)
                known += runs.pop(shard).spent
        for shard, share in dealer.deal(own={}, spent=known, now=now).items():
            runs[shard].hears(dealer.number, share)

    assert not runs
    # If money and submits both run out, the last run may keep some of one.
    if PLENTY in {usd, submits} and any(one.jobs for one in everyone):
        assert usd - known["usd"] < LEAST["usd"] or submits == known["submits"]


@given(st.integers(0, 40), st.lists(st.integers(0, 20), max_size=6))
def test_everything_wanted_is_dealt_evenly(most, wants):
    """Everything wanted is dealt, and no run that wants more is two behind another."""
    dealt = evenly(most, wants)

    assert sum(dealt) == min(most, sum(wants))
    hungry = [got for got, want in zip(dealt, wants, strict=True) if got < want]
    assert all(got <= want for got, want in zip(dealt, wants, strict=True))
    assert not hungry or max(dealt) - min(hungry) <= 1


def test_use_above_a_limit_is_not_dealt_when_it_ends():
    """Slots taken above the limit are not dealt again when they become free."""
    dealer = Dealer({"slots": Quota(6)})
    for shard, held in ((0, 5), (1, 6)):
        dealer.hear(
            Hand(
                shard=shard,
                generation=1,
                beat=1,
                held={"slots": held},
                wants={"slots": 20},
            ),
            0.0,
        )

    shares = dealer.deal(own={}, spent={}, now=0.0)

    # Five jobs of one run end at once, and the other run still holds its six slots.
    assert [shares[shard].caps["slots"] for shard in (0, 1)] == [0, 1]
