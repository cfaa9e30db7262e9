"""Divides the quotas of accounts among shards that run in other processes.

Pure: the clock is passed in, and messages come as values. A *quota* is used and released
(slots, submits per minute). A *purse* is spent (dollars, submits per day).

The dealer reserves for a shard the most of a quota that it may be using: what it reported as
held, and whatever any deal since the one that it obeys has given it. Only unreserved quota is
dealt out. So the sum over all shards never exceeds a limit, even if messages are late or runs
die. The reservation of a dead run stays until its successor, which knows what is in flight,
has reported. Without a successor it stays until the run was shut out and its jobs are known
to be done.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tasks.dispatch.rate_limit import RATE_WINDOW_S

LATE_S: Final = 91.0
"""How long the submits of a dead run may still count: a little over a minute, and the 30
seconds within which a recorded intent may still be sent."""


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit on use at one time, or within a minute."""

    most: int
    by_minute: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """The report of a shard's run about its quotas and purses."""

    shard: int
    generation: int
    """The number of the run: a newer run of a shard has shut out the older ones."""
    beat: int
    """The number of the message."""
    deal: int = 0
    """The number of the deal that the run obeys."""
    held: Mapping[str, int] = field(default_factory=dict[str, int])
    """By quota: how much of it is in use."""
    wants: Mapping[str, int] = field(default_factory=dict[str, int])
    """By quota: how much of it could be in use."""
    used: Mapping[str, int] = field(default_factory=dict[str, int])
    """By purse: what this run has spent of it."""
    needs: Mapping[str, int] = field(default_factory=dict[str, int])
    """By purse: what it might spend soon."""
    least: Mapping[str, int] = field(default_factory=dict[str, int])
    """By purse: with less than this left, the run waits for more."""
    short: bool = False
    """Whether all its remaining jobs wait for more of some purse."""
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """The amounts that one run of a shard may use."""

    generation: int
    caps: Mapping[str, int]
    """By quota."""
    granted: Mapping[str, int]
    """By purse: the total ever granted to it."""
    last: Sequence[str] = ()
    """The purses that will get no more."""


@dataclass(slots=True)
class _Seat:
    hand: Hand
    caps: list[tuple[int, Mapping[str, int]]]
    """The deals that it may obey: their numbers and its caps, the oldest first."""
    granted: dict[str, int] = field(default_factory=dict[str, int])
    last: set[str] = field(default_factory=set[str])

    def reserved(self, quota: str) -> int:
        told = (caps.get(quota, 0) for _, caps in self.caps)
        return max(self.hand.held.get(quota, 0), *told)

    def left(self, purse: str) -> int:
        return self.granted.get(purse, 0) - self.hand.used.get(purse, 0)

    def short(self, purse: str) -> bool:
        """Whether it waits for more of this purse."""
        wants = self.hand.needs.get(purse, 0) > 0 and purse not in self.last
        return wants and self.left(purse) < self.hand.least.get(purse, 1)

    def stuck(self, purses: Iterable[str]) -> bool:
        """Whether it can spend nothing until it gets more of some purse."""
        return self.hand.short and any(map(self.short, purses))

    def heard(self, hand: Hand) -> None:
        self.hand = hand
        while len(self.caps) > 1 and self.caps[1][0] <= hand.deal:
            del self.caps[0]


