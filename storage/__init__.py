"""Where it is kept: objects, the ledger, the clips, and the stills that people name."""
