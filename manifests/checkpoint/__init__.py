"""Checkpoint: events and histories of the ledger as Parquet rows, without loss.

`rows` defines three tables. EVENTS has a row for each event, JOBS a row with the history
of each life that an epoch touched, and INDEX a row with the state of each of these lives.
`columns` maps each class of event, and the history, to columns of these tables. A value
that a column cannot hold exactly is stored as JSON in the column `exact`, so reading gives
back the same events and histories. This package only converts rows; its
callers decide which files hold them and when they are written.
"""

from manifests.checkpoint.columns import dumped, loaded
from manifests.checkpoint.rows import EVENTS, JOBS

__all__ = [
    "EVENTS",
    "JOBS",
    "dumped",
    "loaded",
]
