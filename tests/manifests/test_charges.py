"""What each attempt has cost by now."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from manifests.accounting.charges import charges
from manifests.lifecycle import (
    Accepted,
    Discarded,
    Entry,
    Intended,
    Refused,
    Settled,
    Ticket,
    fold,
)

PRICE = Decimal("0.28")
INTENDED = Intended(
    lane="kling", route="kling/kling-2.5-turbo", price_usd=PRICE, seed=1
)
ACCEPTED = Accepted(Ticket("kling", "t-1"))


def entries(*events):
    return [Entry("j", float(n), event) for n, event in enumerate(events)]


def test_what_was_refused_cost_nothing_and_what_was_discarded_its_price():
    first, second = charges(
        entries(INTENDED, ACCEPTED, Refused("busy"), INTENDED, ACCEPTED, Discarded("?"))
    )

    assert (first.number, first.counted_usd) == (1, 0)
    assert (second.number, second.counted_usd) == (2, PRICE)


def test_a_refund_that_came_later_is_part_of_what_it_cost():
    refund = Settled(attempt=1, usd=-PRICE, reason="refunded")

    [only] = charges(entries(INTENDED, ACCEPTED, Discarded("black"), refund))

    assert (only.counted_usd, only.ended_at) == (0, 2.0)


def test_the_last_of_a_jobs_attempts_is_there_though_it_has_not_ended():
    [only] = charges(entries(INTENDED, ACCEPTED))

    assert (only.ended_at, only.ticket) == (None, ACCEPTED.ticket)


@given(st.data())
def test_over_jobs_with_one_attempt_it_is_what_the_ledger_has_spent(lives_of, data):
    lived = data.draw(lives_of(["a", "b"]))
    spent = {job: past for job, past in fold(lived).items() if past.attempts == 1}

    told = {each.job: each.counted_usd for each in charges(lived)}

    assert {job: past.spent_usd for job, past in spent.items()} == {
        job: told[job] for job in spent
    }
