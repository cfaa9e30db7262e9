"""`nightreel status` shows the state of a root and its money to the last digit."""

import asyncio
import io
import json
import re
import time
from contextlib import redirect_stdout
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from flows.commands import status as standing
from manifests.lifecycle import (
    Accepted,
    Adjusted,
    Discarded,
    Doubted,
    Event,
    Generated,
    Intended,
    Published,
    Refused,
    Risked,
    Ticket,
)
from storage.ledger import Ledger, LedgerError
from storage.objects import Objects
from tests.histories import FACTS, intended

pytestmark = pytest.mark.anyio

ROUTES = {
    "spicy": ("wavespeed/wan-2.2-spicy", "0.15"),
    "fal": ("fal/wan-2.2", "0.2025"),
    "kling": ("kling/kling-2.5-turbo", "0.28"),
    "replicate": ("replicate/wan-2.2", "0.06"),
    "unified": ("302ai/unified", "0.5"),
}
A, B, C, D = (letter * 32 for letter in "abcd")
TAKEN = Accepted(Ticket("fal", "remote-1"))
PUBLISHED = Published("u", FACTS)


def bought(lane: str, mark: str = "") -> Intended:
    route, price = ROUTES[lane]
    return intended(price, lane=lane, route=route, seed=1, mark=mark)


async def recorded(bench, *events: tuple[str, Event], at: float | None = None) -> None:
    """Records a batch with these events, all at the time `at`, or now."""
    (bench.folder / "root").mkdir(exist_ok=True)
    objects = Objects.open((bench.folder / "root").as_uri())
    clock = time.time if at is None else lambda: at
    # A later settlement needs the whole history.
    ledger = await Ledger.open(objects, name="portraits", clock=clock, whole=True)
    for job, event in events:
        await ledger.record(job, event)
    await ledger.close()


async def status(bench, config: Path | None = None) -> tuple[dict[str, Any], str]:
    """The output of `status` as JSON and as text, without a process for each."""

    def printed(*, as_json: bool) -> str:
        with redirect_stdout(io.StringIO()) as out:
            standing.status(root, config=config, as_json=as_json)
        return out.getvalue()

    root = str(bench.folder / "root")
    told = await asyncio.to_thread(printed, as_json=True)
    return json.loads(told), await asyncio.to_thread(printed, as_json=False)


async def test_doubt_is_shown_with_age_price_and_fate_of_the_answer(bench):
    """`status` shows a doubt with its age, its price and the fate of the answer."""
    await recorded(
        bench,
        (A, bought("kling", mark="1-1")),
        (A, Doubted("kling: no answer within 30 s", "silent")),
        (B, bought("spicy")),
        (C, bought("fal")),
        (C, Doubted("fal: it broke off", "broken")),
        (C, Risked("its owner lets it go again")),
        (D, bought("fal")),
        (D, Refused("fal: 429")),
    )

    told = bench.nightreel("status", "root", "--json").reply
    shown = bench.nightreel("status", "root", COLUMNS="100")

    asked, never = told["doubts"]
    assert (asked["lost"], asked["price_usd"]) == ("silent", 0.28)
    assert (never["lost"], never["reason"]) == (None, "its answer is not on record")
    assert 0 <= asked["age_s"] < 60
    assert (told["in_doubt"], told["in_doubt_usd"], told["risks"]) == (2, 0.43, 1)
    spent = {lane["lane"]: lane["spent_usd"] for lane in told["lanes"]}
    assert spent == {"fal": 0.2025, "kling": 0.28, "spicy": 0.15}
    assert told["spent_usd"] == 0.6325
    assert re.search(
        rf"^{A} +kling +\d+ (?:s|min) +0\.28 +yes +kling: no", shown.out, re.MULTILINE
    )
    assert re.search(
        rf"^{B} +spicy +\d+ (?:s|min) +0\.15 +no +its", shown.out, re.MULTILINE
    )
    assert max(map(len, shown.out.splitlines())) <= 100


async def test_status_of_a_root_without_trouble_is_short(bench):
    await recorded(bench, (A, bought("fal")), (A, TAKEN))

    shown = bench.nightreel("status", "root")

    assert "1 of them at providers" in shown.out
    assert not re.search("risk|reconcile", shown.out)


