"""Manifests: the pure rules for jobs, their lives and their tables.

A manifest is a Parquet file with one row per clip that a user wants. `input` checks its
rows and makes a plan: each different clip becomes one job, and each bad row gets a
complaint. `jobs` gives a job its id, a digest of exactly the values that decide the clip.
`lifecycle` has every state of a job and every event that changes it; the fold of a
ledger's entries gives the history of each job. `accounting` sums money over the same
entries. `checkpoint` stores events and histories as Parquet rows without loss. `output`
writes the tables that a batch leaves, and the manifest of the rows that are left.
`catalogue` has the models and routes: their prices, limits and options.

This package reads and writes Parquet files on this machine, and reads the catalogue. It
does no other I/O: it sends no request, waits for nothing and reads no clock. The packages
`tasks`, `storage` and `flows` do that, and call these rules. Memory stays bounded for
manifests of ten million rows: files are read in slices, and a plan takes 21 bytes a row.
"""
