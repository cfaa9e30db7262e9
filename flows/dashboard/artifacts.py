"""This run's artifacts on the server: each is created once, and then updated in place.

If the server is away, slow or broken, only the view of a batch suffers: every call has a
limit of a few seconds, and after a failed call the server is left alone for a while.
"""

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, Final, Literal
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run

from storage.backoff import backoff

log = logging.getLogger(__name__)

WITHIN_S: Final = 5.0
"""The time limit of one call."""

PREFIX: Final = "nightreel-"
"""Begins the key of each artifact: other flows may share the server."""

AGAIN_S: Final = (10.0, 120.0)
"""The pause after a failed call: the first one, and the longest."""

Kind = Literal["markdown", "progress", "table"]
Table = Sequence[Mapping[str, Any]]


class Artifacts:
    """The artifacts as they were last sent, by key."""

    def __init__(
        self, client: PrefectClient, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._client = client
        self._now = now
        self._run = UUID(found) if (found := flow_run.get_id()) else None
        self._ids: dict[str, UUID] = {}
        self._said: dict[str, tuple[object, str | None]] = {}
        self._failures = 0
        self._again_at = 0.0

    async def markdown(self, key: str, text: str, note: str | None = None) -> None:
        await self._put(key, "markdown", text, note)

    async def table(self, key: str, rows: Table, note: str | None = None) -> None:
        # NaN is not JSON; Decimals were rounded for people before.
        await self._put(key, "table", json.dumps(rows, allow_nan=False), note)

    async def progress(self, key: str, percent: float, note: str) -> None:
        await self._put(key, "progress", percent, note)

    async def tag(self, tags: Sequence[str]) -> None:
        """Add tags to those that the run has from its deployment."""
        if (run := self._run) is not None:
            every = {*flow_run.get_tags(), *tags}
            await self._told(lambda: self._client.update_flow_run(run, tags=every))

    async def cancelled(self) -> bool:
        """Whether this run was cancelled; False if the server does not answer."""
        found: list[FlowRun] = []

        async def ask(run: UUID) -> None:
            found.append(await self._client.read_flow_run(run))

        if (run := self._run) is not None:
            await self._told(lambda: ask(run))
        states = [one.state for one in found]
        return any(
            state and (state.is_cancelling() or state.is_cancelled())
            for state in states
        )

    def once_more(self) -> None:
        """Try the last calls of the run even if the server was away."""
        self._again_at = 0.0

    async def _put(
        self, key: str, kind: Kind, data: str | float, note: str | None
    ) -> None:
        if self._said.get(key) != (data, note):
            put = self._changed if key in self._ids else self._made
            if await self._told(lambda: put(key, kind, data, note)):
                self._said[key] = data, note

    # Not the client's own methods: they also emit an event with all the data.
    async def _made(
        self, key: str, kind: Kind, data: str | float, note: str | None
    ) -> None:
        new = ArtifactCreate(
            key=f"{PREFIX}{key}",
            type=kind,
            data=data,
            description=note,
            flow_run_id=self._run,
        )
        answer = await self._client.request(
            "POST", "/artifacts/", json=new.model_dump(mode="json", exclude_unset=True)
        )
        self._ids[key] = UUID(answer.json()["id"])

    async def _changed(
        self, key: str, kind: Kind, data: str | float, note: str | None
    ) -> None:
        try:
            await self._client.request(
                "PATCH",
                "/artifacts/{id}",
                path_params={"id": self._ids[key]},
                json={"data": data, "description": note},
            )
        except PrefectHTTPStatusError as exc:
            if exc.response.status_code != HTTPStatus.NOT_FOUND:
                raise
            # It was deleted, or the server has another database now.
            del self._ids[key]
            await self._made(key, kind, data, note)

    async def _told(self, call: Callable[[], Awaitable[object]]) -> bool:
        if self._now() < self._again_at:
            return False
        try:
            async with asyncio.timeout(WITHIN_S):
                await call()
        # The batch continues without the view, whatever the error; log it once.
        except Exception as exc:  # noqa: BLE001
            self._failed(exc)
            return False
        if self._failures:
            log.warning("prefect.recovered the server answers again")
        self._failures = 0
        return True

    def _failed(self, exc: Exception) -> None:
        least, most = AGAIN_S
        self._again_at = self._now() + backoff(self._failures + 1, least, most)
        if not self._failures:
            log.warning(
                "prefect.unavailable error=%s the batch goes on: %s",
                type(exc).__name__,
                exc,
            )
        self._failures += 1


@asynccontextmanager
async def open_artifacts() -> AsyncGenerator[Artifacts]:
    """The artifacts of the current flow run."""
    async with get_client() as client:
        yield Artifacts(client)
