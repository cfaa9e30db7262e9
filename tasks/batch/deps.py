"""Puts together the parts of a run, for a whole batch or for one shard of it."""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from storage.ledger import Ledger
from storage.objects import Objects
from tasks.batch.request import Wanted
from tasks.dispatch import Budget, Lane, Router
from tasks.engine.environment import Deps, Rules, World


@asynccontextmanager
async def deps_of(  # noqa: PLR0913 - a run has these parts
    wanted: Wanted,
    lanes: Sequence[Lane],
    *,
    rules: Rules,
    objects: Objects,
    ledger: Ledger,
    world: World,
) -> AsyncGenerator[Deps]:
    """Open the clients of a run of a batch or a shard, and put its parts together.

    The run may spend the budget of `wanted`.
    """
    async with world.clients() as clients:
        yield Deps(
            world=world,
            rules=replace(rules, sources=rules.sources.beside(wanted.manifest)),
            objects=objects,
            ledger=ledger,
            clients=clients,
            router=_router(wanted, lanes, world),
            budget=Budget(wanted.budget_usd),
        )


def _router(wanted: Wanted, lanes: Sequence[Lane], world: World) -> Router:
    """The lanes of a batch, in the order of its policy."""
    left_s = math.inf
    if wanted.finish_at is not None:
        left_s = wanted.finish_at - world.today()
    return Router(
        lanes,
        policy=wanted.policy,
        now=world.now,
        today=world.today,
        ends_at=world.now() + left_s,
    )
