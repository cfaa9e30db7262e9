"""One batch: from a manifest and the owner's request to clips, tables and a summary.

`request` holds the request, copies the manifest and checks it before any money moves.
`lifespan` opens the ledger, loads what earlier runs learned, builds the engine, and writes
the tables at the end. The running batch is a `BatchRun` (`batch`). It plans its jobs, puts those
that are already paid for first, cuts the plan into shards, and runs each shard on the one
engine, or in other processes (`tasks.distributed`). At the end it settles doubts in up to
three rounds. While it runs, it fetches the clips that other batches left at providers.

Nightreel reads the manifest in slices: once to plan, and once for each shard when its turn
comes. `row_states` finds the states of all rows by their keys. `summary` has the result and
the exit code, and `tables` writes the tables of rows, attempts, complaints and remaining
rows. `watches` reads the pause flag of the root and logs troubles every five seconds.
`contact_sheet` makes posters of some clips; nothing waits for them.
"""
