"""The keys of every object below a root. No other module builds or parses a key."""

import re
from typing import Final

LEDGER: Final = "ledger"
CLAIMS: Final = "ledger/epochs"
CHECKPOINTS: Final = "ledger/checkpoints"
HOLDER: Final = "ledger/holder.json"
"""The holder's latest heartbeat."""
ONCE: Final = "ledger/once.json"
"""Created by the run that opens a remote root first, so that a second create is refused."""
BALLAST: Final = "ledger/ballast"
"""Space on a local disk that is released when the disk is full."""
KNOCKS: Final = "ledger/knocks"
"""Objects that a run writes to read the store's clock, and deletes at once."""

CLIPS: Final = "clips"
TABLES: Final = "tables"
ADRIFT: Final = "adrift"
"""Spill files that machines which run shards have uploaded."""
LEARNED: Final = "learned.json"
"""The rate limits that earlier runs found, by account."""

CLIP: Final = re.compile(r"clips/[0-9a-f]{2}/[0-9a-f]{32}\.(mp4|json)")
TABLE: Final = re.compile(r"tables/[a-z]+/batch=\d{6}-[^/]+/[^/]+\.parquet")
EPOCH: Final = re.compile(r"(?P<epoch>\d{6})-[^/]+")
"""The name of a folder of streams below `ledger/`."""
SHARD: Final = re.compile(r"shard-(?P<shard>\d+)\.(?P<generation>\d+)")
"""The name of a shard's stream."""
SEGMENT: Final = re.compile(
    r"ledger/[^/]+/(?P<name>main|shard-\d+\.\d+)/"
    r"(?:(?P<number>\d+)|parts/(?P<first>\d+)-(?P<last>\d+))\.jsonl\.zst$"
)
"""A segment of a stream, or a part: many segments as one object."""


def claim(epoch: int) -> str:
    return f"{CLAIMS}/{epoch:06d}.json"


def streams(batch: str) -> str:
    """The folder of a batch's streams."""
    return f"{LEDGER}/{batch}"


def stream(batch: str, name: str) -> str:
    return f"{LEDGER}/{batch}/{name}"


def shard(number: int, generation: int) -> str:
    """The name of the stream of a shard's nth writer."""
    return f"shard-{number:04d}.{generation:02d}"


def segment(stream: str, number: int) -> str:
    return f"{stream}/{number:010d}.jsonl.zst"


def part(stream: str, first: int, last: int) -> str:
    # With the first number, so that a part cannot stand in for a lost one before it.
    return f"{stream}/parts/{first:010d}-{last:010d}.jsonl.zst"


def events(epoch: int) -> str:
    return f"ledger/events/epoch={epoch:06d}/part-0.parquet"


def jobs(epoch: int) -> str:
    return f"ledger/jobs/epoch={epoch:06d}/part-0.parquet"


def index(epoch: int) -> str:
    return f"ledger/index/{epoch:06d}.parquet"


def checkpoint(epoch: int) -> str:
    """The list of an epoch's Parquet files; written last."""
    return f"{CHECKPOINTS}/{epoch:06d}.json"


def knock(name: str) -> str:
    return f"{KNOCKS}/{name}.json"


def adrift(name: str) -> str:
    return f"{ADRIFT}/{name}"


def clip(job: str, suffix: str) -> str:
    return f"{CLIPS}/{job[:2]}/{job}.{suffix}"


def table(name: str, batch: str) -> str:
    return f"{TABLES}/{name}/batch={batch}/part-0.parquet"
