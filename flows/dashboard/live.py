"""Shows a batch in the Prefect UI; a batch that is buying never waits for it.

    nightreel-night           markdown: the whole batch on a page, from its start
    nightreel-plan            markdown, before money is spent
    nightreel-clips           progress, true to the second
    nightreel-contact-sheet   markdown: posters of some clips
    nightreel-bill            table, by lane, when it is over
    nightreel-wrong           table: why rows have no clip

Nothing is sent twice; the contact sheet, which is large, is sent seldom.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, Final, cast

from prefect import get_run_logger

from flows.config import ReportSettings
from flows.dashboard.artifacts import Artifacts
from flows.dashboard.contact_sheet import ACROSS, grid, sheet
from flows.dashboard.events import Events
from flows.dashboard.log_relay import relayed
from flows.dashboard.night import NightPage, headline
from flows.dashboard.pages import bill_note, bill_table, wrong_note, wrong_table
from flows.dashboard.plan import planned
from storage.media import Posters
from storage.objects import Objects, RetryPolicy
from tasks.alongside import alongside
from tasks.batch.batch import BatchRun
from tasks.batch.contact_sheet import Sheet

log = logging.getLogger(__name__)

PROGRESS_S: Final = 1.0
NIGHT_S: Final = 5.0
SHEET_S: Final = 30.0
"""Seconds between two looks at the posters."""

SHEET_GROWS: Final = 1.1
"""The sheet is sent again when the number of clips has grown by this factor."""


class Board:
    """The artifacts of one batch."""

    def __init__(
        self, batch_run: BatchRun, seen: Artifacts, sheet: Sheet, report: ReportSettings
    ) -> None:
        self.batch_run = batch_run
        self._shown = seen
        self._sheet = sheet
        self._report = report
        self._events = Events(batch_run)
        self._night = NightPage(batch_run)
        self._sheeted = 0
        self._over = False

    async def plan(self) -> None:
        """Show the expected cost; buying begins even if this fails."""
        await self._shown.tag(["nightreel", self.batch_run.batch])
        # The UI lists the artifacts of a run in the order of their creation.
        await self._send_night()
        told = await asyncio.to_thread(planned, self.batch_run)
        self._night.planned = told
        await self._shown.markdown("plan", told.page, told.note)
        await self._send_night()

    async def keep(self, until: asyncio.Event) -> None:
        """Update the artifacts until then."""
        loop = asyncio.get_running_loop()
        sent = sheeted = loop.time()
        while not until.is_set():
            await self._tick()
            if loop.time() - sent >= NIGHT_S:
                sent = loop.time()
                await self._send_night()
            if loop.time() - sheeted >= SHEET_S and self._grown():
                sheeted = loop.time()
                await self._send_sheet()
            try:
                await asyncio.wait_for(until.wait(), PROGRESS_S)
            except TimeoutError:
                continue

    async def end(self, error: BaseException | None) -> None:
        """Show the final state, however the batch ended, and send the last events."""
        self._over = True
        self._shown.once_more()
        if error is not None:
            self._night.error = type(error).__name__
        self._night.without_clip = await asyncio.to_thread(wrong_table, self.batch_run)
        await self._tick()
        await self._send_result()
        if rows := bill_table(self.batch_run):
            await self._shown.table("bill", rows, bill_note(self.batch_run))
        if rows := self._night.without_clip:
            note = wrong_note(self.batch_run, len(rows))
            await self._shown.table("wrong", rows, note)
        await self._send_sheet()
        if error is None:
            await self._events.ended(self.batch_run.summary())

    def set_cancelled(self) -> None:
        """Note that the owner cancelled the run."""
        self._night.cancelled = True

    async def send_result(self) -> None:
        """Show the night's page once more, with what was found out after its end."""
        await _whatever(self._send_result())

    async def _send_result(self) -> None:
        tiles = self._sheet.tiles[:ACROSS]
        self._night.posters = grid(tiles, self._report.public_url) if tiles else ""
        text = str(self.batch_run.summary())
        await self._shown.markdown("night", self._night.over(), text)

    async def _tick(self) -> None:
        batch_run = self.batch_run
        # A bar that stops short looks as if the run went on: the note has the counts.
        share = batch_run.done / max(1, batch_run.plan.jobs)
        percent = 100.0 if self._over else 100 * share
        await self._shown.progress("clips", percent, headline(batch_run))
        await self._events.look()

    async def _send_night(self) -> None:
        page, note = self._night.live(), headline(self.batch_run)
        await self._shown.markdown("night", page, note)

    def _grown(self) -> bool:
        return self._sheet.seen > SHEET_GROWS * self._sheeted

    async def _send_sheet(self) -> None:
        if not self._sheet.tiles:
            return
        self._sheeted = self._sheet.seen
        page = sheet(
            self._sheet.tiles,
            self._sheet.seen,
            root=self.batch_run.wanted.root,
            public_url=self._report.public_url,
        )
        note = f"some of {self._sheet.seen:,} clips"
        await self._shown.markdown("contact-sheet", page, note)


@asynccontextmanager
async def watched(
    batch_run: BatchRun, report: ReportSettings, seen: Artifacts
) -> AsyncGenerator[Board]:
    """Show a batch: its plan first, its progress, and its result."""
    posters = Sheet(
        Posters(Objects.open(batch_run.wanted.root, retry=RetryPolicy(unavailable_s=5)))
    )
    # Within a flow it is a LoggerAdapter, with the run's id.
    to = cast("logging.LoggerAdapter[Any]", get_run_logger())
    board = Board(batch_run, seen, posters, report)
    error: BaseException | None = None
    with relayed(to):
        await _whatever(board.plan())
        try:
            # The last posters are made before the last sheet is sent.
            keeping = alongside(lambda over: _whatever(board.keep(over)))
            async with posters.made(batch_run.engine.on_published), keeping:
                yield board
        except BaseException as exc:
            error = exc
            raise
        finally:
            await _whatever(board.end(error))


async def _whatever(showing: Coroutine[Any, Any, None]) -> None:
    """Show something; its errors are logged and never reach the batch."""
    try:
        await showing
    except Exception:
        log.exception("dashboard.failed the batch continues without its live page")
