"""The worker's store: its jobs in SQLite and its clips in a folder, across restarts.

An accepted job is durable before the answer is sent. A clip is synced and renamed before its
job is completed. Jobs that were under way when the process died are queued again. A job is
blamed for a death only if nothing else explains it, and no other job was in the pipeline.
"""

import fcntl
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import orjson

from tasks.worker.job_spec import JobSpec
from tasks.worker.jobs import SEEN, Job, read
from tasks.worker.sqlite import AGAIN, CANCELLED, FAILED, OPEN, Rows

MOST_DEATHS: Final = 5
"""Deaths of the process, with a job alone in the pipeline, after which the job fails."""
ROWS_S: Final = 7 * 86_400.0
"""How long a row is kept after its clip was deleted or its job failed."""
MOST_HANGS: Final = 2
ENDING_S: Final = 5.0
"""How long to wait for another worker that may be about to release the folder."""


class JobStoreError(Exception):
    """The state folder cannot be used as it is."""


class TakenError(Exception):
    """Another job has this id."""


class FullError(Exception):
    """The queue is full."""


class JobStore:
    """The worker's jobs and their outcomes."""

    def __init__(self, folder: Path, build: str, now: float, *, boot: str) -> None:
        """`boot` identifies the boot of the machine: no job is blamed for a power cut."""
        self._folder = folder
        self._clips = folder / "clips"
        self._clips.mkdir(parents=True, exist_ok=True)
        self._build = build
        self._held = _hold(folder / "lock")
        self._rows = Rows(folder / "jobs.sqlite")
        self._refuse_strangers()
        self._take_up(now, boot)

    def close(self) -> None:
        self._rows.close()
        os.close(self._held)

    def add(self, spec: JobSpec, still: bytes, *, now: float, at_most: int) -> Job:
        """Queue a job, or return the existing one if the same one comes again.

        Raises:
            TakenError: another job has this id.
            FullError: `at_most` jobs wait already.
        """
        with self._rows.together():
            if (job := self.job(spec.id)) is not None:
                if job.spec != spec:
                    raise TakenError(f"id {spec.id!r} is another job's")
                return job
            if self.queued() >= at_most:
                raise FullError(f"{at_most} jobs wait already")
            self._rows.put(
                "INSERT INTO jobs (id, build, spec, still, created_at)"
                " VALUES (?, ?, ?, ?, ?)",
                *(spec.id, self._build, spec.written(), still, now),
            )
            return read(self._rows.one(SEEN, "id = ?", spec.id))

    def job(self, id_: str) -> Job | None:
        row = self._rows.one(SEEN, "id = ?", id_)
        return None if row is None else read(row)

    def jobs(self, *, limit: int, after: str | None, newest_first: bool) -> list[Job]:
        """Jobs in the order of their arrival, from the one after `after` on."""
        then = None if after is None else self.job(after)
        seq = None if then is None else then.seq
        side, way = ("<", "DESC") if newest_first else (">", "ASC")
        where = f"(? IS NULL OR seq {side} ?) ORDER BY seq {way} LIMIT ?"
        return [read(row) for row in self._rows.all(SEEN, where, seq, seq, limit)]

    def waiting(self) -> list[Job]:
        """Return the queued jobs, oldest first."""
        rows = self._rows.all(SEEN, "status = 'queued' ORDER BY seq")
        return [read(row) for row in rows]

    def still(self, job: Job) -> bytes | None:
        """Return a job's still; None if the job has ended."""
        row = self._rows.one("still", "seq = ?", job.seq)
        return None if row is None else row[0]

    def hold(self, job: Job) -> None:
        """Mark a job as in the pipeline: if the process dies now, it may be the cause."""
        self._rows.change("held = 1 WHERE seq = ?", job.seq)

    def begin(self, job: Job, now: float) -> bool:
        """Start a job if it is still queued; whether it was."""
        return self._rows.change(
            "status = 'in_progress', started_at = ? WHERE seq = ? AND status = 'queued'",
            *(now, job.seq),
        )

    def ends(self) -> None:
        """Note that the process ends for a known reason, so that no job is blamed."""
        self._rows.put("UPDATE process SET told = 1")

    def cancel(self, id_: str, now: float) -> None:
        """Cancel a job: a queued one never begins, a running one never completes."""
        with self._rows.together():
            self._rows.change("cancel = 1 WHERE id = ? AND status = 'in_progress'", id_)
            if (job := self.job(id_)) is not None:
                self._rows.change(f"{CANCELLED} AND status = 'queued'", now, job.seq)

    # From here on jobs go by `seq`: a client may have deleted a job and reused its id.

    def end_cancelled(self, job: Job, now: float) -> None:
        self._rows.change(CANCELLED, now, job.seq)

    def fail(self, job: Job, code: str, why: str, now: float) -> None:
        self._rows.change(FAILED, code, why, now, job.seq)

    def requeue(self, job: Job) -> None:
        """Queue a job again, unless it has ended or was cancelled. The next start ends a cancelled
        one."""
        self._rows.change(AGAIN, job.seq)

    def hung(self, id_: str, why: str, now: float) -> None:
        """Queue a job again after a step of it hung; fail it the second time."""
        with self._rows.together():
            if (job := self.job(id_)) is None:
                return
            self._rows.change("hangs = hangs + 1 WHERE seq = ?", job.seq)
            if self._rows.count("seq = ? AND hangs >= ?", job.seq, MOST_HANGS):
                self.fail(job, "step_hung", why, now)
            else:
                self.requeue(job)

    def complete(
        self, job: Job, stages: Mapping[str, float], peak_mb: float, now: float
    ) -> None:
        """Complete a job whose clip is in place, unless it was cancelled meanwhile."""
        with self._rows.together():
            done = self._rows.change(
                "status = 'completed', completed_at = ?, stages = ?, peak_mb = ?,"
                " still = NULL WHERE seq = ? AND status = 'in_progress' AND cancel = 0",
                *(now, orjson.dumps(dict(stages)).decode(), peak_mb, job.seq),
            )
            if not done:
                self._rows.change(CANCELLED, now, job.seq)
        if not done:
            self.clip(job.id).unlink(missing_ok=True)

    def clip(self, id_: str) -> Path:
        """Return the path of a job's clip, which exists once the job is completed."""
        return self._clips / f"{id_}.mp4"

    def fetched(self, id_: str, now: float) -> None:
        self._rows.change("fetched_at = coalesce(fetched_at, ?) WHERE id = ?", now, id_)

    def forget(self, id_: str) -> None:
        self.clip(id_).unlink(missing_ok=True)
        self._rows.put("DELETE FROM jobs WHERE id = ?", id_)

    def let_go(self, fetched_before: float) -> None:
        """Delete clips that were fetched before this time, and in the end their rows.

        Clips that were never fetched are kept.
        """
        for [id_] in self._rows.all(
            "id", "gone = 0 AND fetched_at < ?", fetched_before
        ):
            self.clip(id_).unlink(missing_ok=True)
            self._rows.change("gone = 1 WHERE id = ?", id_)
        over = fetched_before - ROWS_S
        self._rows.put(
            "DELETE FROM jobs WHERE (gone = 1 AND fetched_at < ?)"
            " OR (status IN ('failed', 'cancelled') AND completed_at < ?)",
            *(over, over),
        )

    def queued(self) -> int:
        return self._rows.count("status = 'queued'")

    def unfetched(self, since: float) -> int:
        """The number of clips completed since then and not fetched yet."""
        return self._rows.count(
            "status = 'completed' AND fetched_at IS NULL AND completed_at >= ?", since
        )

    def _refuse_strangers(self) -> None:
        row = self._rows.one(
            "build, count(*)",
            f"build != ? AND {OPEN} GROUP BY build",
            self._build,
        )
        if row is not None:
            raise JobStoreError(
                f"{self._folder}: {row[1]} jobs wait there for {row[0]!r}, which"
                f" {self._build!r} is not: finish them, or use another --state"
            )

    def _take_up(self, now: float, boot: str) -> None:
        """Requeue or end the jobs that the last process left under way."""
        with self._rows.together():
            held = self._rows.all("seq", f"held = 1 AND {OPEN}")
            for seq, id_, cancelled in self._rows.all(
                "seq, id, cancel", "status = 'in_progress'"
            ):
                self._take(seq, self.clip(id_), now, cancelled=bool(cancelled))
            if not self._explained(boot):
                self._blame([seq for [seq] in held], now)
            self._rows.change("held = 0 WHERE held = 1")
            self._rows.put("INSERT OR REPLACE INTO process VALUES (1, ?, 0)", boot)
        for part in self._clips.glob("*.part"):
            part.unlink()

    def _take(self, seq: int, clip: Path, now: float, *, cancelled: bool) -> None:
        if cancelled:
            clip.unlink(missing_ok=True)
            self._rows.change(CANCELLED, now, seq)
        elif clip.exists():
            self._rows.change(
                "status = 'completed', completed_at = ?, still = NULL WHERE seq = ?",
                *(clip.stat().st_mtime, seq),
            )
        else:
            self._rows.change(AGAIN, seq)

    def _explained(self, boot: str) -> bool:
        """Whether the last process ended for a known reason, or with the machine."""
        last = self._rows.all_of("SELECT boot, told FROM process")
        return any(told or was != boot for was, told in last)

    def _blame(self, held: list[int], now: float) -> None:
        """Blame the jobs in the pipeline for a death; several are each made alone from then on."""
        for seq in held:
            if len(held) > 1:
                self._rows.change("alone = 1 WHERE seq = ?", seq)
                continue
            self._rows.change("deaths = deaths + 1 WHERE seq = ?", seq)
            if self._rows.count("seq = ? AND deaths >= ?", seq, MOST_DEATHS):
                why = f"the worker died {MOST_DEATHS} times with nothing else at work"
                self._rows.change(FAILED, "worker_error", why, now, seq)


def _hold(path: Path) -> int:
    """Take a lock that the system releases when the process ends, however it ends."""
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    until = time.monotonic() + ENDING_S
    while not _locked(handle):
        if time.monotonic() > until:
            os.close(handle)
            raise JobStoreError(f"{path.parent}: another worker is at work there")
        time.sleep(0.1)
    return handle


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
