"""Every record is read back as it was written, or its place is named."""

from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import get_args

import orjson
import pytest
import zstandard

from manifests.lifecycle import (
    Accepted,
    Adjusted,
    Discarded,
    Doubted,
    Entry,
    Event,
    Forgotten,
    Generated,
    Parked,
    Published,
    Refused,
    Rejected,
    Risked,
    Unplayable,
)
from storage.ledger import LedgerError
from storage.ledger.codec import Open, Seal, dump, pack, unpack
from storage.objects import DamagedError
from tests.histories import FACTS
from tests.storage.lives import INTENDED, TICKET, job

EVENTS = [
    INTENDED,
    replace(INTENDED, mark="nr-abcd-1"),
    Accepted(TICKET),
    Doubted("ReadTimeout"),
    Doubted("502 Bad Gateway", "gateway"),
    Risked("up to $0.50 may be risked on spicy"),
    Refused("503: süß \n busy"),
    Discarded("two bad downloads"),
    Rejected("content policy", charged=True),
    Generated(),
    Generated(seed=2**31, stages='{"denoise":7.5}'),
    Forgotten("HTTP 404, 3 times"),
    Parked("our own check of the clip failed: TypeError: no (storage/media/mp4.py)"),
    Published("s3://bucket/clips/ab/abcd.mp4", FACTS),
    Adjusted(attempt=2, usd=Decimal("-0.10"), reason="refunded"),
    Unplayable("no clip: it begins with b'<html'; its 9 bytes are kept"),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_every_event_is_read_back_as_it_was_written(event: Event):
    entry = Entry("ab" * 16, 1_800_000_000.25, event)

    assert unpack(pack([entry]), "key") == [entry]


def test_no_kind_of_event_is_left_out_above():
    assert {type(event) for event in EVENTS} == set(get_args(Event))


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ({"kind": "promoted"}, "promoted"),
        ({"kind": "refused"}, "reason"),
        ({"kind": "refused", "reason": "busy", "paid": True}, "paid"),
        ({"kind": "refused", "reason": None}, "got `null`"),
        ({"kind": "intended", "lane": "a", "route": "b", "price_usd": "ten"}, "ten"),
        ({"kind": "accepted", "ticket": {"provider": "fal"}}, "id"),
        ({"kind": "doubted", "reason": "?", "lost": "eaten"}, "eaten"),
        ({"kind": "settled", "attempt": 1, "usd": 0.1, "reason": "?"}, "got `float`"),
    ],
)
def test_invalid_record_is_named_with_its_line(line, complaint):
    """An invalid record is reported with its segment and line."""
    good = pack([Entry(job("a"), 1.0, INTENDED)])
    lines = zstandard.decompress(good) + orjson.dumps({"job": "a", "at": 2.0} | line)

    with pytest.raises(LedgerError, match=rf"seg\.zst line 2: .*{complaint}"):
        unpack(zstandard.compress(lines), "seg.zst")


def test_segments_put_one_after_the_other_read_as_one():
    entries = [Entry(job(n), float(n), INTENDED) for n in range(30)]
    parts = [pack([Open("ab", 1.0)]), pack(entries[:7]), pack(entries[7:])]

    told = unpack(b"".join([*parts, pack([Seal(1, 2.0)])]), "part")

    assert told == [Open("ab", 1.0), *entries, Seal(1, 2.0)]


@pytest.mark.parametrize("lost", [1, 3, 40])
def test_a_part_that_was_cut_short_is_noticed(lost: int):
    part = b"".join(pack([Entry(job(n), 1.0, INTENDED)]) for n in range(3))

    with pytest.raises(DamagedError, match="part: damaged: breaks off"):
        unpack(part[:-lost], "part")


def test_part_cut_between_segments():
    """Each remaining segment is good, but one is missing."""
    one = pack([Entry(job(0), 1.0, INTENDED)])

    with pytest.raises(DamagedError, match="part: damaged: it has 2 segments, not 3"):
        unpack(one * 2, "part", frames=3)
    with pytest.raises(DamagedError, match="seg: damaged: it has 0 segments"):
        unpack(b"", "seg")


def test_flipped_byte_in_segment():
    """A change of any byte is detected: nothing else is ever read in its place."""
    entries = [Entry(job(n), 1.0, INTENDED) for n in range(9)]
    segment = pack(entries)
    for at in range(len(segment)):
        for mask in (0x01, 0x80, 0xFF):
            broken = bytearray(segment)
            broken[at] ^= mask
            with suppress(DamagedError):
                # The decoder ignores some bits.
                assert unpack(bytes(broken), "seg", frames=1) == entries


GOLDEN = Path(__file__).parent / "golden" / "segment.jsonl"
"""The lines of a segment as the first codec wrote them, one of each kind of record."""


def test_golden_segment_is_still_read():
    """Segments of earlier versions are read with their original meaning."""
    segment = zstandard.compress(GOLDEN.read_bytes())

    first, *middle, last = unpack(segment, "golden")

    assert first == Open("ab12", 1_800_000_000.0)
    assert last == Seal(3, 1_800_000_100.5)
    assert middle == [
        Entry(f"{n:032x}", 1_800_000_000.25 + n, event)
        for n, event in enumerate(EVENTS)
    ]


def test_golden_segment_is_still_written():
    """A version writes, byte for byte, what the version before it can read."""
    records = unpack(zstandard.compress(GOLDEN.read_bytes()), "golden")

    assert b"".join(map(dump, records)) == GOLDEN.read_bytes()
