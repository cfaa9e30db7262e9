"""The ledger: a write-ahead log in the object store, below a root.

Overview
    Every event of a job is an entry. `Ledger.record` returns once its entry is durable, so
    a run acts only on events that are on record. `Ledger.open` claims the root for a batch,
    and `Ledger.join` claims one shard of a running batch. Nothing is rewritten; the design
    needs only puts that are complete or absent, and creates that refuse a key that exists
    (`conditional_put` tests that).

Layout of an epoch
    claim       `ledger/epochs/000003.json`: the holder, created once (`owner`, `lease`)
    stream      one writer's segments, without a gap: `main`, or `shard-0007.01` for
                the first writer of shard 7 (`segments`, `shard_stream`)
    segment     lines of JSON in one zstd frame with a checksum (`codec`)
    part        up to 256 segments or about 50,000 entries again as one object (`writer`)
    checkpoint  the epoch as three Parquet files (events, jobs, index) and a list with
                the SHA-256 of each, written last (`checkpoint`)

Durability and group commit
    An entry is durable once the segment that holds it was created. While one segment is
    being written, entries queue for the next, at most 2,000 in one. A remote stream writes
    at most five segments a second for each open shard and at most 20 in all, a local one at
    most 40 a second on average (`writer`). Parts are written in the background.

Fencing and lease
    A run creates the next claim, then seals every stream of each older epoch that is not
    compacted, and only then reads. A seal is a segment at a stream's next number: a writer
    that still lives finds the number taken and stops (`fencing`). This holds whatever the
    clocks say. A shard's generations follow the same rule. The lease only prevents
    accidents: the holder writes a heartbeat every 10 seconds. A second run is refused until
    the heartbeat is 60 seconds old by the store's clock and stays silent while it watches.

Replay and state index
    Opening a root reads the index of each compacted epoch, and replays the parts and
    segments of the others (`replay`, `segment_reader`). The state index keeps full histories
    of jobs that are not over, and 17 bytes for each other job (`state_index`).
    `history_lookup` and `earlier_history` read full histories when needed.
    Before anything is read, `missing` refuses a root on which claims are missing.

Compaction
    When a batch closes its ledger it seals its epoch and writes the checkpoint. If the run
    died, the next run compacts the epoch when it closes (`compaction`, `checkpoint_files`).

Spill
    Entries that could not be written go to a file on this machine, with the state of their
    jobs (`spill`, `spilled_entry`). Its room is allocated, and the file locked, when the
    ledger is opened (`reserved_file`). The next run on this machine records the entries that
    still fit, and keeps the others aside; a machine that runs only shards uploads its file
    to the root (`spill_recovery`).

Repair
    `damage` finds every object that is missing or damaged, and `holes` reads the entries
    around them. `repair` puts a segment with a record of the loss, and the events that
    later ones prove (`bridge`), in the place of each lost one. A repair's record names the
    gaps, and rows that may have been bought in one are withheld until the owner releases it
    (`gaps`).

Failure handling
    The store is unavailable: writes are repeated for ten minutes, then the stream ends. The
    store refuses: 30 seconds, and buying stops at once. A local disk is full: the stream
    ends, and its entries are spilled at once (`keeper`). A checkpoint or part is
    damaged: its segments are read instead, if all of them exist. A claim or segment is
    damaged, or missing before one that exists: the root is refused.
"""

from storage.ledger.bridge import LOST_TICKET, doubted_again
from storage.ledger.codec import LedgerError
from storage.ledger.damage import Damage, Survey, survey_root
from storage.ledger.gaps import Gap, release_gaps, withholding
from storage.ledger.history_lookup import Told
from storage.ledger.known_roots import KnownRoots
from storage.ledger.lease import HeldError
from storage.ledger.ledger import Ledger
from storage.ledger.owner import SILENT_S, Holder, claimant
from storage.ledger.read_all import batch_of, entries, entries_of, read
from storage.ledger.repair import gaps_of, refuse_if_alive, repair_root
from storage.ledger.replay import histories, recall
from storage.ledger.root import (
    Root,
    RootError,
    begin_root,
    existing_root,
    join_root,
    make_root_folder,
    open_root,
)
from storage.ledger.segments import FencedError, ReplacedRootError
from storage.ledger.spill_recovery import spilled
from storage.ledger.state_index import RecordedSubmit, StateIndex

__all__ = [
    "LOST_TICKET",
    "SILENT_S",
    "Damage",
    "FencedError",
    "Gap",
    "HeldError",
    "Holder",
    "KnownRoots",
    "Ledger",
    "LedgerError",
    "RecordedSubmit",
    "ReplacedRootError",
    "Root",
    "RootError",
    "StateIndex",
    "Survey",
    "Told",
    "batch_of",
    "begin_root",
    "claimant",
    "doubted_again",
    "entries",
    "entries_of",
    "existing_root",
    "gaps_of",
    "histories",
    "join_root",
    "make_root_folder",
    "open_root",
    "read",
    "recall",
    "refuse_if_alive",
    "release_gaps",
    "repair_root",
    "spilled",
    "survey_root",
    "withholding",
]
