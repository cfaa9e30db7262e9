"""The bill: every accepted submit and its price, whatever became of its answer."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from tasks.emulator.dialects.predictions import Stage
from tasks.emulator.faults import Fault
from tasks.emulator.state import World


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """A line of the bill."""

    dialect: str
    key: str
    """A fingerprint of the key, never the key."""
    request_id: str
    model: str
    image: str
    prompt: str
    seed: int
    resolution: str
    duration_s: int
    price_usd: str
    accepted_at: str
    outcome: Stage
    refunded: bool
    fault: Fault | None


def charges(world: World) -> list[Charge]:
    """Every line, in the order of acceptance."""
    return [
        Charge(
            dialect=account.dialect,
            key=account.fingerprint,
            request_id=made.id,
            model=made.wanted.endpoint,
            image=made.image,
            prompt=made.wanted.prompt,
            seed=made.seed,
            resolution=made.wanted.resolution,
            duration_s=made.wanted.duration_s,
            price_usd=str(made.wanted.price_usd),
            accepted_at=made.accepted_date,
            outcome=made.stage,
            refunded=made.stage in account.terms.refunds,
            fault=made.fault,
        )
        for account, made in world.everything()
    ]


def total_usd(lines: Iterable[Charge]) -> Decimal:
    """What is owed: all that was not refunded."""
    owed = (Decimal(line.price_usd) for line in lines if not line.refunded)
    return sum(owed, Decimal(0))
