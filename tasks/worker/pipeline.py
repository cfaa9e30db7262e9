"""The pipeline: while one clip is denoised, the previous one is decoded, the one before it
is written, and the next two are prepared, so that the GPU never waits.

Each stage has a thread, with room for one clip between two stages. A failed clip leaves the
pipeline at its stage; the pipeline itself ends with the process.
"""

import logging
import threading
import time
from collections.abc import Callable
from queue import Queue
from typing import Any, Final

from tasks.worker.encoding import EncodingError, encode
from tasks.worker.in_flight import Run
from tasks.worker.job_store import Book
from tasks.worker.jobs import Job
from tasks.worker.metrics import Measures
from tasks.worker.model_protocol import (
    CancelledError,
    LostGpuError,
    Studio,
    StudioError,
)
from tasks.worker.scheduler import Turns, kind
from tasks.worker.watchdog import Watchdog

log = logging.getLogger(__name__)

AHEAD: Final = 2
"""The number of clips prepared in advance of the GPU."""
WRITERS: Final = 2
"""Encoders at once: 720p takes one core 5 s, and a distilled small model the GPU less."""


class Pipeline:
    """Makes the clips of the queued jobs until `drain` is called."""

    def __init__(  # noqa: PLR0913 - what it is put together from
        self,
        book: Book,
        studio: Studio,
        measures: Measures,
        watchdog: Watchdog,
        *,
        codec: str,
        broken: Callable[[BaseException], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._book = book
        self._studio = studio
        self._measures = measures
        self._watchdog = watchdog
        self._codec = codec
        self._broken = broken
        self._now = now
        self._turns = Turns(studio.model)
        self._runs: dict[str, Run] = {}
        self._news = threading.Condition()
        self._draining = False
        self._over = threading.Event()
        self._ready: Queue[Run | None] = Queue(AHEAD - 1)
        self._denoised: Queue[Run | None] = Queue(1)
        self._decoded: Queue[Run | None] = Queue(1)
        self._writers = WRITERS

    def start(self) -> None:
        self._measures.wanted(*(job.id for job in self._book.waiting()))
        stages: list[Callable[[], None]] = [
            self._prepare_all,
            lambda: self._pass(self._ready, self._denoise, self._denoised),
            lambda: self._pass(self._denoised, self._decode, self._decoded),
            *[self._write_all] * WRITERS,
        ]
        for stage in stages:
            threading.Thread(target=self._guarded, args=(stage,), daemon=True).start()

    def came(self, job: Job) -> None:
        """Note that the book has a new job."""
        self._measures.wanted(job.id)
        with self._news:
            self._news.notify_all()

    def progress(self, id_: str) -> int:
        """The percentage of finished steps, at most 99 before the clip is complete."""
        run = self._runs.get(id_)
        return 0 if run is None else min(99, 100 * run.steps // run.ask.steps)

    def cancel(self, id_: str) -> None:
        """End a clip that is under way before its next step."""
        run = self._runs.get(id_)
        if run is not None:
            run.cancelled = True
        else:
            self._measures.settled(id_)

    def drain(self) -> None:
        """Finish the clips under way, leave the other jobs in the book, and end."""
        with self._news:
            self._draining = True
            self._news.notify_all()

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait for the pipeline to end; whether it has."""
        return self._over.wait(timeout_s)

    def _guarded(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as exc:  # the process ends with it: see `broken`
            log.exception("pipeline.failed the process ends")
            self._broken(exc)

    def _prepare_all(self) -> None:
        while (run := self._next()) is not None:
            if self._worked(run, self._prepare, "prepare"):
                self._ready.put(run)
        self._ready.put(None)

    def _next(self) -> Run | None:
        """Wait for the next job; None once the pipeline drains."""
        with self._news:
            while not self._draining:
                free = [job for job in self._book.waiting() if job.id not in self._runs]
                under_way = [run.job for run in self._runs.values()]
                if job := self._turns.next(free, under_way):
                    self._book.hold(job)
                    run = self._runs[job.id] = Run(job)
                    return run
                self._news.wait()
        return None

    def _pass(
        self,
        inbox: Queue[Run | None],
        work: Callable[[Run], Any],
        outbox: Queue[Run | None],
    ) -> None:
        """Take each clip, work on it, and pass it on."""
        while (run := inbox.get()) is not None:
            if self._worked(run, work, work.__name__.removeprefix("_")):
                outbox.put(run)
        outbox.put(None)

    def _write_all(self) -> None:
        """Write each clip; the last writer to stop ends the pipeline."""
        while (run := self._decoded.get()) is not None:
            self._worked(run, self._write, "write")
        with self._news:
            self._writers -= 1
            left = self._writers
        if left:
            self._decoded.put(None)
        else:
            self._watchdog.stop()
            self._over.set()

    def _worked(self, run: Run, work: Callable[[Run], Any], stage: str) -> bool:
        """Work on a clip; whether it continues. If not, the book has the reason."""
        began = time.monotonic()
        try:
            run.go_on()
            run.work = work(run)
        except CancelledError:
            self._book.end_cancelled(run.job, self._now())
        except _LeftError:
            pass
        except (StudioError, EncodingError) as exc:
            self._failed(run, exc)
        except LostGpuError:
            self._book.requeue(run.job)
            raise
        else:
            run.stages[stage] = round(time.monotonic() - began, 3)
            self._measures.took(stage, run.stages[stage])
            return True
        self._leave(run)
        return False

    def _leave(self, run: Run) -> None:
        self._measures.settled(run.id)
        with self._news:
            self._runs.pop(run.id, None)
            # The client may have deleted the job and submitted another with its id.
            self._news.notify_all()

    def _failed(self, run: Run, exc: StudioError | EncodingError) -> None:
        code = exc.code if isinstance(exc, StudioError) else StudioError.code
        log.warning("clip.failed job=%s code=%s %s", run.id, code, exc)
        self._measures.failed(code)
        self._book.fail(run.job, code, str(exc), self._now())

    def _prepare(self, run: Run) -> Any:
        still = self._book.still(run.job)
        if still is None:
            raise _LeftError
        # A kind for itself: behind two steps of another clip it takes as long as they do.
        self._watchdog.step("prepare", run.id, run.id)
        try:
            return self._studio.scene(run.ask, still)
        finally:
            self._watchdog.rest("prepare")

    def _denoise(self, run: Run) -> Any:
        if self._draining or not self._book.begin(run.job, self._now()):
            raise _LeftError
        run.stages["wait"] = round(self._now() - run.job.created_at, 3)
        like = kind(run.ask, self._studio.model)

        def on_step(done: int) -> None:
            run.steps = done
            self._watchdog.step("denoise", run.id, like)
            run.go_on()

        with self._measures.busy():
            self._watchdog.step("denoise", run.id, like)
            try:
                return self._studio.latents(run.work, on_step)
            finally:
                self._watchdog.rest("denoise")

    def _decode(self, run: Run) -> Any:
        like = kind(run.ask, self._studio.model)
        with self._measures.busy():
            self._watchdog.step("decode", run.id, like)
            try:
                frames = self._studio.frames(run.work, run.ask.shape)
                self._watchdog.step("decode", run.id, like)
            finally:
                self._watchdog.rest("decode")
                run.peak_mb = self._studio.peak_mb()
                self._measures.settled(run.id)
        return frames

    def _write(self, run: Run) -> None:
        began = time.monotonic()
        encode(run.work, run.ask.fps, self._codec, self._book.clip(run.id))
        run.stages["write"] = round(time.monotonic() - began, 3)
        self._book.complete(run.job, run.stages, run.peak_mb, self._now())
        self._measures.done()
        self._leave(run)


class _LeftError(Exception):
    """The job must not start now: it was cancelled, or the pipeline drains."""
