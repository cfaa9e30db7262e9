"""Storage: object stores, the ledger, clips and stills, and the inbox.

Each package has one door, and other packages import its names from there:

    storage.objects   `Objects`: bytes under keys below a root, and the errors of stores
    storage.ledger    `Ledger`: a durable write-ahead log of every event
    storage.media     `Clips`, `Posters`, and the checks of clips and stills
    storage.inbox     `Inbox`: manifests that people drop, and the runs that took them

The modules beside them: `layout` has every key below a root, `checksum` the JSON files with
a checksum, `sources` opens what a user names (a manifest, a still), `pause_flag` says
whether the root is paused, `backoff` how long to wait after a failure.

This module imports none of them: a GPU worker checks stills and needs no ledger.
"""
