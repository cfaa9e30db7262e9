"""Laws of a job's life: a job in doubt is never bought again, and money adds up."""

from collections import defaultdict
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from manifests.lifecycle import (
    LOST,
    OVER,
    TRANSITIONS,
    UNBILLED,
    Accepted,
    Adjusted,
    Discarded,
    Doubted,
    Entry,
    Forgotten,
    Generated,
    History,
    IllegalTransitionError,
    Intended,
    Parked,
    Published,
    Refused,
    Rejected,
    Risked,
    State,
    Ticket,
    fold,
)
from tests.histories import FACTS, intended, ledger_entries

INTENDED = intended()
ACCEPTED = Accepted(Ticket("wavespeed", "id-1"))
EVENTS = [
    INTENDED,
    ACCEPTED,
    Doubted("silence"),
    Refused("busy"),
    Risked("allowed"),
    Discarded("black"),
    Forgotten("restarted"),
    Parked("our own check failed"),
    Rejected("no"),
    Generated(),
    Published("s3://b/c.mp4", FACTS),
    Adjusted(attempt=1, usd=Decimal("0.05"), reason="billed at 720p"),
]


def history(*events, start=100.0):
    return fold(ledger_entries("j", *events, start=start))["j"]


def test_a_job_in_doubt_is_never_submitted_again():
    with pytest.raises(IllegalTransitionError, match="job j: Intended while in_doubt"):
        history(INTENDED, INTENDED)


def test_doubt_that_is_told_is_still_doubt():
    doubted = history(INTENDED, Doubted("silence"))

    assert (doubted.state, doubted.reason) == (State.IN_DOUBT, "silence")
    assert doubted.spent_usd == Decimal("0.15")
    with pytest.raises(IllegalTransitionError):
        history(INTENDED, Doubted("silence"), INTENDED)


@pytest.mark.parametrize(("mark", "billed"), [(f"{UNBILLED}gpu", False), ("a-1", True)])
def test_only_submit_to_an_own_gpu_sends_no_bill(mark, billed):
    """Whether a submit is billed is recorded with it, in doubt or answered."""
    submit = intended(mark=mark)

    for events in [(submit,), (submit, ACCEPTED), (submit, Doubted("silence"))]:
        assert history(*events).billed is billed


def ways_on(known):
    """The events that are legal next, found by trying each."""
    for event in EVENTS:
        try:
            known.after(Entry("j", 9.0, event))
        except IllegalTransitionError:
            continue
        yield type(event)


def test_a_doubt_ends_only_in_an_answer():
    answers = {Accepted, Refused, Rejected}

    assert {*ways_on(history(INTENDED))} == {Doubted, Risked, *answers}


@pytest.mark.parametrize("lost", LOST)
def test_doubt_states_how_the_answer_was_lost(lost):
    """A doubt states how the answer was lost until the doubt is resolved."""
    doubted = history(INTENDED, Doubted("?", lost))

    assert doubted.lost == lost
    for after in (ACCEPTED, Refused("no"), Rejected("no"), Risked("allowed")):
        assert history(INTENDED, Doubted("?", lost), after).lost is None


def test_doubt_without_explanation_is_unclear():
    """A doubt without an explanation is `unclear`; an unanswered submit has none yet."""
    assert history(INTENDED, Doubted("?")).lost == "unclear"
    assert history(INTENDED).lost is None


def test_risked_job_may_be_submitted_again_and_counts_as_paid():
    """A risked job may be submitted again, and its first price still counts as spent."""
    risked = history(INTENDED, Doubted("silence"), Risked("allowed"))
    again = history(INTENDED, Doubted("silence"), Risked("allowed"), INTENDED)

    assert (risked.state, risked.risks) == (State.PENDING, 1)
    assert (risked.spent_usd, again.spent_usd) == (Decimal("0.15"), Decimal("0.30"))
    assert (risked.failures, risked.discards) == (0, 0)


@pytest.mark.parametrize("events", [(), (INTENDED, ACCEPTED), (INTENDED, Refused("b"))])
def test_a_risk_is_taken_only_with_what_is_in_doubt(events):
    known = fold([Entry("j", 1.0, event) for event in events]).get("j", History())

    assert Risked not in ways_on(known)


@pytest.mark.parametrize(
    "events",
    [
        (INTENDED, Refused("busy")),
        (INTENDED, Risked("allowed"), INTENDED),
        (INTENDED, ACCEPTED, Discarded("black"), INTENDED, ACCEPTED),
        (INTENDED, ACCEPTED, Generated()),
        (INTENDED, ACCEPTED, Generated(), Published("u", FACTS)),
        (INTENDED, Rejected("no", charged=True)),
    ],
)
def test_settlement_changes_only_the_cost_of_an_ended_attempt(
    events,
):
    """A settlement applies to an attempt that is over, and changes nothing but money."""
    before = history(*events)
    refund = Adjusted(attempt=1, usd=Decimal("-0.05"), reason="refunded in part")

    after = history(*events, refund)

    assert after.spent_usd == before.spent_usd - Decimal("0.05")
    assert replace(after, spent_usd=before.spent_usd) == before


