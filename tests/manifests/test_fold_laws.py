"""Laws of the fold for any sequence of events, checked against a separate model.

The model is naive on purpose: it lists the cost of each attempt, and states in words
which events are legal in which state.
"""

from collections import defaultdict, deque
from dataclasses import dataclass, field, replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from manifests.accounting.attempts import attempts
from manifests.lifecycle import (
    LOST,
    NEW,
    OVER,
    Accepted,
    Adjusted,
    Discarded,
    Doubted,
    Entry,
    Facts,
    Forgotten,
    Generated,
    IllegalTransitionError,
    Intended,
    Parked,
    Published,
    Refused,
    Rejected,
    Risked,
    Ticket,
    fold,
)
from storage.ledger.codec import Open, Seal, pack, unpack
from tests.histories import FACTS

# Shrinking a failure takes a while.
pytestmark = pytest.mark.timeout(900)

LIVES = [letter * 32 for letter in "abc"]


MAY = {
    Intended: {"pending"},
    Accepted: {"in_doubt"},
    Doubted: {"in_doubt"},
    Risked: {"in_doubt"},
    Refused: {"in_doubt", "accepted"},
    Rejected: {"in_doubt", "accepted"},
    Generated: {"accepted"},
    Discarded: {"accepted", "generated"},
    Forgotten: {"accepted", "generated"},
    Parked: {"accepted", "generated"},
    Published: {"generated"},
}
"""The states in which each event is legal; Adjusted is legal once an attempt is over."""


@dataclass
class Life:
    """The model's record of one life."""

    state: str = "pending"
    costs: list[Decimal] = field(default_factory=list)
    """The cost of each attempt, as known or as possibly charged."""
    failures: int = 0
    discards: int = 0
    losses: int = 0
    risks: int = 0
    ticket: Ticket | None = None
    submitted_at: float | None = None

    def settled(self):
        """The number of attempts whose charge is final."""
        return len(self.costs) - (self.state in {"in_doubt", "accepted"})

    def may(self, event):
        if isinstance(event, Adjusted):
            return 1 <= event.attempt <= self.settled()
        return self.state in MAY[type(event)]

    def happens(self, entry):  # noqa: C901 - one case an event
        match entry.event:
            case Intended(price_usd=price):
                self.state, self.ticket = "in_doubt", None
                self.submitted_at = entry.at
                self.costs.append(price)
            case Accepted(ticket):
                self.state, self.ticket = "accepted", ticket
            case Risked():
                self.state = "pending"
                self.risks += 1
            case Refused():
                self.failures += self.state == "accepted"
                self.state = "pending"
                self.costs[-1] = Decimal(0)
            case Rejected(charged=charged):
                self.state = "rejected"
                self.costs[-1] *= charged
            case Generated(usd=usd):
                self.state = "generated"
                self.costs[-1] = self.costs[-1] if usd is None else usd
            case Discarded():
                self.state = "pending"
                self.failures += 1
                self.discards += 1
            case Forgotten():
                self.state = "pending"
                self.losses += 1
            case Published():
                self.state = "published"
            case Adjusted(attempt=attempt, usd=usd):
                self.costs[attempt - 1] += usd


amounts = st.decimals("0", "99.99", places=4)
words = st.text(max_size=20)
numbers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
tickets = st.builds(
    Ticket, words, words, urls=st.dictionaries(words, words, max_size=2)
)
facts = st.builds(
    Facts,
    sha256=words,
    bytes=numbers,
    seconds=floats,
    fps=floats,
    width=numbers,
    height=numbers,
    codec=words,
    frames=numbers,
)


def events(usd):
    """Events of each kind with any content, with these amounts of money."""
    settled = st.builds(Adjusted, attempt=st.integers(-1, 5), usd=usd, reason=words)
    return {
        Intended: st.builds(
            Intended, lane=words, route=words, price_usd=usd, seed=numbers, mark=words
        ),
        Accepted: st.builds(Accepted, tickets),
        Doubted: st.builds(Doubted, words, st.sampled_from(LOST)),
        Risked: st.builds(Risked, words),
        Refused: st.builds(Refused, words),
        Discarded: st.builds(Discarded, words),
        Forgotten: st.builds(Forgotten, words),
        Parked: st.builds(Parked, words),
        Rejected: st.builds(Rejected, words, st.booleans()),
        Generated: st.builds(Generated, st.none() | numbers, st.none() | usd),
        Published: st.builds(Published, words, facts),
        Adjusted: settled,
    }


ANYTHING = st.one_of(*events(amounts).values())
STEP = st.tuples(st.sampled_from(LIVES), st.integers(0, 59), st.integers(0, 999))
"""A step: the life, the number of the possible event, and an amount."""


def one(kind, usd, number):
    """The smallest event of a kind."""
    match kind.__name__:
        case "Intended":
            return Intended(lane="l", route=f"p/{number}", price_usd=usd, seed=number)
        case "Accepted":
            return Accepted(Ticket("p", f"t{number}"))
        case "Rejected":
            return Rejected("no", charged=number % 2 == 0)
        case "Generated":
            return Generated(usd=usd if number % 2 else None)
        case "Published":
            return Published("u", FACTS)
        case _:
            return kind(f"r{number}")


