"""A process may die at any point: the sweep tries all of them, for every provider.

The tests try a part of them, another one for each dialect; `python -m tests.crashes`
tries all.
"""

import sys
from dataclasses import replace

import pytest

from tests.crashes.stage import Store
from tests.crashes.stories import Story
from tests.crashes.sweep import named, puts, sweep
from tests.crashes.teller import ROUTES, points, telling

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        sys.platform != "linux", reason="forks what has imported polars"
    ),
]

EVERY = 10
"""The tests try every tenth point."""

NOTHING_YET = "link ledger", "epochs"
"""Nothing is on record yet; the bug shows in the nights after it."""

FOUND = [
    ("intended_is_not_awaited", "link ledger", "0000000001.jsonl", "on record first"),
    ("accepted_is_not_recorded", "open clips", ".mp4", "ticket before a look"),
    ("sidecar_comes_first", "open clips", ".mp4", "whole"),
    ("drafts_have_the_final_name", "tear ledger", "0000000001.jsonl", "whole"),
    ("successor_does_not_seal", "link ledger", "0000000003.jsonl", "fenced"),
    ("entries_are_written_twice", "open clips", ".mp4", "legal"),
    ("what_cannot_be_kept_ends_the_process", "open tables", "clips", "ends"),
    ("the_dead_hold_their_root", "open clips", ".mp4", "free at once"),
    ("what_takes_its_time_is_given_up", *NOTHING_YET, "nothing lost"),
    ("answers_are_not_believed", *NOTHING_YET, "doubts"),
    ("prices_are_in_whole_dollars", *NOTHING_YET, "money"),
    ("what_is_bound_is_forgotten", *NOTHING_YET, "third"),
]
"""A bug, the point at which its process dies, and the law that shows it."""


def broken(told):
    return [str(one) for one in told if one.broken]


@pytest.mark.parametrize(("start", "route"), [*enumerate(ROUTES)], ids=ROUTES)
def test_crashed_batch_pays_nothing_twice(start, route):
    """A batch that dies at any point pays nothing twice and loses nothing."""
    told = sweep(route, EVERY, start)

    met = sum(one.met > 0 for one in told)
    assert broken(told) == []
    assert met > 0.8 * len(told) > 15


def test_crashed_batch_on_a_store_pays_nothing_twice(s3_port, through):
    """A batch on a store that dies at any request pays nothing twice, loses nothing."""
    through(s3_port)

    told = puts("wavespeed/wan-2.2-spicy", Store(s3_port), every=3)

    assert broken(told) == []
    assert sum(one.met for one in told) > 0.8 * len(told) > 8


@pytest.fixture(scope="module")
def slow_disk():
    """Stories on a slow disk, where a process that does not wait gets far ahead."""
    with telling("atlas/wan-2.2-spicy") as teller:
        teller.stall_s = 0.5
        yield teller


@pytest.mark.parametrize(("bug", "start", "part", "law"), FOUND)
def test_a_bug_is_found_at_the_law_that_it_breaks(slow_disk, bug, start, part, law):
    point = named(points(slow_disk), start, part)
    stopped = law == "fenced"

    good = slow_disk.tell(Story(slow_disk.route, (point,), stopped))
    bad = slow_disk.tell(Story(slow_disk.route, (point,), stopped, bug))

    assert (good.met, good.broken) == (1, [])
    assert law in {name for name, _ in bad.broken}, str(bad)


MEANT = "remove ledger", "0000000001.jsonl"
"""A submit is on record; its request has not begun."""

# Kling would accept only one of the two submits: they have the same external_task_id.
OVERSLEPT = [
    ("replicate/wan-2.2", *MEANT),
    ("replicate/wan-2.2", "connect", "#3"),
]


@pytest.mark.parametrize(("route", "start", "part"), OVERSLEPT)
def test_a_submit_that_overslept_is_not_sent(route, start, part):
    """Its provider may have answered meanwhile that the submit never came."""
    with telling(route) as teller:
        story = Story(route, (named(points(teller), start, part),), stopped=True)

        good = teller.tell(story)
        bad = teller.tell(replace(story, bug="what_overslept_is_sent"))

    assert (good.met, broken([good])) == (1, [])
    assert "paid once" in {name for name, _ in bad.broken}
