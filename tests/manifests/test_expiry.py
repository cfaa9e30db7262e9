"""Expiry: clips are fetched early enough, and given up late enough."""

from decimal import Decimal

import pytest

from manifests.catalogue import Route, load
from manifests.expiry import by_expiry, expired, expires_at, in_use, is_over
from manifests.lifecycle import History, State

HOUR, DAY = 3600.0, 24 * 3600.0
BOUGHT = 1_800_000_000.0


def route(keeps_s, name="replicate/wan-2.2"):
    prices = {("480p", 5): Decimal("0.06")}
    return Route(
        name=name, endpoints={"480p": "m"}, prices_usd=prices, fps=16, keeps_s=keeps_s
    )


def accepted(at=BOUGHT, on="replicate/wan-2.2"):
    return History(state=State.ACCEPTED, accepted_at=at, route=on)


def generated(at=BOUGHT, on="replicate/wan-2.2"):
    return History(state=State.GENERATED, accepted_at=BOUGHT, generated_at=at, route=on)


def test_clip_expires_after_its_end_or_else_its_start():
    """A clip expires a fixed time after its end, or its start if no end is known."""
    hour = route(3600)

    assert expires_at(generated(BOUGHT + 60), hour) == BOUGHT + 60 + HOUR
    assert expires_at(accepted(), hour) == BOUGHT + HOUR


@pytest.mark.parametrize("state", [State.PENDING, State.IN_DOUBT, State.PUBLISHED])
def test_what_is_not_at_a_provider_does_not_expire(state):
    assert expires_at(History(state=state, accepted_at=BOUGHT), route(3600)) is None


@pytest.mark.parametrize("unknown", [None, route(None)])
def test_unknown_keeping_time_is_an_hour_or_a_month(
    unknown,
):
    """Unknown keeping time: fetched within an hour, given up after a month."""
    clip = generated()

    assert expires_at(clip, unknown) == BOUGHT + HOUR
    assert not is_over(clip, unknown, BOUGHT + 30 * DAY)
    assert is_over(clip, unknown, BOUGHT + 30 * DAY + 1)


def test_clip_of_unseen_end_is_owed_for_the_longest_run():
    """A clip whose end nobody saw is owed for as long as its job may have run."""
    hour = route(3600)
    late = generated(BOUGHT + 9 * DAY)

    assert is_over(generated(BOUGHT + 60), hour, BOUGHT + 61 + HOUR)
    for unseen in (accepted(), late):
        assert not is_over(unseen, hour, BOUGHT + DAY + HOUR)
        assert is_over(unseen, hour, BOUGHT + DAY + HOUR + 1)


def test_what_expires_first_comes_first_whoever_has_it():
    lives = {
        "week": generated(on="fal/wan-2.2"),
        "hour": generated(BOUGHT + DAY),
        "nobody knows": accepted(BOUGHT + DAY + 60, on="302ai/unified"),
        "gone": accepted(),
        "ours": History(state=State.PUBLISHED, route="replicate/wan-2.2"),
    }

    order = by_expiry(lives, load().routes)

    assert [life for _, life in order] == ["gone", "hour", "nobody knows", "week"]
    assert order[0][0] == BOUGHT + HOUR


def test_the_figures_of_whoever_uses_a_route_go_before_ours():
    overridden = load({"routes": {"replicate/wan-2.2": {"keeps_s": 7200}}})

    routes = in_use(load().routes, [overridden.route("replicate/wan-2.2")])

    assert expires_at(generated(), routes["replicate/wan-2.2"]) == BOUGHT + 2 * HOUR
    assert routes["fal/wan-2.2"] == load().route("fal/wan-2.2")


def test_what_is_lost_says_where_and_that_it_was_paid_for():
    reason = expired("kling", "HTTP 404, 3 fresh links").reason

    assert reason == (
        "expired at kling: HTTP 404, 3 fresh links, it was paid for and is lost"
    )