class Dealer:
    """Deals out quotas and purses among the shards that have reported."""

    def __init__(
        self, quotas: Mapping[str, Quota], purses: Mapping[str, int] | None = None
    ) -> None:
        self.number = 0
        """The number of the latest deal."""
        self._quotas = quotas
        self._purses = purses or {}
        self._seats: dict[int, _Seat] = {}
        # Runs that are gone and may still count: the quota, the amount, until when, the shard.
        self._lingering: list[tuple[str, int, float, int]] = []
        # By shard and generation: the most that a finished run may have spent, until its
        # records are known.
        self._gone: dict[tuple[int, int], Mapping[str, int]] = {}

    def limit(self, quotas: Mapping[str, Quota]) -> None:
        """Replace the limits of the same quotas."""
        self._quotas = quotas

    def held(self, quota: str) -> int:
        """How much of the quota is in use, by the reports of the running shards."""
        return sum(seat.hand.held.get(quota, 0) for seat in self._seats.values())

    def hear(self, hand: Hand, now: float) -> None:
        """Take a report of a shard's run; ignore it if it is old."""
        seat = self._seats.get(hand.shard)
        if seat is not None:
            latest = seat.hand
            if (hand.generation, hand.beat) <= (latest.generation, latest.beat):
                return
            if hand.generation == latest.generation:
                seat.heard(hand)
                return
            self._succeeded(seat, now)
        # From now on the run itself reports what is in flight.
        self._lingering = [
            each
            for each in self._lingering
            if each[3] != hand.shard or self._quotas[each[0]].by_minute
        ]
        self._seats[hand.shard] = _Seat(hand, [(0, {})])

    def over(
        self,
        shard: int,
        now: float,
        *,
        slots_s: float,
        held: Mapping[str, int] | None = None,
    ) -> None:
        """End a shard that no run has any more; its jobs in flight are done in `slots_s`.

        `held` has the amounts known to be in flight of a run that was shut out.
        """
        seat = self._seats.pop(shard, None)
        if seat is None:
            return
        done = seat.hand.done
        for name, quota in self._quotas.items():
            amount = seat.hand.held.get(name, 0) if done else seat.reserved(name)
            if held is not None and not quota.by_minute:
                amount = held.get(name, 0)
            minute_s = RATE_WINDOW_S if done else LATE_S
            for_s = minute_s if quota.by_minute else slots_s
            self._linger(name, amount, now + for_s, shard)
        spent = seat.hand.used if done else seat.granted
        self._gone[shard, seat.hand.generation] = spent

    def known(self, shard: int, before: float) -> None:
        """From now on `spent` includes the spending of its runs before this generation."""
        for key in [k for k in self._gone if k[0] == shard and k[1] < before]:
            del self._gone[key]

    def lingering(self, quota: str) -> list[float]:
        """Until when gone runs may count: one time for each unit of the quota that they had."""
        return [
            until
            for name, amount, until, _ in self._lingering
            if name == quota
            for _ in range(amount)
        ]

    def deal(
        self, *, own: Mapping[str, int], spent: Mapping[str, int], now: float
    ) -> Mapping[int, Share]:
        """Make the next deal: the share of each shard, beside the dealer's own use.

        `spent` is the known spending of each purse. It leaves out the runs under way, and
        the finished ones that `known` has not been called for.
        """
        self.number += 1
        self._lingering = [each for each in self._lingering if each[2] > now]
        seats = dict(sorted(self._seats.items()))
        caps = {
            name: self._caps(name, own.get(name, 0), seats) for name in self._quotas
        }
        for name in self._purses:
            self._top_up(name, spent.get(name, 0), seats)
        for shard, seat in seats.items():
            own_caps = {name: dealt[shard] for name, dealt in caps.items()}
            if own_caps != seat.caps[-1][1]:
                seat.caps.append((self.number, own_caps))
        return {
            shard: Share(
                generation=seat.hand.generation,
                caps=seat.caps[-1][1],
                granted=dict(seat.granted),
                last=sorted(seat.last),
            )
            for shard, seat in seats.items()
        }

    def _succeeded(self, seat: _Seat, now: float) -> None:
        """Replace a run by its successor, which reports what is in flight.

        The latest submits of the old run are in no report, so they stay reserved.
        """
        for name, quota in self._quotas.items():
            if quota.by_minute:
                self._linger(name, seat.reserved(name), now + LATE_S, seat.hand.shard)
        self._gone[seat.hand.shard, seat.hand.generation] = dict(seat.granted)

    def _linger(self, quota: str, amount: int, until: float, shard: int) -> None:
        if amount:
            self._lingering.append((quota, amount, until, shard))

    def _caps(self, name: str, own: int, seats: Mapping[int, _Seat]) -> dict[int, int]:
        """The caps by shard; only unreserved quota is added to them."""
        lingering = sum(each[1] for each in self._lingering if each[0] == name)
        most = self._quotas[name].most - own - lingering
        wants = [
            0 if seat.hand.done else seat.hand.wants.get(name, 0)
            for seat in seats.values()
        ]
        free = most - sum(seat.reserved(name) for seat in seats.values())
        caps: dict[int, int] = {}
        for (shard, seat), fair in zip(seats.items(), evenly(most, wants), strict=True):
            reserved = seat.reserved(name)
            # If runs use more than the limit, what they release is dealt to no one.
            caps[shard] = max(0, min(fair, reserved + free))
            free -= max(0, caps[shard] - reserved)
        return caps

    def _top_up(self, name: str, spent: int, seats: Mapping[int, _Seat]) -> None:
        gone = sum(used.get(name, 0) for used in self._gone.values())
        held = sum(seat.granted.get(name, 0) for seat in seats.values())
        free = self._purses[name] - spent - gone - held
        lacks = [
            0 if seat.hand.done else max(0, seat.hand.needs.get(name, 0) - left)
            for seat in seats.values()
            for left in [seat.left(name)]
        ]
        for seat, more in zip(seats.values(), evenly(free, lacks), strict=True):
            seat.granted[name] = seat.granted.get(name, 0) + more
        if not gone:
            self._say_last(name, [*seats.values()])

    def _say_last(self, name: str, seats: Sequence[_Seat]) -> None:
        """Break a deadlock of shards that wait for each other's money.

        It exists if all shards with something left wait for more of this or another purse.
        All but one then get no more of this purse. What they leave goes to that one, or to
        the shards that wait for another purse.
        """
        short = [seat for seat in seats if seat.short(name)]
        others = [
            seat
            for seat in seats
            if not (seat.short(name) or seat.stuck(self._purses))
            and seat.left(name) > 0
        ]
        if any(name not in seat.last for seat in others):
            return
        for seat in short[1:] or (short if not others else []):
            seat.last.add(name)


def evenly(most: int, wants: Iterable[int]) -> list[int]:
    """Divide `most` evenly among `wants`, to none more than it wants.

    The first ones get one more if it does not divide evenly.
    """
    wanted = [*wants]
    dealt = [0] * len(wanted)
    open_ = sorted((want, place) for place, want in enumerate(wanted) if want > 0)
    left = max(0, most)
    while open_ and open_[0][0] * len(open_) <= left:
        # The shard that wants the least gets all that it wants.
        want, place = open_.pop(0)
        dealt[place] = want
        left -= want
    each, odd = divmod(left, len(open_)) if open_ else (0, 0)
    for nth, place in enumerate(sorted(place for _, place in open_)):
        dealt[place] = each + (nth < odd)
    return dealt
