"""The keys of every object below a root. No other module builds or parses a key."""

import re
from typing import Final

ROOT: Final = "root.json"
"""The root's identity and format; written first, and never changed."""
PAUSED: Final = "paused.json"
"""Exists while nothing may be bought below the root."""
LEARNED: Final = "learned.json"
"""The rate limits that earlier runs found, by account."""

LEDGER: Final = "ledger"
CLAIMS: Final = "ledger/epochs"
CHECKPOINTS: Final = "ledger/checkpoints"
HOLDER: Final = "ledger/holder.json"
"""The holder's latest heartbeat."""
CREATE_ONLY: Final = "ledger/create-only.json"
"""Created by the run that opens a remote root first, so that a second create is refused."""
CLOCK: Final = "ledger/clock"
"""Objects that a run writes to read the store's clock, and deletes at once."""

REPAIRS: Final = "ledger/repairs"
"""The records of repairs, and the damaged objects that they replaced."""

CLIPS: Final = "clips"
POSTERS: Final = "posters"
TABLES: Final = "tables"
INBOX: Final = "inbox"
"""The versions of manifests that were claimed, and those that are done."""
SHARDS: Final = "shards"
"""The messages between a batch and the runs of its shards."""
REPORTS: Final = "reports"
"""The latest report of each run, which `nightreel status` shows."""
SPILL: Final = "spill"
"""Spill files that machines which run shards have uploaded."""

CLIP: Final = re.compile(r"clips/[0-9a-f]{2}/[0-9a-f]{32}\.(mp4|json)")
TABLE: Final = re.compile(
    r"tables/(?P<table>[a-z]+)/batch=(?P<epoch>\d{6})-[^/]+/[^/]+\.parquet"
)
EPOCH: Final = re.compile(r"(?P<epoch>\d{6})-[^/]+")
"""The name of a folder of streams below `ledger/`."""
SHARD: Final = re.compile(r"shard-(?P<shard>\d+)\.(?P<generation>\d+)")
"""The name of a shard's stream."""
SEGMENT: Final = re.compile(
    r"ledger/[^/]+/(?P<name>main|shard-\d+\.\d+)/"
    r"(?:(?P<number>\d+)|parts/(?P<first>\d+)-(?P<last>\d+))\.jsonl\.zst$"
)
"""A segment of a stream, or a part: many segments as one object."""
MESSAGE: Final = re.compile(r"shards/(?P<epoch>\d+)-[^/]*/")
"""A message of a batch or of one of its shards."""
USAGE: Final = re.compile(
    r"shards/[^/]+/(?P<shard>\d+)\.(?P<generation>\d+)(?P<last>\.last)?\.usage\.json"
)
REPAIR: Final = re.compile(r"ledger/repairs/(?P<number>\d+)\.json")
REPAIR_RELEASED: Final = re.compile(r"ledger/repairs/(?P<number>\d+)\.released\.json")
INBOX_ENTRY: Final = re.compile(
    r"inbox/(?P<state>claimed|done)/(?P<digest>[^/]+)\.json"
)


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
    return f"{LEDGER}/events/epoch={epoch:06d}/part-0.parquet"


def jobs(epoch: int) -> str:
    return f"{LEDGER}/jobs/epoch={epoch:06d}/part-0.parquet"


def index(epoch: int) -> str:
    return f"{LEDGER}/index/{epoch:06d}.parquet"


def checkpoint(epoch: int) -> str:
    """The list of an epoch's Parquet files; written last."""
    return f"{CHECKPOINTS}/{epoch:06d}.json"


def repair(number: int) -> str:
    """The record of a repair: what was lost, and what took its place."""
    return f"{REPAIRS}/{number:06d}.json"


def repair_released(number: int) -> str:
    """The owner's decision to buy again what a repair withholds."""
    return f"{REPAIRS}/{number:06d}.released.json"


def damaged(key: str, digest: str) -> str:
    """A damaged object, as a repair found it."""
    return f"{REPAIRS}/damaged/{digest[:16]}/{key}"


def clock(name: str) -> str:
    return f"{CLOCK}/{name}.json"


def clip(job: str, suffix: str) -> str:
    return f"{CLIPS}/{job[:2]}/{job}.{suffix}"


def unplayable(job: str, sha256: str) -> str:
    """The bytes that a provider sent in place of a clip."""
    return f"{CLIPS}/{job[:2]}/{job}-{sha256[:16]}.bin"


def poster(job: str) -> str:
    return f"{POSTERS}/{job[:2]}/{job}.webp"


def tables(name: str) -> str:
    """The folder of the tables of this name."""
    return f"{TABLES}/{name}"


def table(name: str, batch: str) -> str:
    return f"{TABLES}/{name}/batch={batch}/part-0.parquet"


def inbox_claimed(digest: str) -> str:
    """The run that claimed a version of a manifest: no other run begins it."""
    return f"{INBOX}/claimed/{digest}.json"


def inbox_done(digest: str) -> str:
    """A version of a manifest that was seen to its end."""
    return f"{INBOX}/done/{digest}.json"


def messages(batch: str) -> str:
    """The folder of the messages between a batch and its shards."""
    return f"{SHARDS}/{batch}"


def shard_order(batch: str, shard: int) -> str:
    """All that a shard's run needs besides its rows; put last, deleted first."""
    return f"{SHARDS}/{batch}/{shard:04d}.json"


def shard_rows(batch: str, shard: int) -> str:
    """A shard's rows of the manifest."""
    return f"{SHARDS}/{batch}/{shard:04d}.parquet"


def usage(batch: str, shard: int, generation: int, *, last: bool = False) -> str:
    """The report of a shard's nth run; no late put replaces the last one."""
    word = "last.usage" if last else "usage"
    return f"{SHARDS}/{batch}/{shard:04d}.{generation:02d}.{word}.json"


def grant(batch: str) -> str:
    """The amounts that each run of a batch's shards may use."""
    return f"{SHARDS}/{batch}/grant.json"


def run_report(batch: str) -> str:
    return f"{REPORTS}/{batch}.json"


def spill(name: str) -> str:
    return f"{SPILL}/{name}"
