"""Shards of a batch that run in other processes, on this machine or on others.

The processes share nothing but the root's store. The batch writes what a shard's run needs
(`mailbox`), starts the run, and starts another if one dies (`coordinator`). A run (`shard_run`)
uses the same engine, on a separate stream of the ledger. A newer run of a shard fences the
older ones out of that stream, so it is safe to start a shard again at any time.

Every few seconds a run reports which part of each quota it holds, what it could use, and
which grant it obeys (`heartbeat`). The batch collects the reports (`reports`), and answers
all of them with one object, the grant. `quota` decides, without I/O. It reserves for a run the
most that the run may be using, and grants only what is unreserved. So no message can come
too late, and a limit holds even if runs die. A run that hears no new grant for 30 seconds buys
nothing more, and after 300 seconds it stops. Dollars and daily submits are granted as they are
spent, and what is left returns when a run ends.
"""
