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
from tasks.worker.job_store import JobStore
from tasks.worker.jobs import Job, Run
from tasks.worker.metrics import Metrics
from tasks.worker.model_protocol import (
    CancelledError,
    ClipError,
    LoadedModel,
    LostGpuError,
)
from tasks.worker.scheduler import Scheduler, kind
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
        store: JobStore,
        loaded: LoadedModel,
        metrics: Metrics,
        watchdog: Watchdog,
        *,
        codec: str,
        broken: Callable[[BaseException], None],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._loaded_model = loaded
        self._metrics = metrics
        self._watchdog = watchdog
        self._codec = codec
        self._broken = broken
        self._now = now
        self._scheduler = Scheduler(loaded.model)
        self._runs: dict[str, Run] = {}
        self._news = threading.Condition()
        self._draining = False
        self._over = threading.Event()
        self._ready: Queue[Run | None] = Queue(AHEAD - 1)
        self._denoised: Queue[Run | None] = Queue(1)
        self._decoded: Queue[Run | None] = Queue(1)
        self._writers = WRITERS

    def start(self) -> None:
        self._metrics.wanted(*(job.id for job in self._store.waiting()))
        stages: list[Callable[[], None]] = [
            self._prepare_all,
            lambda: self._pass(self._ready, self._denoise, self._denoised),
            lambda: self._pass(self._denoised, self._decode, self._decoded),
            *[self._write_all] * WRITERS,
        ]
        for stage in stages:
            threading.Thread(target=self._guarded, args=(stage,), daemon=True).start()

    def came(self, job: Job) -> None:
        """Note that the store has a new job."""
        self._metrics.wanted(job.id)
        with self._news:
            self._news.notify_all()

    def progress(self, id_: str) -> int:
        """The percentage of finished steps, at most 99 before the clip is complete."""
        run = self._runs.get(id_)
        return 0 if run is None else min(99, 100 * run.steps // run.spec.steps)

    def cancel(self, id_: str) -> None:
        """End a clip that is under way before its next step."""
        run = self._runs.get(id_)
        if run is not None:
            run.cancelled = True
        else:
            self._metrics.settled(id_)

    def drain(self) -> None:
        """Finish the clips under way, leave the other jobs in the store, and end."""
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
                free = [
                    job for job in self._store.waiting() if job.id not in self._runs
                ]
                under_way = [run.job for run in self._runs.values()]
                if job := self._scheduler.next(free, under_way):
                    self._store.hold(job)
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
        """Work on a clip; whether it continues. If not, the store has the reason."""
        began = time.monotonic()
        try:
            run.go_on()
            run.work = work(run)
        except CancelledError:
            self._store.end_cancelled(run.job, self._now())
        except _LeftError:
            pass
        except (ClipError, EncodingError) as exc:
            self._failed(run, exc)
        except LostGpuError:
            self._store.requeue(run.job)
            raise
        else:
            run.stages[stage] = round(time.monotonic() - began, 3)
            self._metrics.took(stage, run.stages[stage])
            return True
        self._leave(run)
        return False

    def _leave(self, run: Run) -> None:
        self._metrics.settled(run.id)
        with self._news:
            self._runs.pop(run.id, None)
            # The client may have deleted the job and submitted another with its id.
            self._news.notify_all()

    def _failed(self, run: Run, exc: ClipError | EncodingError) -> None:
        code = exc.code if isinstance(exc, ClipError) else ClipError.code
        log.warning("clip.failed job=%s code=%s %s", run.id, code, exc)
        self._metrics.failed(code)
        self._store.fail(run.job, code, str(exc), self._now())

    def _prepare(self, run: Run) -> Any:
        still = self._store.still(run.job)
        if still is None:
            raise _LeftError
        # A kind for itself: behind two steps of another clip it takes as long as they do.
        self._watchdog.step("prepare", run.id, run.id)
        try:
            return self._loaded_model.scene(run.spec, still)
        finally:
            self._watchdog.rest("prepare")

    def _denoise(self, run: Run) -> Any:
        if self._draining or not self._store.begin(run.job, self._now()):
            raise _LeftError
        run.stages["wait"] = round(self._now() - run.job.created_at, 3)
        like = kind(run.spec, self._loaded_model.model)

        def on_step(done: int) -> None:
            run.steps = done
            self._watchdog.step("denoise", run.id, like)
            run.go_on()

        with self._metrics.busy():
            self._watchdog.step("denoise", run.id, like)
            try:
                return self._loaded_model.latents(run.work, on_step)
            finally:
                self._watchdog.rest("denoise")

    def _decode(self, run: Run) -> Any:
        like = kind(run.spec, self._loaded_model.model)
        with self._metrics.busy():
            self._watchdog.step("decode", run.id, like)
            try:
                frames = self._loaded_model.frames(run.work, run.spec.shape)
                self._watchdog.step("decode", run.id, like)
            finally:
                self._watchdog.rest("decode")
                run.peak_mb = self._loaded_model.peak_mb()
                self._metrics.settled(run.id)
        return frames

    def _write(self, run: Run) -> None:
        began = time.monotonic()
        encode(run.work, run.spec.fps, self._codec, self._store.clip(run.id))
        run.stages["write"] = round(time.monotonic() - began, 3)
        self._store.complete(run.job, run.stages, run.peak_mb, self._now())
        self._metrics.done()
        self._leave(run)


class _LeftError(Exception):
    """The job must not start now: it was cancelled, or the pipeline drains."""
