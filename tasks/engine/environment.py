"""The dependencies of a run: its parts, its rules, and the world outside."""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from storage.ledger import Ledger
from storage.media import Clips, mp4
from storage.objects import Objects, RetryPolicy
from storage.source_policy import TRUSTING, SourcePolicy
from tasks.dispatch import Budget, Lanes, Router
from tasks.engine.charges import OpenCharges
from tasks.engine.clip_check import Check, ClipChecker
from tasks.engine.download import Publisher
from tasks.engine.poll import Follower
from tasks.engine.remote_ids import RemoteIds
from tasks.engine.standstill import Standstills
from tasks.engine.trouble import Troubles
from tasks.providers.http import PACE, REQUEST_LIVES_S, Clients, Pace, connected

PATIENCE_S: Final = 600.0
"""How long a batch waits for a store that is out of reach."""


def _kept(uri: str) -> Objects:
    return Objects.open(uri, retry=RetryPolicy(unavailable_s=PATIENCE_S))


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Stores, providers, the MP4 check, and clocks. The defaults are the real ones."""

    objects: Callable[[str], Objects] = _kept
    """Opens the store below a root URI."""
    state_folder: Path | None = None
    """Nightreel's folder on this machine, for events that could not be written to the store,
    and for the roots that it knows; the default one if None."""
    clients: Callable[[], AbstractAsyncContextManager[Clients]] = connected
    pace: Pace = PACE
    """The slowest download that is waited for."""
    check: Check = mp4.check
    now: Callable[[], float] = time.monotonic
    today: Callable[[], float] = time.time

    @property
    def spill_folder(self) -> Path | None:
        return None if self.state_folder is None else self.state_folder / "spill"


REAL: Final = World()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The limits that the owner of a batch sets."""

    attempts: int = 3
    """The most accepted attempts of a job that may fail."""
    deadline_s: float = 3600.0
    """How long a run polls an accepted job before it leaves it to the next run."""
    downloads: int = 16
    """Clips in memory at once."""
    decodes: bool = True
    """Whether every frame of a clip is decoded before it is published."""
    convert_stills: bool = True
    """Whether stills that providers do not take are converted."""
    sources: SourcePolicy = TRUSTING
    """The places that the manifest may name, beside its own folder."""
    max_failure_rate: float = 0.3
    """The share of a lane's jobs that may fail before the lane is closed."""
    settle_s: float = 60.0
    """The age of a doubt at which its provider can list the job; 0 for an emulator."""
    request_lives_s: float = REQUEST_LIVES_S
    """How long a submit may be under way after its process has died."""
    refused_s: float = 60.0
    """How long the end of a run waits for a clip whose download was just refused, and how
    long a file that is no clip must be the same before it is kept in place of a clip."""
    grace_s: float = 20.0
    """How long a run that winds down waits for clips that should finish in that time."""
    dead_s: float = 60.0
    """How long an own GPU may be out of reach before another one makes its jobs."""

    @property
    def absent_after_s(self) -> float:
        """The age of a doubt at which a job that is not there will never arrive."""
        return max(self.settle_s, self.request_lives_s) if self.settle_s else 0.0


@dataclass(frozen=True, kw_only=True)
class Deps:
    """The parts of one run that the modules of the engine share."""

    world: World
    rules: Rules
    objects: Objects
    """The store below the root."""
    ledger: Ledger
    clients: Clients
    router: Router
    budget: Budget
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the run must stop."""

    @cached_property
    def lanes(self) -> Lanes:
        world, router = self.world, self.router
        return Lanes(router.all, world.now, world.today, self.budget, router.rank)

    @cached_property
    def charges(self) -> OpenCharges:
        return OpenCharges(self.lanes, self.router, self.budget)

    @cached_property
    def troubles(self) -> Troubles:
        return Troubles(self.world.today)

    @cached_property
    def standstills(self) -> Standstills:
        return Standstills(self.troubles, self.world.now)

    @cached_property
    def follower(self) -> Follower:
        return Follower(
            self.clients,
            self.rules.deadline_s,
            self.world.now,
            self.stopping,
            self.troubles,
            self.standstills,
        )

    @cached_property
    def remote_ids(self) -> RemoteIds:
        return RemoteIds(self.ledger.lives)

    @cached_property
    def publisher(self) -> Publisher:
        return Publisher(
            Clips(self.objects),
            self.clients.free,
            checker=ClipChecker(
                decodes=self.rules.decodes,
                refused_s=self.rules.refused_s,
                now=self.world.now,
                check=self.world.check,
            ),
            at_once=self.rules.downloads,
            troubles=self.troubles,
            pace=self.world.pace,
        )
