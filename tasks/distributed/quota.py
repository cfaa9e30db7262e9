"""Dealing: what accounts allow, dealt out among shards that run in other processes.

Pure: the clock is passed in, and messages come as values. A *quota* is used and given
back (slots, submits per minute); a *purse* is spent (dollars, submits per day).

Of a quota, a shard is reserved the most that it may be using: what it said that it held,
and whatever it was told since the deal that it said it abides by. No more is dealt than
is reserved for nobody, so the sum over all shards never exceeds a limit, however late
messages are, and whoever dies: a dead run's reservation stays until its successor, who
knows what is in flight, has spoken, or until it was shut out, and is known to be done.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

LATE_S: Final = 91.0
"""After a run that died, its submits may count for so long: a little over a minute, and
the 30 seconds within which an intent that is on record may yet be sent."""

MINUTE: Final = 61.0


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit on what is used at once, or within a minute."""

    most: int
    by_minute: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """What a run of a shard says of itself."""

    shard: int
    generation: int
    """Of two runs of a shard, the newer one has shut out the older."""
    beat: int
    """The number of the message."""
    deal: int = 0
    """The number of the deal that it abides by."""
    held: Mapping[str, int] = field(default_factory=dict[str, int])
    """By quota: how much of it is in use."""
    wants: Mapping[str, int] = field(default_factory=dict[str, int])
    """By quota: how much of it could be in use."""
    used: Mapping[str, int] = field(default_factory=dict[str, int])
    """By purse: what this run has spent of it."""
    needs: Mapping[str, int] = field(default_factory=dict[str, int])
    """By purse: what it might spend soon."""
    least: Mapping[str, int] = field(default_factory=dict[str, int])
    """By purse: with less than this in hand it waits for more."""
    short: bool = False
    """Whether all that it has yet to buy waits for more of some purse."""
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one run of a shard may use."""

    generation: int
    caps: Mapping[str, int]
    """By quota."""
    granted: Mapping[str, int]
    """By purse: all that it was ever given."""
    last: Sequence[str] = ()
    """Purses of which no more will come."""


@dataclass(slots=True)
class _Seat:
    hand: Hand
    caps: list[tuple[int, Mapping[str, int]]]
    """The deals that it may abide by: their numbers, and its caps. The oldest first."""
    granted: dict[str, int] = field(default_factory=dict[str, int])
    last: set[str] = field(default_factory=set[str])

    def reserved(self, quota: str) -> int:
        told = (caps.get(quota, 0) for _, caps in self.caps)
        return max(self.hand.held.get(quota, 0), *told)

    def left(self, purse: str) -> int:
        return self.granted.get(purse, 0) - self.hand.used.get(purse, 0)

    def short(self, purse: str) -> bool:
        """Whether it waits for more."""
        wants = self.hand.needs.get(purse, 0) > 0 and purse not in self.last
        return wants and self.left(purse) < self.hand.least.get(purse, 1)

    def stuck(self, purses: Iterable[str]) -> bool:
        """Whether it spends nothing of any purse until there is more of one."""
        return self.hand.short and any(map(self.short, purses))

    def heard(self, hand: Hand) -> None:
        self.hand = hand
        while len(self.caps) > 1 and self.caps[1][0] <= hand.deal:
            del self.caps[0]


class Dealer:
    """Deals out quotas and purses among the shards that have spoken."""

    def __init__(
        self, quotas: Mapping[str, Quota], purses: Mapping[str, int] | None = None
    ) -> None:
        self.number = 0
        """Of the latest deal."""
        self._quotas = quotas
        self._purses = purses or {}
        self._seats: dict[int, _Seat] = {}
        # Who has gone and may yet count: the quota, how much of it, until when, which.
        self._lingering: list[tuple[str, int, float, int]] = []
        # What runs that are over may have spent, until what they put on record is known.
        self._gone: dict[tuple[int, int], Mapping[str, int]] = {}

    def limit(self, quotas: Mapping[str, Quota]) -> None:
        """From now on these are the limits, of the same quotas."""
        self._quotas = quotas

    def held(self, quota: str) -> int:
        """How much of it is in use, as far as those who run say."""
        return sum(seat.hand.held.get(quota, 0) for seat in self._seats.values())

    def hear(self, hand: Hand, now: float) -> None:
        """A run of a shard has spoken; what is old is no news."""
        seat = self._seats.get(hand.shard)
        if seat is not None:
            mine = seat.hand
            if (hand.generation, hand.beat) <= (mine.generation, mine.beat):
                return
            if hand.generation == mine.generation:
                seat.heard(hand)
                return
            self._succeeded(seat, now)
        # What is in flight of it, it says itself from now on.
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
        """Nobody runs this shard any more; what it left in flight is done in `slots_s`.

        `held` is what is known to be in flight of one that was shut out.
        """
        seat = self._seats.pop(shard, None)
        if seat is None:
            return
        done = seat.hand.done
        for name, quota in self._quotas.items():
            amount = seat.hand.held.get(name, 0) if done else seat.reserved(name)
            if held is not None and not quota.by_minute:
                amount = held.get(name, 0)
            minute_s = MINUTE if done else LATE_S
            for_s = minute_s if quota.by_minute else slots_s
            self._linger(name, amount, now + for_s, shard)
        spent = seat.hand.used if done else seat.granted
        self._gone[shard, seat.hand.generation] = spent

    def known(self, shard: int, before: float) -> None:
        """What its runs of generations below this one spent is in `spent` from now on."""
        for key in [k for k in self._gone if k[0] == shard and k[1] < before]:
            del self._gone[key]

    def lingering(self, quota: str) -> list[float]:
        """Until when those who are gone may count, once for all that each had of it."""
        return [
            until
            for name, amount, until, _ in self._lingering
            if name == quota
            for _ in range(amount)
        ]

    def deal(
        self, *, own: Mapping[str, int], spent: Mapping[str, int], now: float
    ) -> Mapping[int, Share]:
        """The next deal: what each shard may use, besides what the dealer itself uses.

        `spent` is what is known to have been spent of each purse, but for the runs that
        are under way and those that nobody has said are `known`.
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
            mine = {name: dealt[shard] for name, dealt in caps.items()}
            if mine != seat.caps[-1][1]:
                seat.caps.append((self.number, mine))
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
        """Its successor says what is in flight; nobody says what was sent of late."""
        for name, quota in self._quotas.items():
            if quota.by_minute:
                self._linger(name, seat.reserved(name), now + LATE_S, seat.hand.shard)
        self._gone[seat.hand.shard, seat.hand.generation] = dict(seat.granted)

    def _linger(self, quota: str, amount: int, until: float, shard: int) -> None:
        if amount:
            self._lingering.append((quota, amount, until, shard))

    def _caps(self, name: str, own: int, seats: Mapping[int, _Seat]) -> dict[int, int]:
        """By shard; what is dealt anew is reserved for nobody."""
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
            # Where runs have taken up more than there is, what ends of it is nobody's.
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
        """If all that have something left wait for more, of this or of another purse, it
        is for each other: all but one are told that no more of this will come, and what
        they leave goes to that one, or to who waits for another."""
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
    """So much, dealt out evenly among those who want it, and to none more than it wants;
    of what cannot be dealt evenly, the first get one more."""
    wanted = [*wants]
    dealt = [0] * len(wanted)
    open_ = sorted((want, place) for place, want in enumerate(wanted) if want > 0)
    left = max(0, most)
    while open_ and open_[0][0] * len(open_) <= left:
        # The one who wants the least gets all of it.
        want, place = open_.pop(0)
        dealt[place] = want
        left -= want
    each, odd = divmod(left, len(open_)) if open_ else (0, 0)
    for nth, place in enumerate(sorted(place for _, place in open_)):
        dealt[place] = each + (nth < odd)
    return dealt
