"""Answers of commands as people and programs read them.

Each view has two forms: rich text for the terminal (`rendered`, `*_table`) and plain values for
`--json` (`plain`). `plan`, `doubts`, `expiring`, `progress` and `troubles` are views; `times`
and `terminal_table` format times, counts, money and tables. Views compute nothing
that decides about money, and send no requests.
"""

from flows.views.doubts import doubts_table, more_doubts
from flows.views.plan import Answer
from flows.views.progress import halt_reason, left_s, log_progress, show_progress
from flows.views.terminal_table import aligned, counted
from flows.views.times import clock, finish_by, local_zone, moment, span, utc
from flows.views.troubles import lasting, shortened, told, unmade

__all__ = [
    "Answer",
    "aligned",
    "clock",
    "counted",
    "doubts_table",
    "finish_by",
    "halt_reason",
    "lasting",
    "left_s",
    "local_zone",
    "log_progress",
    "moment",
    "more_doubts",
    "shortened",
    "show_progress",
    "span",
    "told",
    "unmade",
    "utc",
]
