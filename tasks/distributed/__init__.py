"""Shards of a batch that run in other processes, on this machine or on others.

The processes share nothing but the root's store. The batch writes an order for each shard
(`mailbox`, `messages`), starts a run, and starts another if it dies (`coordinator`,
`supervisor`). A run (`shard_run`) uses the same engine, on a separate stream of the ledger. A
newer run of a shard fences the older ones out of that stream, so it is safe to start a shard
again at any time.

Every few seconds a run reports how much of each quota it uses, how much it could use, and
which grants it obeys (`heartbeat`, `usage_meter`). The batch reads and counts the reports
(`reports`, `shard_status`), learns the limits of the accounts from them (`shared_limits`), and
answers all of them with one object, the grants. `quota` decides, without I/O. It reserves for a
run the most that the run may be using, and grants only what is unreserved. So no message can
come too late, and a limit holds even if runs die. A run that reads no new grants for 30 seconds
buys nothing more, and after 300 seconds it stops. Dollars and daily submits are granted as they
are spent, and what is left returns when a run ends.
"""

from tasks.distributed.coordinator import elsewhere
from tasks.distributed.messages import ShardReport
from tasks.distributed.shard_run import run_shard
from tasks.distributed.supervisor import TRIES, Start

__all__ = [
    "TRIES",
    "ShardReport",
    "Start",
    "elsewhere",
    "run_shard",
]
