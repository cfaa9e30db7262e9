"""Strategies for the possible lives of jobs, for the tests of the tables."""

from collections import defaultdict

import pytest
from hypothesis import strategies as st

from manifests.lifecycle import (
    LOST,
    TRANSITIONS,
    Accepted,
    Adjusted,
    Discarded,
    Doubted,
    Entry,
    Forgotten,
    Generated,
    History,
    Intended,
    Parked,
    Published,
    Refused,
    Rejected,
    Risked,
    Ticket,
)
from tests.histories import FACTS

PRICES = st.decimals("0.0001", "0.9999", places=4)
WHAT = {
    Intended: st.builds(
        Intended,
        lane=st.sampled_from(["spicy", "clouds"]),
        route=st.sampled_from(["wavespeed/wan-2.2-spicy", "atlas/wan-2.2-spicy"]),
        price_usd=PRICES,
        seed=st.just(7),
    ),
    Accepted: st.just(Accepted(Ticket("wavespeed", "remote-1"))),
    Doubted: st.builds(Doubted, st.just("ReadTimeout"), st.sampled_from(LOST)),
    Risked: st.just(Risked("allowed")),
    Refused: st.just(Refused("busy")),
    Discarded: st.just(Discarded("black")),
    Forgotten: st.just(Forgotten("restarted")),
    Parked: st.just(Parked("our own check failed")),
    Rejected: st.builds(Rejected, st.just("content policy"), st.booleans()),
    Generated: st.builds(Generated, usd=st.none() | PRICES),
    Published: st.just(Published("s3://out/clips/ab/abcd.mp4", FACTS)),
}


@st.composite
def entries_of(draw, jobs, *, over=False, begun=()):
    """Draw possible events of these jobs, a second apart, after the entries in `begun`.

    With `over`, no further attempt is bought.
    """
    histories = defaultdict(History)
    for entry in begun:
        histories[entry.job] = histories[entry.job].after(entry)
    entries = []
    for second in range(draw(st.integers(0, 40))):
        life = draw(st.sampled_from(jobs))
        history = histories[life]
        kinds = [kind for kind in WHAT if kind in TRANSITIONS[history.state]]
        if over:
            kinds = [kind for kind in kinds if kind is not Intended]
        settled = st.builds(
            Adjusted,
            attempt=st.integers(1, max(1, history.charged)),
            usd=st.decimals("-0.5", "0.5", places=4),
            reason=st.just("settled"),
        )
        ways = [WHAT[kind] for kind in kinds] + [settled] * bool(history.charged)
        if ways:
            entry = Entry(life, 1000.0 + len(begun) + second, draw(st.one_of(ways)))
            histories[life] = history.after(entry)
            entries.append(entry)
    return entries


@pytest.fixture(scope="session")
def lives_of():
    return entries_of
