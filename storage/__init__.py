"""Storage: object stores, the ledger, clips and stills, and the inbox."""
