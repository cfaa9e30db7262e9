"""The worker: it warms up, is ready, drains, or is dead, and answers accordingly."""

import io
import logging
import os
import statistics
import threading
import time
from collections.abc import Sequence
from typing import Final, Literal

from PIL import Image

from tasks.worker.encoding import best
from tasks.worker.job_spec import JobSpec, JobSpecError, Model, shape_of
from tasks.worker.job_store import JobStore
from tasks.worker.jobs import Job
from tasks.worker.metrics import Metrics
from tasks.worker.model_protocol import (
    BlackError,
    ClipError,
    Load,
    LoadedModel,
    LostGpuError,
    NanError,
    Plan,
    WorkerError,
)
from tasks.worker.pipeline import Pipeline
from tasks.worker.watchdog import Patience, Watchdog

log = logging.getLogger(__name__)

Phase = Literal["warming_up", "ready", "draining", "dead"]

STEP_HUNG: Final = 75
"""Exit code: a step hung. Start it again: its job is queued."""
LOST_GPU: Final = 76
"""Exit code: the device no longer answers. Start it again: all jobs are queued."""
BROKEN: Final = 70
"""Exit code: the worker itself failed. Start it again: all jobs are queued."""

WARM_STEPS: Final = 2
"""Enough steps that both experts have run."""
WARM_UP: Final = "warm-up"
LOADING: Final = "loading the model"
UNKNOWN_S: Final = 30.0
"""The assumed time of a clip before the first one is finished."""
LONGEST_ASKED_S: Final = 300.0
"""The longest Retry-After: a lane that must wait a quarter of an hour is closed."""


class NotNowError(Exception):
    """No job is accepted now; `code` has the reason, and `again_s` when to ask again."""

    def __init__(self, code: Literal["warming_up", "draining"], again_s: float) -> None:
        super().__init__(f"the worker is {code.replace('_', ' ')}")
        self.code = code
        self.again_s = again_s


