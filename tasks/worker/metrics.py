"""Metrics of the worker's GPU for Prometheus."""

import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

HOUR_S: Final = 3600.0
_PREFIX: Final = "nightreel_worker"


class Metrics(Collector):
    """Adds up time: the GPU is busy, idle although jobs wait, or idle without jobs.

    The GPU counts as busy while a clip is in denoising or decoding.
    """

    def __init__(self, now: Callable[[], float], queued: Callable[[], int]) -> None:
        self._now = now
        self._queued = queued
        self._lock = threading.Lock()
        self._since = self._last = now()
        self._at_work = 0
        self._wanted: set[str] = set()
        self._busy = self._starved = 0.0
        self._stages = Counter[str]()
        self._stage_s: defaultdict[str, float] = defaultdict(float)
        self._failed = Counter[str]()
        self._done = 0
        self._recent: deque[float] = deque()

    def wanted(self, *jobs: str) -> None:
        """Count these jobs as waiting for the GPU, until they are `settled`."""
        with self._lock:
            self._pass()
            self._wanted.update(jobs)

    def settled(self, job: str) -> None:
        with self._lock:
            self._pass()
            self._wanted.discard(job)

    @contextmanager
    def busy(self) -> Generator[None]:
        with self._lock:
            self._pass()
            self._at_work += 1
        try:
            yield
        finally:
            with self._lock:
                self._pass()
                self._at_work -= 1

    def took(self, stage: str, seconds: float) -> None:
        with self._lock:
            self._stages[stage] += 1
            self._stage_s[stage] += seconds

    def done(self) -> None:
        with self._lock:
            self._done += 1
            self._recent.append(self._now())

    def failed(self, code: str) -> None:
        with self._lock:
            self._failed[code] += 1

    def text(self) -> bytes:
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        queued = self._queued()
        with self._lock:
            self._pass()
            up = max(self._last - self._since, 1e-9)
            while self._recent and self._recent[0] < self._last - HOUR_S:
                self._recent.popleft()
            hourly = len(self._recent) * HOUR_S / min(up, HOUR_S)
            return [
                *_gauges(self._busy / up, hourly, queued),
                _counter("uptime_seconds", "since it was warm", up),
                _counter("gpu_busy_seconds", "denoising or decoding", self._busy),
                _counter(
                    "gpu_idle_seconds_with_work", "idle, and a job waits", self._starved
                ),
                _counter("clips_completed", "clips that are done", self._done),
                _counter("clips_failed", "by code", self._failed, "code"),
                _counter("stage_seconds", "by stage", self._stage_s, "stage"),
                _counter("stage_runs", "by stage", self._stages, "stage"),
            ]

    def _pass(self) -> None:
        now = self._now()
        spent, self._last = now - self._last, now
        if self._at_work:
            self._busy += spent
        elif self._wanted:
            self._starved += spent


def _gauges(share: float, hourly: float, queued: int) -> list[Metric]:
    gauges = {
        "gpu_busy_share": ("of the time since it was warm", share),
        "clips_per_hour": ("in the last hour, or since it was warm", hourly),
        "jobs_queued": ("jobs that have not begun", queued),
    }
    return [
        GaugeMetricFamily(f"{_PREFIX}_{name}", words, value=value)
        for name, (words, value) in gauges.items()
    ]


def _counter(
    name: str, words: str, value: float | Mapping[str, float], label: str | None = None
) -> Metric:
    if not isinstance(value, Mapping):
        return CounterMetricFamily(f"{_PREFIX}_{name}", words, value=value)
    family = CounterMetricFamily(f"{_PREFIX}_{name}", words, labels=[label or ""])
    for key, number in sorted(value.items()):
        family.add_metric([key], number)
    return family
