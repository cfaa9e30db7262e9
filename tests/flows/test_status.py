"""`nightreel status`: how a root stands, to the last place of its money."""

import re
from decimal import Decimal

import pytest

from manifests.lifecycle import (
    Accepted,
    Doubted,
    Event,
    Intended,
    Refused,
    Risked,
    Ticket,
    hedge_of,
)
from storage.ledger import Ledger
from storage.objects import Objects

pytestmark = pytest.mark.anyio

ROUTES = {
    "spicy": ("wavespeed/wan-2.2-spicy", "0.15"),
    "fal": ("fal/wan-2.2", "0.2025"),
    "kling": ("kling/kling-1.6", "0.28"),
}
TAKEN = Accepted(Ticket("fal", "remote-1"))


def bought(lane: str, mark: str = "") -> Intended:
    route, price = ROUTES[lane]
    return Intended(lane=lane, route=route, price_usd=Decimal(price), seed=1, mark=mark)


async def recorded(bench, *events: tuple[str, Event]) -> None:
    (bench.folder / "root").mkdir()
    objects = Objects.open((bench.folder / "root").as_uri())
    ledger = await Ledger.open(objects, name="portraits")
    for job, event in events:
        await ledger.record(job, event)
    await ledger.close()


async def test_a_hedge_is_no_job_and_its_money_counts(bench):
    await recorded(
        bench,
        ("a", bought("fal")),
        ("a", TAKEN),
        (hedge_of("a"), bought("spicy")),
        (hedge_of("a"), Doubted("wavespeed: no answer", "silent")),
    )

    told = bench.nightreel("status", "root", "--json").said
    shown = bench.nightreel("status", "root")

    [doubt] = told["doubts"]
    assert (told["jobs"], told["pending"], told["in_doubt"]) == (1, 1, 0)
    assert (told["hedges"], told["in_doubt_usd"]) == (1, 0.15)
    assert told["spent_usd"] == pytest.approx(0.3525)
    assert doubt["job"] == hedge_of("a")
    assert "0.15 USD of it on 1 hedge" in shown.out
    assert re.search(r"^in doubt +0 +0.15 USD", shown.out, re.MULTILINE)
    assert re.search(r"^all +1 +0 +0\.3525$", shown.out, re.MULTILINE)


async def test_a_doubt_is_told_with_its_age_its_price_and_what_became_of_the_answer(
    bench,
):
    await recorded(
        bench,
        ("a", bought("kling", mark="a-1")),
        ("a", Doubted("kling: no answer within 30 s", "silent")),
        ("b", bought("spicy")),
        ("c", bought("fal")),
        ("c", Doubted("fal: it broke off", "broken")),
        ("c", Risked("its owner lets it go again")),
        ("d", bought("fal")),
        ("d", Refused("fal: 429")),
    )

    told = bench.nightreel("status", "root", "--json").said
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
        r"^a +kling +\d+ s +0\.28 +yes +kling: no", shown.out, re.MULTILINE
    )
    assert re.search(r"^b +spicy +\d+ s +0\.15 +no +its", shown.out, re.MULTILINE)
    assert max(map(len, shown.out.splitlines())) <= 100


async def test_a_root_on_which_nothing_is_wrong_says_no_more_than_that(bench):
    await recorded(bench, ("a", bought("fal")), ("a", TAKEN))

    shown = bench.nightreel("status", "root")

    assert "1 of them at providers" in shown.out
    assert not re.search("hedge|risk|reconcile", shown.out)
