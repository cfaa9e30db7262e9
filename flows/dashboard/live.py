"""Shows a batch in the Prefect UI; a batch that is buying never waits for it.

    nightreel-plan            markdown, before money is spent
    nightreel-clips           progress, true to the second
    nightreel-board           markdown: the state of each lane
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
from flows.dashboard.artifacts import Artifacts, open_artifacts
from flows.dashboard.contact_sheet import sheet
from flows.dashboard.events import Events
from flows.dashboard.log_relay import relayed
from flows.dashboard.pages import (
    bill_note,
    bill_table,
    board,
    headline,
    wrong_note,
    wrong_table,
)
from flows.dashboard.plan import foretold
from storage.media import Posters
from storage.objects import Objects, RetryPolicy
from tasks.alongside import alongside
from tasks.batch.batch import BatchRun
from tasks.batch.contact_sheet import Sheet

log = logging.getLogger(__name__)

PROGRESS_S: Final = 1.0
BOARD_S: Final = 5.0
SHEET_S: Final = 30.0
"""Seconds between two looks at the posters."""

SHEET_GROWS: Final = 1.1
"""The sheet is sent again when the number of clips has grown by this factor."""


class Board:
    """The artifacts of one batch."""

    def __init__(
        self, batch_run: BatchRun, seen: Artifacts, sheet: Sheet, report: ReportSettings
    ) -> None:
        self._batch_run = batch_run
        self._shown = seen
        self._sheet = sheet
        self._report = report
        self._events = Events(batch_run)
        self._sheeted = 0
        self._over = False

    async def plan(self) -> None:
        """Show the expected cost; buying begins even if this fails."""
        await self._shown.tag(["nightreel", self._batch_run.batch])
        page, note = await asyncio.to_thread(foretold, self._batch_run)
        await self._shown.markdown("plan", page, note)

    async def keep(self, until: asyncio.Event) -> None:
        """Update the artifacts until then."""
        loop = asyncio.get_running_loop()
        boarded = sheeted = loop.time()
        while not until.is_set():
            await self._tick()
            if loop.time() - boarded >= BOARD_S:
                boarded = loop.time()
                await self._send_board()
            if loop.time() - sheeted >= SHEET_S and self._grown():
                sheeted = loop.time()
                await self._send_sheet()
            try:
                await asyncio.wait_for(until.wait(), PROGRESS_S)
            except TimeoutError:
                continue

    async def over(self) -> None:
        """Send the last events, and show why rows have no clip."""
        self._over = True
        await self._events.ended(self._batch_run.summary())
        if rows := await asyncio.to_thread(wrong_table, self._batch_run):
            await self._shown.table(
                "wrong", rows, wrong_note(self._batch_run, len(rows))
            )

    async def end(self) -> None:
        """Show the final state, however the batch ended."""
        self._shown.once_more()
        await self._tick()
        await self._send_board()
        if rows := bill_table(self._batch_run):
            await self._shown.table("bill", rows, bill_note(self._batch_run))
        await self._send_sheet()

    async def _tick(self) -> None:
        batch_run = self._batch_run
        # A bar that stops short looks as if the run went on: the note has the counts.
        share = batch_run.done / max(1, batch_run.plan.jobs)
        percent = 100.0 if self._over else 100 * share
        await self._shown.progress("clips", percent, headline(batch_run))
        await self._events.look()

    async def _send_board(self) -> None:
        batch_run = self._batch_run
        await self._shown.markdown("board", board(batch_run), headline(batch_run))

    def _grown(self) -> bool:
        return self._sheet.seen > SHEET_GROWS * self._sheeted

    async def _send_sheet(self) -> None:
        if not self._sheet.tiles:
            return
        self._sheeted = self._sheet.seen
        page = sheet(
            self._sheet.tiles,
            self._sheet.seen,
            root=self._batch_run.wanted.root,
            public_url=self._report.public_url,
        )
        note = f"some of {self._sheet.seen:,} clips"
        await self._shown.markdown("contact-sheet", page, note)


@asynccontextmanager
async def watched(batch_run: BatchRun, report: ReportSettings) -> AsyncGenerator[None]:
    """Show a batch: its plan first, its progress, and its result."""
    posters = Sheet(
        Posters(Objects.open(batch_run.wanted.root, retry=RetryPolicy(unavailable_s=5)))
    )
    # Within a flow it is a LoggerAdapter, with the run's id.
    to = cast("logging.LoggerAdapter[Any]", get_run_logger())
    with relayed(to):
        async with open_artifacts() as seen:
            board = Board(batch_run, seen, posters, report)
            await _whatever(board.plan())
            try:
                # The last posters are made before the last sheet is sent.
                keeping = alongside(lambda over: _whatever(board.keep(over)))
                async with posters.made(batch_run.engine.on_published), keeping:
                    yield
                    await _whatever(board.over())
            finally:
                await _whatever(board.end())


async def _whatever(showing: Coroutine[Any, Any, None]) -> None:
    """Show something; its errors are logged and never reach the batch."""
    try:
        await showing
    except Exception:
        log.exception("dashboard.failed the batch continues without its live page")