class Fold(RuleBasedStateMachine):
    """Three jobs to which any event may happen at any time."""

    def __init__(self):
        super().__init__()
        self.entries = []
        self.lives = {}
        self.model = defaultdict(Life)

    def happens(self, life, event):
        entry = Entry(life, float(len(self.entries)), event)
        history = self.lives.get(life, NEW)
        if self.model[life].may(event):
            self.lives[life] = history.after(entry)
            self.model[life].happens(entry)
            self.entries.append(entry)
            return
        before = replace(history)
        with pytest.raises(IllegalTransitionError):
            history.after(entry)
        with pytest.raises(IllegalTransitionError):
            fold([*self.entries, entry])
        assert history == before

    @rule(life=st.sampled_from(LIVES), event=ANYTHING)
    def anything(self, life, event):
        self.happens(life, event)

    @initialize(steps=st.lists(STEP, min_size=15, max_size=50))
    def begins(self, steps):
        self.go_on(steps)

    @rule(steps=st.lists(STEP, max_size=10))
    def goes_on(self, steps):
        self.go_on(steps)

    def go_on(self, steps):
        """Draw possible events one after the other."""
        for life, choice, cents in steps:
            state = self.model[life].state
            able = [kind for kind, where in MAY.items() if state in where]
            if able:
                kind = able[choice % len(able)]
                self.happens(life, one(kind, Decimal(cents) / 100, len(self.entries)))
                self.the_model_agrees()

    @precondition(lambda self: any(life.settled() for life in self.model.values()))
    @rule(data=st.data())
    def part_of_the_money_comes_back(self, data):
        bought = [name for name, life in self.model.items() if life.settled()]
        name = data.draw(st.sampled_from(bought))
        life, history = self.model[name], self.lives[name]
        attempt = data.draw(st.integers(1, life.settled()))
        share = data.draw(st.decimals(0, 1, places=2))
        refund = Adjusted(
            attempt=attempt, usd=-life.costs[attempt - 1] * share, reason=""
        )

        self.happens(name, refund)

        after = self.lives[name]
        assert replace(after, spent_usd=history.spent_usd) == history

    @precondition(lambda self: any(h.state in OVER for h in self.lives.values()))
    @rule(data=st.data(), event=ANYTHING)
    def what_is_over_is_only_settled(self, data, event):
        over = [name for name, history in self.lives.items() if history.state in OVER]
        name = data.draw(st.sampled_from(over))
        state = self.lives[name].state
        able = self.model[name].may(event)

        self.happens(name, event)

        assert not able or isinstance(event, Adjusted)
        assert self.lives[name].state is state

    @rule(data=st.data())
    def it_may_be_folded_in_two_parts(self, data):
        cut = data.draw(st.integers(0, len(self.entries)))
        lives = fold(self.entries[:cut])
        for entry in self.entries[cut:]:
            lives[entry.job] = lives.get(entry.job, NEW).after(entry)

        assert lives == fold(self.entries) == self.lives

    @rule(data=st.data())
    def no_life_minds_when_another_goes_on(self, data):
        queues = defaultdict(deque)
        for entry in self.entries:
            queues[entry.job].append(entry)
        order = data.draw(st.permutations([entry.job for entry in self.entries]))

        assert fold(queues[job].popleft() for job in order) == self.lives

    @rule(life=st.sampled_from(LIVES))
    def a_life_is_its_own_entries(self, life):
        alone = fold(entry for entry in self.entries if entry.job == life)

        assert alone.get(life, NEW) == self.lives.get(life, NEW)
        assert alone.keys() <= {life}

    @invariant()
    def the_model_agrees(self):
        for name, history in self.lives.items():
            life = self.model[name]
            assert (history.state, history.attempts) == (life.state, len(life.costs))
            assert (
                history.failures,
                history.discards,
                history.losses,
                history.risks,
            ) == (
                life.failures,
                life.discards,
                life.losses,
                life.risks,
            )
            assert (history.ticket, history.submitted_at) == (
                life.ticket,
                life.submitted_at,
            )
            assert history.charged == life.settled()

    @invariant()
    def spent_is_the_cost_of_all_attempts(self):
        """The money spent is the cost of all attempts, and never less than 0."""
        for name, history in self.lives.items():
            assert history.spent_usd == sum(self.model[name].costs) >= 0

    @invariant()
    def each_attempt_costs_what_the_model_says(self):
        costs = defaultdict(list)
        for attempt in attempts(self.entries):
            costs[attempt.job].append(attempt.cost_usd)
        assert costs == {
            name: life.costs for name, life in self.model.items() if life.costs
        }

    @invariant()
    def what_is_on_record_is_read_as_it_was_written(self):
        assert unpack(pack(self.entries[-3:]), "key") == self.entries[-3:]


class TestFold(Fold.TestCase):
    settings = settings(max_examples=30, stateful_step_count=12, deadline=None)


exact = st.decimals(allow_nan=False, allow_infinity=False)
records = st.one_of(
    st.builds(Entry, words, floats, st.one_of(*events(exact).values())),
    st.builds(Open, words, floats),
    st.builds(Seal, numbers, floats),
)


@settings(deadline=None)
@given(st.lists(records, max_size=5))
def test_any_record_is_read_exactly_as_it_was_written(record):
    read = unpack(pack(record), "key")

    # Equal amounts may be written differently: 0.1 and 0.10, 0 and -0.
    assert list(map(repr, read)) == list(map(repr, record))


@given(st.lists(records, max_size=3), st.lists(records, max_size=3))
def test_segments_put_one_after_the_other_are_read_as_one(one, other):
    together = unpack(pack(one) + pack(other), "key")

    assert list(map(repr, together)) == list(map(repr, [*one, *other]))
