"""Output: the tables that a batch leaves, computed from its plan and its ledger.

`clips` writes one row per manifest row with the outcome of its job, and the table of
complaints. `attempts` writes one row per submit, with its outcome and its cost.
`remaining` writes the rows without a clip as a manifest that can be run by itself.
`retold_clips` and `retold_attempts` change rows of tables that an earlier batch wrote.

Every table is written in slices, so no table is in memory as a whole. Signatures are
removed from the column `image` and from the values of complaints. Rows that share a job
repeat its prices: sum money over jobs, or over the attempts.
"""

from manifests.output.attempts import attempts_in, attempts_table, retold_attempts
from manifests.output.clips import (
    Outcomes,
    retold_clips,
    write_clips,
    write_complaints,
)
from manifests.output.remaining import write_left

__all__ = [
    "Outcomes",
    "attempts_in",
    "attempts_table",
    "retold_attempts",
    "retold_clips",
    "write_clips",
    "write_complaints",
    "write_left",
]