async def test_spilled_events_are_counted_until_a_run_records_them(bench):
    """`status` counts spilled events: until the next run, their jobs may be in doubt."""
    await recorded(bench)
    objects = Objects.open((bench.folder / "root").as_uri())
    ledger = await Ledger.open(objects, name="portraits")
    await ledger.record(A, bought("fal"))
    running, _ = await status(bench)
    await ledger.close()
    with pytest.raises(LedgerError):
        await ledger.record(A, TAKEN)

    told, shown = await status(bench)
    await recorded(bench)
    later, shown_later = await status(bench)

    assert [one["spilled"] for one in (running, told, later)] == [0, 1, 0]
    assert (told["in_doubt"], later["in_doubt"], later["at_providers"]) == (1, 0, 1)
    assert "1 event spilled, not on record yet: start the next run" in shown
    assert "spilled" not in shown_later


async def test_clips_at_a_provider_are_shown_with_price_and_expiry(bench, monkeypatch):
    """`status` shows clips at a provider with price and expiry, the earliest first."""
    monkeypatch.setenv("COLUMNS", "120")
    e, f = "e" * 32, "f" * 32
    await recorded(
        bench,
        *((A, bought("replicate")), (A, TAKEN), (A, Generated())),
        *((B, bought("replicate")), (B, TAKEN)),
        *((C, bought("fal")), (C, TAKEN)),
        *((D, bought("unified")), (D, TAKEN)),
        *((e, bought("fal")), (e, TAKEN), (e, Generated()), (e, PUBLISHED)),
        at=time.time() - 2 * 3600,
    )
    await recorded(bench, (f, bought("replicate")), (f, TAKEN), at=time.time() - 1210)

    told, shown = await status(bench)

    clips, lanes = told["expiring"]["clips"], told["expiring"]["lanes"]
    by_lane = {lane["lane"]: (lane["clips"], lane["usd"]) for lane in lanes}
    assert by_lane == {
        "fal": (1, 0.2025),
        "replicate": (3, pytest.approx(0.18)),
        "unified": (1, 0.5),
    }
    assert [clip["job"] for clip in clips] == [A, B, D, f, C]
    assert clips[0]["state"] == "generated"
    assert lanes[1]["expires_at"] == clips[0]["expires_at"]
    week = datetime.fromisoformat(clips[-1]["expires_at"]).timestamp() - time.time()
    assert week == pytest.approx((7 * 24 - 2) * 3600, abs=60)
    assert re.search(
        r"^replicate +3 +0\.1800 .*expired 1 h 0\d min ago", shown, re.MULTILINE
    )
    assert re.search(r"^fal +1 +0\.2025 .* in 6 d 22 h *$", shown, re.MULTILINE)
    assert re.search(rf"^{f} +replicate +0\.0600 .* in 40 min *$", shown, re.MULTILINE)
    assert e not in shown


async def test_who_knows_how_long_a_provider_keeps_clips_is_believed(bench):
    await recorded(bench, (A, bought("unified")), (A, TAKEN))
    bench.config(
        "spicy",
        "fal",
        more='[routes."302ai/unified"]\nkeeps_s = 86400',
        name="mine.toml",
    )
    text = (bench.folder / "mine.toml").read_text()
    (bench.folder / "mine.toml").write_text(
        f'{text}\n[lanes.unified]\nroute = "302ai/unified"\nkey = "env:LANE_KEY"'
    )

    _, shown = await status(bench)
    _, own_lanes = await status(bench, bench.folder / "mine.toml")

    assert re.search("in (59|60) min|in 1 h 00 min", shown)
    assert re.search("in 1 d 0 h|in 23 h 59 min", own_lanes)


async def test_late_settlement_is_counted_in_the_lane_that_bought(bench):
    """A settlement that comes late is counted in the lane that bought the clip."""
    refund = Adjusted(attempt=1, usd=Decimal("-0.28"), reason="refunded")
    await recorded(
        bench,
        *((A, bought("kling")), (A, TAKEN), (A, Discarded("black"))),
        *((A, bought("fal")), (A, TAKEN), (A, Generated()), (A, PUBLISHED)),
    )
    await recorded(bench, (A, refund))

    told, _ = await status(bench)

    spent = {lane["lane"]: lane["spent_usd"] for lane in told["lanes"]}
    assert spent == {"fal": 0.2025, "kling": 0}
    assert told["spent_usd"] == 0.2025