@pytest.mark.parametrize("events", [(INTENDED,), (INTENDED, ACCEPTED)])
def test_what_may_yet_be_refunded_whole_is_not_settled_in_part(events):
    with pytest.raises(IllegalTransitionError, match="attempt 1 of 1 settled"):
        history(*events, Adjusted(attempt=1, usd=Decimal("-0.05"), reason="?"))


def test_what_the_provider_says_that_it_charged_is_the_price():
    cheaper = history(INTENDED, ACCEPTED, Generated(usd=Decimal("0.10")))

    assert cheaper.price_usd == cheaper.spent_usd == Decimal("0.10")


@pytest.mark.parametrize("attempt", [0, 2])
def test_an_attempt_that_was_never_made_is_never_settled(attempt):
    odd = Adjusted(attempt=attempt, usd=Decimal(1), reason="?")

    with pytest.raises(IllegalTransitionError, match=f"attempt {attempt} of 1 settled"):
        history(INTENDED, odd)


def test_a_job_remembers_where_it_was_accepted_and_not_delivered():
    elsewhere = replace(INTENDED, route="atlas/wan-2.2-spicy")
    failed = (INTENDED, ACCEPTED, Refused("failed"))

    assert history(INTENDED, Refused("busy")).failed_route is None
    assert history(*failed).failed_route == "wavespeed/wan-2.2-spicy"
    assert history(*failed, elsewhere, Refused("busy")).failed_route == INTENDED.route
    assert (
        history(*failed, elsewhere, ACCEPTED, Discarded("black")).failed_route
        == "atlas/wan-2.2-spicy"
    )


def test_a_submit_is_known_by_its_own_mark():
    marked = replace(INTENDED, mark="first")

    assert history(marked).mark == "first"
    assert history(marked, Refused("busy"), INTENDED).mark == ""


def test_only_what_was_accepted_is_discarded():
    able = [
        each
        for each in (
            History(),
            history(INTENDED),
            history(INTENDED, ACCEPTED),
            history(INTENDED, ACCEPTED, Generated()),
            history(INTENDED, ACCEPTED, Generated(), Published("u", FACTS)),
            history(INTENDED, Rejected("no")),
        )
        if Discarded in ways_on(each)
    ]

    assert [each.state for each in able] == [State.ACCEPTED, State.GENERATED]


def test_next_attempt_keeps_counts_and_resets_its_own_course():
    """A new attempt keeps the job's counts and resets only the course of the attempt."""
    once = history(INTENDED, ACCEPTED, Refused("failed"))
    again = history(INTENDED, ACCEPTED, Refused("failed"), INTENDED, ACCEPTED)

    assert (again.failures, again.attempts) == (once.failures, once.attempts + 1)
    assert (again.submitted_at, again.accepted_at) == (103.0, 104.0)


def test_what_was_rejected_is_never_tried_anywhere_again():
    with pytest.raises(IllegalTransitionError):
        history(INTENDED, Rejected("content policy"), INTENDED)


def test_what_was_published_is_never_bought_again():
    with pytest.raises(IllegalTransitionError):
        history(INTENDED, ACCEPTED, Generated(), Published("u", FACTS), INTENDED)


def test_a_clip_is_published_only_when_its_submit_was_accepted():
    with pytest.raises(IllegalTransitionError):
        history(INTENDED, Published("u", FACTS))


def test_an_illegal_event_changes_nothing():
    before = history(INTENDED)

    with pytest.raises(IllegalTransitionError):
        before.after(Entry("j", 9.0, Published("u", FACTS)))

    assert before == history(INTENDED)


def test_a_refusal_costs_nothing_and_a_discard_costs_its_price():
    assert history(INTENDED, ACCEPTED, Refused("failed")).spent_usd == 0
    assert history(INTENDED, ACCEPTED, Discarded("b")).spent_usd == Decimal("0.15")
    assert history(INTENDED, Rejected("no")).spent_usd == 0
    charged = history(INTENDED, ACCEPTED, Rejected("no", charged=True))
    assert charged.spent_usd == Decimal("0.15")


def test_only_accepted_undelivered_attempts_are_failures():
    """Only an attempt that a provider accepted and did not deliver is its failure."""
    assert history(INTENDED, Refused("busy")).failures == 0
    assert history(INTENDED, ACCEPTED, Refused("failed")).failures == 1
    assert history(INTENDED, ACCEPTED, Discarded("black")).failures == 1
    assert history(INTENDED, ACCEPTED, Discarded("black")).discards == 1


def test_what_a_restart_forgot_is_no_failure_and_keeps_its_seed():
    known = history(INTENDED, ACCEPTED, Generated(), Forgotten("restarted"))

    assert (known.state, known.losses) == (State.PENDING, 1)
    assert (known.failures, known.discards) == (0, 0)
    assert known.spent_usd == Decimal("0.15")


