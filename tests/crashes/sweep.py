"""The sweep: the points at which a dialect's batches die, and how.

Every point once. Some twice, the second time in the night that continues the batch.
Some of the points that only such a night has. At some points a process is not killed
but stopped; it continues after another one has taken over. And some points of a batch
whose shards are joined, as from other processes.
"""

from collections.abc import Sequence
from typing import TypeVar

from tests.crashes.stage import Store
from tests.crashes.stories import Story, Told
from tests.crashes.teller import Teller, points, telling

T = TypeVar("T")

TAKEN_UP = (
    # A submit that is on record and was not sent.
    ("remove ledger", "0000000001.jsonl"),
    # A submit that was sent, and whose answer is not on record.
    ("unanswered submit", ""),
    # A clip without its sidecar.
    ("open clips", ".json"),
)
"""The point where the first process dies, if its successor gets different points."""

STOPS = ("link ledger", "remove ledger", "connect")


def sweep(route: str, every: int, start: int) -> list[Told]:
    """Run one dialect's stories, or every nth of them."""
    with telling(route) as teller:
        return [teller.tell(story) for story in stories(teller, every, start)]


def stories(teller: Teller, every: int, start: int) -> list[Story]:
    """The stories of a dialect; `start` makes each dialect begin at another point."""
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
    """Die at each write to a store, before it arrives and before it is answered."""
    with telling(route, store) as teller:
        # A path to a provider begins with the provider's name.
        wanted = [at for at in points(teller) if " PUT " in at and " PUT /" not in at]
        return [teller.tell(Story(route, (at,))) for at in some(wanted, every, 0)]


def only(story: Story) -> Told:
    with telling(story.route) as teller:
        return teller.tell(story)


def some(of: Sequence[T], every: int, start: int) -> Sequence[T]:
    return of[start % every :: every]


def named(of: Sequence[str], start: str, part: str) -> str:
    """The first point with this name."""
    return next(at for at in of if at.startswith(start) and part in at)