class Worker:
    """One model on one device, and its store."""

    def __init__(
        self,
        plan: Plan,
        store: JobStore,
        *,
        at_most: int,
        hang_after_s: float,
        load_within_s: float,
    ) -> None:
        self.name = plan.name
        self.store = store
        self.metrics: Metrics | None = None
        self._plan = plan
        self._at_most = at_most
        self._load_within_s = load_within_s
        self._watchdog = Watchdog(Patience(hang_after_s), self._hung, time.monotonic)
        self._model: Model | None = None
        self._pipeline: Pipeline | None = None
        self._draining = False
        self._dead: str | None = None
        self._lock = threading.Lock()

    def warm(self, load: Load, shapes: Sequence[str]) -> None:
        """Load the model, run it once in each shape, and begin.

        Raises:
            WorkerError: it cannot be had, or does not fit.
        """
        threading.Thread(target=self._watchdog.watch, daemon=True).start()
        try:
            loaded = self._loaded(load)
            _run_once(loaded, shapes, self._watchdog)
            self._open(loaded)
        except WorkerError as exc:
            self._dead = str(exc)
            raise

    def _loaded(self, load: Load) -> LoadedModel:
        # A download may take any time.
        if not self._plan.allow_download:
            self._watchdog.step(WARM_UP, LOADING, None, self._load_within_s)
        try:
            return load(self._plan)
        finally:
            self._watchdog.rest(WARM_UP)

    def _open(self, loaded: LoadedModel) -> None:
        self.metrics = Metrics(time.monotonic, self.store.queued)
        pipeline = Pipeline(
            self.store,
            loaded,
            self.metrics,
            self._watchdog,
            codec=best(self._plan.device),
            broken=self._broke,
        )
        with self._lock:
            self._model, self._pipeline = loaded.model, pipeline
            if self._draining:
                pipeline.drain()
            pipeline.start()

    def phase(self) -> tuple[Phase, str | None]:
        if self._dead is not None:
            return "dead", self._dead
        if self._draining:
            return "draining", None
        return ("warming_up" if self._pipeline is None else "ready"), None

    def model(self) -> Model:
        """Return the loaded model.

        Raises:
            NotNowError: nothing is, yet.
        """
        if self._model is None:
            raise NotNowError("warming_up", 10)
        return self._model

    def take(self, spec: JobSpec, still: bytes) -> Job:
        """Queue a job, or find the one that has its id.

        Raises:
            NotNowError: it is new, and the worker drains.
            TakenError: the id is another job's.
            FullError: as many wait as may.
        """
        known = self.store.job(spec.id)
        if self._draining and known is None:
            raise NotNowError("draining", UNKNOWN_S)
        job = self.store.add(spec, still, now=time.time(), at_most=self._at_most)
        if self._pipeline is not None and known is None:
            self._pipeline.came(job)
        return job

    def delete(self, id_: str) -> bool:
        """Cancel a job that has not ended, delete one that has; whether there was one."""
        job = self.store.job(id_)
        if job is None:
            return False
        if job.status in {"queued", "in_progress"}:
            self.store.cancel(id_, time.time())
            if self._pipeline is not None:
                self._pipeline.cancel(id_)
        else:
            self.store.forget(id_)
        return True

    def progress(self, id_: str) -> int:
        return 0 if self._pipeline is None else self._pipeline.progress(id_)

    def a_clip_s(self) -> float:
        """Seconds until a place is free, by the times of the latest clips."""
        jobs = self.store.jobs(limit=20, after=None, newest_first=True)
        took = [
            job.completed_at - job.started_at
            for job in jobs
            if job.status == "completed" and job.completed_at and job.started_at
        ]
        return min(statistics.median(took), LONGEST_ASKED_S) if took else UNKNOWN_S

    def drain(self) -> None:
        """Accept no jobs, finish the clips under way, and leave the other jobs in the store."""
        self.store.ends()
        with self._lock:
            self._draining = True
            if self._pipeline is not None:
                self._pipeline.drain()

    def join(self) -> None:
        """Wait until the clips under way are done."""
        if self._pipeline is not None:
            self._pipeline.join()

    def _hung(self, job: str, why: str) -> None:
        self._dead = f"{job}: {why}"
        log.error("step.hung job=%s the process ends: %s", job, why)
        try:
            self.store.hung(job, why, time.time())
            self.store.ends()
        finally:
            # The thread hangs in the driver: only the end of the process frees it.
            os._exit(STEP_HUNG)

    def _broke(self, exc: BaseException) -> None:
        self._dead = str(exc)
        os._exit(LOST_GPU if isinstance(exc, LostGpuError) else BROKEN)


def _run_once(loaded: LoadedModel, shapes: Sequence[str], watchdog: Watchdog) -> None:
    for words in shapes or [str(loaded.model.shape)]:
        try:
            spec = _trial(words, loaded.model)
            still = _grey(spec)
            began = time.monotonic()

            def on_step(done: int, words: str = words) -> None:
                watchdog.step(WARM_UP, words, (words, done))

            on_step(0)
            latents = loaded.latents(loaded.scene(spec, still), on_step)
            loaded.frames(latents, spec.shape)
            log.info(
                "worker.warmed_up shape=%s took_s=%.1f a clip of this shape was made once",
                words,
                time.monotonic() - began,
            )
        except JobSpecError as exc:
            raise WorkerError(f"--shapes {words}: {exc}") from exc
        except (BlackError, NanError) as exc:
            log.warning(
                "worker.not_warmed_up shape=%s the trial clip cannot be used: %s",
                words,
                exc,
            )
        except (ClipError, LostGpuError) as exc:
            raise WorkerError(f"{words} cannot be made here: {exc}") from exc
        finally:
            watchdog.rest(WARM_UP)


def _trial(words: str, model: Model) -> JobSpec:
    return JobSpec(
        id=WARM_UP,
        prompt="a slow pan",
        negative_prompt="",
        shape=shape_of(words, model),
        fps=model.fps,
        seed=0,
        steps=WARM_STEPS,
        cfg_high=model.guidance,
        cfg_low=model.guidance,
        still="",
    )


def _grey(spec: JobSpec) -> bytes:
    out = io.BytesIO()
    size = spec.shape.width, spec.shape.height
    Image.new("RGB", size, "grey").save(out, format="PNG")
    return out.getvalue()
