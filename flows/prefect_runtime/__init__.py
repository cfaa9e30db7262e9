"""Prefect as the scheduler: how batches and shards start, wait and stop.

`runners` runs a batch's shards where `[engine] runner` says: in this process, on a Prefect
work pool (`work_pool`), or on Ray or Dask. `shard` runs one shard. `inbox_runs` starts one run for each
version of a manifest in an inbox, by idempotency keys. `wait_for_root` lets a scheduled
run wait while another run holds its root. `deployed` tells whether a run is a
deployment's, which begins no new root unasked. `signals` winds a run down at the first signal
and stops it at the second.

Prefect may kill a run or start it twice at any time. Correctness does not depend on it: the
ledger fences the older run, and no clip is paid for twice.
"""

from flows.prefect_runtime.deployed import is_deployed, located, may_begin_root
from flows.prefect_runtime.inbox_runs import DEPLOYMENT, Retries, Watch, start_runs
from flows.prefect_runtime.runners import shared
from flows.prefect_runtime.shard import described, run_configured_shard
from flows.prefect_runtime.signals import gently
from flows.prefect_runtime.wait_for_root import RootWait

__all__ = [
    "DEPLOYMENT",
    "Retries",
    "RootWait",
    "Watch",
    "described",
    "gently",
    "is_deployed",
    "located",
    "may_begin_root",
    "run_configured_shard",
    "shared",
    "start_runs",
]
