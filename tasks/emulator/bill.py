"""The bill: every accepted submit and its price, even if its answer was lost."""

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from tasks.emulator.faults import Fault
from tasks.emulator.predictions import Stage
from tasks.emulator.state import State


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


def charges(state: State) -> list[Charge]:
    """Return every line in the order of acceptance."""
    return [
        Charge(
            dialect=account.dialect,
            key=account.fingerprint,
            request_id=made.id,
            model=made.spec.model,
            image=made.image,
            prompt=made.spec.prompt,
            seed=made.seed,
            resolution=made.spec.resolution,
            duration_s=made.spec.duration_s,
            price_usd=str(made.spec.price_usd),
            accepted_at=made.accepted_date,
            outcome=made.stage,
            refunded=made.stage in account.terms.refunds,
            fault=made.fault,
        )
        for account, made in state.everything()
    ]


def total_usd(lines: Iterable[Charge]) -> Decimal:
    """Return the sum of the lines that were not refunded."""
    owed = (Decimal(line.price_usd) for line in lines if not line.refunded)
    return sum(owed, Decimal(0))
