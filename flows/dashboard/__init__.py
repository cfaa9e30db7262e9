"""A batch in the Prefect UI: artifacts, events and log lines.

`live` drives it: it shows the plan before money is spent, updates the night's page while the
batch runs, and adds the bill at the end. `night`, `plan`, `pages`, `summary` and
`contact_sheet` build the text; `markdown` escapes other people's words in it. `artifacts` sends it. `events` emits
events for automations. `log_relay` passes warnings on to the run's log, few of each kind.

The dashboard never fails a batch, and a batch that is buying never waits for it. Each call
has a time limit; after a failed call, the server is left alone for a while.
"""

from flows.dashboard.artifacts import Artifacts, open_artifacts
from flows.dashboard.live import Board, watched
from flows.dashboard.summary import (
    complaints_table,
    doubts_rows,
    late_warning,
    refused_table,
    rejected_remark,
    unusual,
)

__all__ = [
    "Artifacts",
    "Board",
    "complaints_table",
    "doubts_rows",
    "late_warning",
    "open_artifacts",
    "refused_table",
    "rejected_remark",
    "unusual",
    "watched",
]
