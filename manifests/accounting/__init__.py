"""Money: the attempts of a ledger and the sums over them.

Each event of a job begins, changes or ends one attempt. `attempts` folds events into
attempts; `manifests.lifecycle.added_usd` alone decides what an event adds to a cost.
`adjustments` collects the corrections that providers report after an attempt has ended.
`totals` sums attempts by lane, and counts jobs by state. All other counts of money, in
the tables, in `status`, in a run and in `reconcile`, are sums over the same attempts.
"""

from manifests.accounting.adjustments import Adjustment, Adjustments
from manifests.accounting.attempts import Attempt, Attempts, Outcome
from manifests.accounting.totals import LaneTotals, LedgerTotals

__all__ = [
    "Adjustment",
    "Adjustments",
    "Attempt",
    "Attempts",
    "LaneTotals",
    "LedgerTotals",
    "Outcome",
]
