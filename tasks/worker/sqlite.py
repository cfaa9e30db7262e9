"""The jobs' table: one SQLite connection for all threads, one transaction at a time."""

import sqlite3
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

TABLE: Final = """
CREATE TABLE IF NOT EXISTS jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    build TEXT NOT NULL,
    spec TEXT NOT NULL,
    still BLOB,
    status TEXT NOT NULL DEFAULT 'queued',
    created_at REAL NOT NULL,
    started_at REAL,
    completed_at REAL,
    error_code TEXT,
    error TEXT,
    held INTEGER NOT NULL DEFAULT 0,
    alone INTEGER NOT NULL DEFAULT 0,
    deaths INTEGER NOT NULL DEFAULT 0,
    hangs INTEGER NOT NULL DEFAULT 0,
    cancel INTEGER NOT NULL DEFAULT 0,
    stages TEXT NOT NULL DEFAULT '{}',
    peak_mb REAL,
    fetched_at REAL,
    gone INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, seq);
CREATE TABLE IF NOT EXISTS process (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    boot TEXT NOT NULL,
    told INTEGER NOT NULL DEFAULT 0
);
"""

OPEN: Final = "status IN ('queued', 'in_progress')"
CANCELLED: Final = (
    f"status = 'cancelled', completed_at = ?, still = NULL WHERE seq = ? AND {OPEN}"
)
FAILED: Final = (
    "status = 'failed', error_code = ?, error = ?, completed_at = ?, still = NULL"
    f" WHERE seq = ? AND {OPEN}"
)
AGAIN: Final = (
    "status = 'queued', started_at = NULL"
    " WHERE seq = ? AND status = 'in_progress' AND cancel = 0"
)


class Rows:
    """The rows of the jobs' table. Each call takes a millisecond, and is then durable."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        # In WAL mode, less than FULL may lose the last commits in a power cut.
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(TABLE)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def together(self) -> Generator[None]:
        """Make the changes within the block in one transaction."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def put(self, statement: str, *values: Any) -> None:
        with self._lock:
            self._db.execute(statement, values)

    def change(self, change: str, *values: Any) -> bool:
        """Update rows; whether there was one to change."""
        with self._lock:
            changed = self._db.execute(f"UPDATE jobs SET {change}", values)  # noqa: S608 - our own words
            return changed.rowcount > 0

    def all_of(self, statement: str) -> list[Any]:
        with self._lock:
            return self._db.execute(statement).fetchall()

    def all(self, columns: str, where: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(
                f"SELECT {columns} FROM jobs WHERE {where}",  # noqa: S608 - our own words
                values,
            ).fetchall()

    def one(self, columns: str, where: str, *values: Any) -> Any:
        """The first row, or None."""
        return next(iter(self.all(columns, where, *values)), None)

    def count(self, where: str, *values: Any) -> int:
        [number] = self.one("count(*)", where, *values)
        return number
