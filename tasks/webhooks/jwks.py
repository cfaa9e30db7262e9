"""The public keys that fal and Atlas Cloud sign their webhooks with, fetched and kept."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import httpx

from tasks.answers import ACCEPTED, whole
from tasks.webhooks.signatures import (
    Delivery,
    Key,
    Scheme,
    ShapelessError,
    Told,
    UnknownKeyError,
    WebhookError,
    keys,
)

JWKS: Final[Mapping[str, str]] = {
    "fal": "https://rest.fal.ai/.well-known/jwks.json",
    "atlas": "https://api.atlascloud.ai/api/v1/webhooks/jwks.json",
}
"""The address of each provider's keys (their webhooks pages, read 2026-11)."""

KEPT_S: Final = 24 * 3600
"""The longest time to keep keys, by both pages: a withdrawn key must stop working."""

AGAIN_S: Final = 60
"""The least time between two fetches, because anybody may post an unknown key's name."""


class NoKeysError(WebhookError):
    """The provider's keys cannot be fetched now, so the sender cannot be verified."""


@dataclass(slots=True)
class Keyring:
    """A provider's keys; verifies and reads deliveries with them."""

    url: str
    client: httpx.AsyncClient
    scheme: Callable[[Sequence[Key]], Scheme]
    now: Callable[[], float] = time.monotonic
    _keys: tuple[Key, ...] = field(default=(), init=False)
    _fetched: float | None = field(default=None, init=False)
    _asked: float | None = field(default=None, init=False)
    _one: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def read(self, delivery: Delivery, at: float) -> Told:
        """Read a delivery by the scheme; fetch the keys again if its key is unknown.

        Raises:
            WebhookError: the scheme raises it, or the keys cannot be fetched.
        """
        known = await self._known()
        try:
            return self.scheme(known).read(delivery, at)
        except UnknownKeyError:
            newer = await self._newer(known)
            if newer is known:
                raise
        return self.scheme(newer).read(delivery, at)

    async def _known(self) -> tuple[Key, ...]:
        async with self._one:
            if self._fetched is None or self.now() - self._fetched >= KEPT_S:
                if not self._may_ask():
                    raise NoKeysError("its keys could not be fetched a moment ago")
                await self._fetch()
            return self._keys

    async def _newer(self, known: tuple[Key, ...]) -> tuple[Key, ...]:
        async with self._one:
            if self._keys is known and self._may_ask():
                await self._fetch()
            return self._keys

    def _may_ask(self) -> bool:
        return self._asked is None or self.now() - self._asked >= AGAIN_S

    async def _fetch(self) -> None:
        self._asked = self.now()
        try:
            headers = {"accept-encoding": ACCEPTED}
            asked = self.client.build_request("GET", self.url, headers=headers)
            response = await whole(await self.client.send(asked, stream=True))
            found = keys(response.raise_for_status().json())
        except (httpx.HTTPError, ValueError, RecursionError, ShapelessError) as exc:
            reason = f"{self.url}: no keys: {type(exc).__name__}"
            raise NoKeysError(reason) from None
        self._keys, self._fetched = found, self._asked
