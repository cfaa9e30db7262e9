"""The emulator's ASGI app: every provider's dialect, and one bill for all."""

import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from decimal import Decimal
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from manifests.catalogue import loader as catalogue
from tasks.emulator import pages
from tasks.emulator.accounts import Terms
from tasks.emulator.api import Dialect, EmulatedApi
from tasks.emulator.bill import Charge, charges, total_usd
from tasks.emulator.clips import Clips
from tasks.emulator.dialects.ai302 import Ai302
from tasks.emulator.dialects.atlas import Atlas
from tasks.emulator.dialects.comfyui import ComfyUi
from tasks.emulator.dialects.fal import Fal
from tasks.emulator.dialects.kling import Kling
from tasks.emulator.dialects.lightx2v import LightX2V
from tasks.emulator.dialects.openai_videos import (
    FASTVIDEO,
    NIGHTREEL,
    SGLANG,
    VLLM_OMNI,
    OpenAiVideos,
)
from tasks.emulator.dialects.replicate import Replicate
from tasks.emulator.dialects.runway import Runway
from tasks.emulator.dialects.wavespeed import WaveSpeed
from tasks.emulator.faults import Chances, Fault, Faults
from tasks.emulator.prices import PriceList, price_list
from tasks.emulator.responses import Json
from tasks.emulator.shared import Shared
from tasks.emulator.state import Clock, Rules, State
from tasks.emulator.uploads import Stills

DIALECTS: Final[Sequence[Dialect]] = (
    WaveSpeed(),
    Ai302(),
    Atlas(),
    Fal(),
    Kling(),
    Runway(),
    Replicate(),
    OpenAiVideos(NIGHTREEL),
    OpenAiVideos(SGLANG),
    OpenAiVideos(VLLM_OMNI),
    OpenAiVideos(FASTVIDEO),
    LightX2V(),
    ComfyUi(),
)

NO_FAULTS: Final[Mapping[str, Sequence[Fault]]] = {}
NO_CHANCES: Final[Mapping[Fault, float]] = {}

Quota = int | Mapping[str, int] | None
"""A quota for every dialect or by dialect; None means each dialect's own."""


class Emulator:
    """An ASGI app that serves every provider under `/NAME`, `/bill` and `/stats`.

    `faults` maps a part of a still's URL or a prompt to the faults of the submits that
    have it, in order; `chances` are the probabilities of random faults, drawn from
    `seed`. Every job gets `clip` if there is one, and otherwise a clip made from its
    still. Without `keys`, any key is valid. `keep_s` replaces the time for which each
    provider keeps clips; `credit_usd` is the credit of every account.
    """

    def __init__(  # noqa: PLR0913 -- each is a knob of the command
        self,
        *,
        latency_s: float = 2.0,
        jitter: float = 0.0,
        slots: Quota = None,
        submits_per_minute: Quota = None,
        retry_after: bool = False,
        faults: Mapping[str, Sequence[Fault]] = NO_FAULTS,
        chances: Chances = NO_CHANCES,
        seed: int = 0,
        keys: Collection[str] | None = None,
        clip: bytes | None = None,
        keep_s: float | None = None,
        credit_usd: Decimal | None = None,
        prices: PriceList | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        if not 0 <= jitter < 1:
            raise ValueError(f"jitter {jitter!r} is not a share between 0 and 1")
        self._state = State(
            Rules(
                latency_s=latency_s,
                jitter=jitter,
                keys=keys,
                keep_s=keep_s,
                seed=seed,
                credit_usd=credit_usd,
            ),
            Faults(faults, chances, seed=seed),
            clock,
        )
        self._shared = Shared(self._state, Stills(), Clips(clip))
        if prices is None:
            prices = price_list(catalogue.load().routes.values())
        self._apis = {
            dialect.name: EmulatedApi(
                dialect,
                terms=_terms(
                    dialect, slots, submits_per_minute, retry_after=retry_after
                ),
                offers=prices.get(dialect.name, {}),
                shared=self._shared,
            )
            for dialect in DIALECTS
        }
        self._app = self._served()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    @property
    def pages(self) -> dict[str, Response]:
        """Answers of a proxy in front of the providers, by the kind of request."""
        return self._shared.pages

    @property
    def bill(self) -> list[Charge]:
        """Every accepted submit, in the order of acceptance."""
        return charges(self._state)

    @property
    def total_usd(self) -> Decimal:
        """The sum of the charges that were not refunded."""
        return total_usd(self.bill)

    @property
    def faults(self) -> dict[str, list[Fault]]:
        """The scripted faults that are left; add to them at any time."""
        return self._state.faults.scripted

    def stats(self) -> dict[str, Any]:
        """Return requests by dialect and kind, and the highest use of each account."""
        return {
            "requests": {name: {**api.requests} for name, api in self._apis.items()},
            "keys_shown": sum(api.keys_shown for api in self._apis.values()),
            "accounts": [
                {
                    "dialect": account.dialect,
                    "key": account.fingerprint,
                    "slots": account.terms.slots,
                    "submits_per_minute": account.terms.submits_per_minute,
                    **asdict(account.peaks),
                }
                for account in self._state.accounts()
            ],
        }

    async def _bill(self, request: Request) -> Response:
        del request
        lines = self.bill
        total = str(total_usd(lines))
        return Json({"total_usd": total, "charges": [asdict(line) for line in lines]})

    async def _stats(self, request: Request) -> Response:
        del request
        return Json(self.stats())

    def _served(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/bill", self._bill),
                Route("/stats", self._stats),
                *(
                    Mount(f"/{name}", routes=pages.routes(api))
                    for name, api in self._apis.items()
                ),
            ],
            lifespan=self._lifespan,
        )

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncGenerator[None]:
        del app
        yield
        await self._shared.stills.aclose()
        self._shared.clips.close()


def _terms(
    dialect: Dialect, slots: Quota, submits_per_minute: Quota, *, retry_after: bool
) -> Terms:
    own = dialect.terms
    per_minute = _quota(dialect.name, submits_per_minute) or own.submits_per_minute
    return replace(
        own,
        slots=_quota(dialect.name, slots) or own.slots,
        # fal has no rate limit: its queue takes everything.
        submits_per_minute=own.submits_per_minute and per_minute,
        retry_after=retry_after,
    )


def _quota(name: str, quota: Quota) -> int | None:
    return quota.get(name) if isinstance(quota, Mapping) else quota
