"""The amounts that a shard's run reports and is granted, and the names of the quotas.

A *quota* is used and released: slots, submits per minute. A *budget* is spent: dollars, and
submits per day. Money is counted in millionths of a dollar, in whole numbers.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

BUDGET: Final = "budget"
"""The name of the batch's budget, in millionths of a dollar."""


@dataclass(frozen=True, slots=True)
class Quota:
    """A limit on use at one time, or within a minute."""

    most: int
    by_minute: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """The report of a shard's run about its quotas and budgets."""

    shard: int
    generation: int
    """The number of the run: a newer run of a shard has fenced out the older ones."""
    beat: int
    """The number of the message."""
    grant_number: int = 0
    """The number of the grants that the run obeys."""
    in_use: Mapping[str, int] = field(default_factory=dict[str, int])
    """By quota: how much of it is in use."""
    wanted: Mapping[str, int] = field(default_factory=dict[str, int])
    """By quota: how much of it could be in use."""
    spent: Mapping[str, int] = field(default_factory=dict[str, int])
    """By budget: what this run has spent of it."""
    needed: Mapping[str, int] = field(default_factory=dict[str, int])
    """By budget: what it might spend soon."""
    minimum: Mapping[str, int] = field(default_factory=dict[str, int])
    """By budget: with less than this left, the run waits for more."""
    all_wait: bool = False
    """Whether all its remaining jobs wait for more of some budget."""
    done: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """The amounts that one run of a shard may use."""

    generation: int
    caps: Mapping[str, int]
    """By quota."""
    granted: Mapping[str, int]
    """By budget: the total ever granted to it."""
    final: Sequence[str] = ()
    """The budgets that will get no more."""


def slots_of(account: str) -> str:
    """The name of the quota of clips that an account makes at once."""
    return f"slots {account}"


def accounts(quotas: Iterable[str]) -> list[str]:
    """The accounts whose slots are among these quotas."""
    slots = slots_of("")
    return sorted(x.removeprefix(slots) for x in quotas if x.startswith(slots))


def minute_of(account: str) -> str:
    """The name of the quota of submits that an account takes in a minute."""
    return f"minute {account}"


def submits_of(lane: str) -> str:
    """The name of the budget of submits that a lane takes in a day."""
    return f"submits {lane}"


def usd_of(lane: str) -> str:
    """The name of the budget of a lane's money in a day, in millionths of a dollar."""
    return f"usd {lane}"


def millionths(usd: Decimal) -> int:
    """The millionths of an amount in dollars."""
    return int(usd.scaleb(6))


def dollars(amount: int) -> Decimal:
    """The dollars of an amount in millionths."""
    return Decimal(amount).scaleb(-6)
