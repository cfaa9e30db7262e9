"""The sweep: which points a dialect's batches die at, and how.

Every point once. Some twice, the second time in the night that takes up what was left.
Some of the points that only such a night has. And some at which a process is not killed
but stopped, while another one takes over, and goes on when nobody expects it any more.
Some in a batch whose shards are joined, as those are that run in other processes.
"""

from collections.abc import Sequence
from typing import TypeVar

from tests.crashes.stage import Store
from tests.crashes.stories import Story, Told
from tests.crashes.teller import Teller, points, telling

T = TypeVar("T")

TAKEN_UP = (
    # A submit that is on record and was never sent.
    ("remove ledger", "0000000001.jsonl"),
    # One that was sent, and whose answer is not on record.
    ("unanswered submit", ""),
    # A clip without its sidecar.
    ("open clips", ".json"),
)
"""Where the first process dies, if its successor is to have points of its own."""

STOPS = ("link ledger", "remove ledger", "connect")


def sweep(route: str, every: int, start: int) -> list[Told]:
    """One dialect's stories, or each nth of them."""
    with telling(route) as teller:
        return [teller.tell(story) for story in stories(teller, every, start)]


def stories(teller: Teller, every: int, start: int) -> list[Story]:
    """What to tell of a dialect; `start` has each dialect begin elsewhere."""
    first = points(teller)
    left = named(first, *TAKEN_UP[start % len(TAKEN_UP)])
    # Before an event is on record, and after.
    stops = [
        at
        for at in first
        if at.startswith(STOPS) and (".jsonl" in at or at.startswith("connect"))
    ]
    route = teller.route
    return [
        *(Story(route, (at,)) for at in some(first, every, start)),
        *(Story(route, (at, at)) for at in some(first, 6 * every, start + 1)),
        *(
            Story(route, (left, at))
            for at in some(points(teller, left), 3 * every, start)
        ),
        *(Story(route, (at,), stopped=True) for at in some(stops, 2 * every, start)),
        *(
            Story(route, (at,), elsewhere=True)
            for at in some(points(teller, elsewhere=True), 4 * every, start)
        ),
    ]


def puts(route: str, store: Store, every: int) -> list[Told]:
    """Die at what is put into a store, before it gets there and before it says so."""
    with telling(route, store) as teller:
        # A provider's paths begin with its name.
        wanted = [at for at in points(teller) if " PUT " in at and " PUT /" not in at]
        return [teller.tell(Story(route, (at,))) for at in some(wanted, every, 0)]


def only(story: Story) -> Told:
    with telling(story.route) as teller:
        return teller.tell(story)


def some(of: Sequence[T], every: int, start: int) -> Sequence[T]:
    return of[start % every :: every]


def named(of: Sequence[str], start: str, part: str) -> str:
    """The first point that is called so."""
    return next(at for at in of if at.startswith(start) and part in at)