def test_a_new_attempt_starts_with_a_clean_slate_and_an_old_bill():
    again = history(INTENDED, ACCEPTED, Generated(), Discarded("black"), INTENDED)

    assert (again.attempts, again.spent_usd) == (2, Decimal("0.30"))
    assert (again.ticket, again.reason) == (None, None)
    assert (again.submitted_at, again.accepted_at, again.generated_at) == (
        104.0,
        None,
        None,
    )


def test_the_seed_the_provider_names_is_the_seed_of_the_clip():
    assert history(INTENDED, ACCEPTED, Generated()).seed == 7
    assert history(INTENDED, ACCEPTED, Generated(0)).seed == 0


def test_from_every_state_but_the_ends_a_job_leads_on():
    ends = {at for at, onward in TRANSITIONS.items() if {*onward.values()} == {at}}

    assert ends == {State.PUBLISHED, State.REJECTED, State.UNPLAYABLE} == OVER
    assert set(TRANSITIONS) == set(State)


@given(st.lists(st.sampled_from(EVENTS)))
def test_any_event_is_either_recorded_or_refused_whole(events):
    known = History()
    for event in events:
        legal = type(event) in TRANSITIONS[known.state]
        if isinstance(event, Adjusted):
            legal = known.charged > 0
        if legal:
            known = known.after(Entry("j", 1.0, event))
        else:
            with pytest.raises(IllegalTransitionError):
                known.after(Entry("j", 1.0, event))
        assert known.spent_usd >= 0


PRICES = st.decimals("0.01", "9.99", places=4)
JOBS = st.sampled_from(["a", "b", "c"])


class Lives(RuleBasedStateMachine):
    """Three jobs, any legal events, and a bill kept apart from them."""

    def __init__(self):
        super().__init__()
        self.entries = []
        self.histories = defaultdict(History)
        self.bill = defaultdict(Decimal)
        self.open = defaultdict(lambda: None)
        self.clock = 0.0

    def record(self, job, event):
        self.clock += 1
        entry = Entry(job, self.clock, event)
        if type(event) not in TRANSITIONS[self.histories[job].state]:
            with pytest.raises(IllegalTransitionError):
                self.histories[job].after(entry)
            return False
        self.entries.append(entry)
        self.histories[job] = self.histories[job].after(entry)
        return True

    @rule(job=JOBS, price=PRICES, seed=st.integers(0, 9))
    def intend(self, job, price, seed):
        meant = Intended(lane="l", route="p/m", price_usd=price, seed=seed)
        if self.record(job, meant):
            assert self.open[job] is None, "paid for twice"
            self.open[job] = price

    @rule(job=JOBS)
    def accept(self, job):
        self.record(job, ACCEPTED)

    @rule(job=JOBS)
    def doubt(self, job):
        self.record(job, Doubted("silence"))

    @rule(job=JOBS)
    def generate(self, job):
        self.record(job, Generated())

    @rule(job=JOBS)
    def refuse(self, job):
        if self.record(job, Refused("busy")):
            self.open[job] = None

    @rule(job=JOBS)
    def risk(self, job):
        if self.record(job, Risked("allowed")):
            self.bill[job] += self.open[job]
            self.open[job] = None

    @precondition(lambda self: any(each.charged for each in self.histories.values()))
    @rule(data=st.data(), usd=st.decimals("-9.99", "9.99", places=4))
    def settle(self, data, usd):
        bought = [job for job, each in self.histories.items() if each.charged]
        job = data.draw(st.sampled_from(sorted(bought)))
        attempt = data.draw(st.integers(1, self.histories[job].charged))
        assert self.record(job, Adjusted(attempt=attempt, usd=usd, reason="said later"))
        self.bill[job] += usd

    @rule(job=JOBS)
    def discard(self, job):
        if self.record(job, Discarded("black")):
            self.bill[job] += self.open[job]
            self.open[job] = None

    @rule(job=JOBS, charged=st.booleans())
    def reject(self, job, charged):
        if self.record(job, Rejected("no", charged)):
            self.bill[job] += self.open[job] if charged else 0
            self.open[job] = "never again"

    @rule(job=JOBS)
    def publish(self, job):
        if self.record(job, Published("u", FACTS)):
            self.bill[job] += self.open[job]
            self.open[job] = "never again"

    @invariant()
    def what_was_spent_is_what_was_charged_or_may_have_been(self):
        for job, each in self.histories.items():
            under_way = self.open[job] if isinstance(self.open[job], Decimal) else 0
            assert each.spent_usd == self.bill[job] + under_way

    @precondition(lambda self: self.entries)
    @rule()
    def replay(self):
        lived = {job: each for job, each in self.histories.items() if each != History()}
        assert fold(self.entries) == lived


class TestLives(Lives.TestCase):
    settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
