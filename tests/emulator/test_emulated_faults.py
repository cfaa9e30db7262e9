"""Emulated faults look like those of the live provider and appear on the bill."""

import httpx
import pytest

from tasks.emulator import Emulator, Fault, parse_faults

DIALECTS = ["wavespeed", "atlas", "fal"]
CLIP = b"a clip of thirty bytes, or so."

everywhere = pytest.mark.parametrize("dialect", DIALECTS)


@pytest.fixture
def going_wrong(emulate, clock):
    """An emulator with these faults for the first submits, and a client of it."""

    def emulator(*faults, **options):
        options = {"latency_s": 0, "clip": CLIP, "clock": clock} | options
        emulator = Emulator(faults={"dolly": list(faults)}, **options)
        return emulator, emulate(emulator)

    return emulator


@everywhere
def test_lost_answer_is_charged_as_a_dropped_connection(going_wrong, dialect):
    """A lost answer is charged, and the client sees a dropped connection."""
    emulator, shop = going_wrong(Fault.LOSE_ANSWER)

    with pytest.raises(httpx.RemoteProtocolError, match="without sending a response"):
        shop.submit(dialect)

    (charge,) = emulator.bill
    assert (charge.outcome, charge.fault) == ("succeeded", "lose_answer")
    assert not charge.refunded


@everywhere
def test_an_answer_that_breaks_off_is_charged(going_wrong, dialect):
    emulator, shop = going_wrong(Fault.LOSE_ANSWER_MID)

    with pytest.raises(httpx.RemoteProtocolError, match="complete message"):
        shop.submit(dialect)

    assert len(emulator.bill) == 1


@everywhere
def test_a_gateways_error_page_hides_a_charge(going_wrong, dialect):
    emulator, shop = going_wrong(Fault.ERROR_AFTER)

    answer = shop.submit(dialect)

    assert answer.status_code == 502
    assert answer.headers["content-type"].startswith("text/html")
    assert len(emulator.bill) == 1


@everywhere
def test_a_malformed_acceptance_is_charged(going_wrong, dialect):
    emulator, shop = going_wrong(Fault.MALFORMED_ACCEPT)

    answer = shop.submit(dialect)

    assert answer.is_success
    with pytest.raises(ValueError, match="Expecting value"):
        answer.json()
    assert len(emulator.bill) == 1


@everywhere
def test_throttle_is_not_charged_and_the_next_submit_works(going_wrong, dialect):
    """A throttled submit is not charged, and the next submit goes through."""
    emulator, shop = going_wrong(Fault.THROTTLE)

    answer = shop.submit(dialect)
    shop.buy(dialect)

    assert answer.status_code == 429
    assert "retry-after" not in answer.headers
    assert len(emulator.bill) == 1


@everywhere
def test_a_throttle_may_say_for_how_long(going_wrong, dialect):
    _, shop = going_wrong(Fault.THROTTLE_WITH_RETRY_AFTER)

    assert shop.submit(dialect).headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("dialect", "fault", "refunded"),
    [
        ("wavespeed", Fault.FAIL, True),
        ("wavespeed", Fault.REFUSE_CONTENT, True),
        ("atlas", Fault.FAIL, True),
        ("atlas", Fault.REFUSE_CONTENT, True),
        ("fal", Fault.FAIL, True),
        ("fal", Fault.REFUSE_CONTENT, False),
    ],
)
def test_failed_job_costs_as_much_as_its_provider_documents(
    going_wrong, dialect, fault, refunded
):
    emulator, shop = going_wrong(fault)

    shop.buy(dialect)

    (charge,) = emulator.bill
    assert charge.refunded is refunded
    assert (emulator.total_usd == 0) is refunded


def test_wavespeed_and_atlas_fail_a_job_in_a_good_answer(going_wrong):
    _, shop = going_wrong(Fault.REFUSE_CONTENT, Fault.REFUSE_CONTENT)

    wavespeed = shop.poll("wavespeed", shop.buy("wavespeed"))
    atlas = shop.poll("atlas", shop.buy("atlas"))

    assert wavespeed.status_code == atlas.status_code == 200
    assert wavespeed.json()["data"]["code"] == 1200
    assert wavespeed.json()["data"]["outputs"] == []
    assert atlas.json()["data"]["error_code"] == 1039


@everywhere
def test_a_prediction_may_not_be_there_yet(going_wrong, dialect):
    _, shop = going_wrong(Fault.NOT_FOUND_AT_FIRST)
    prediction = shop.buy(dialect)

    seen = [shop.poll(dialect, prediction).status_code for _ in range(3)]

    assert seen == [404, 404, 200]


def test_status_may_be_an_undocumented_word(going_wrong):
    _, shop = going_wrong(Fault.UNKNOWN_STATUS)
    prediction = shop.buy("atlas")

    words = [shop.poll("atlas", prediction).json()["data"]["status"] for _ in range(2)]

    assert words == ["warming_up", "completed"]


def test_a_stuck_job_never_ends_and_keeps_its_slot(going_wrong, clock):
    emulator, shop = going_wrong(Fault.STUCK, slots=1)
    stuck = shop.buy("wavespeed")
    clock.now += 24 * 3600

    assert shop.poll("wavespeed", stuck).json()["data"]["status"] == "processing"
    behind = shop.buy("wavespeed")
    assert shop.poll("wavespeed", behind).json()["data"]["status"] == "created"
    assert [charge.outcome for charge in emulator.bill] == ["running", "waiting"]


@pytest.mark.parametrize(
    ("fault", "first"),
    [(Fault.TRUNCATED_CLIP, CLIP[:20]), (Fault.EMPTY_CLIP, b"")],
)
def test_the_first_download_may_be_short_and_say_so(going_wrong, fault, first):
    _, shop = going_wrong(fault)
    url = shop.clip_url("wavespeed", shop.buy("wavespeed"))

    downloads = [httpx.get(url) for _ in range(2)]

    assert [each.content for each in downloads] == [first, CLIP]
    assert downloads[0].headers["content-length"] == str(len(first))


def test_the_first_download_may_break_off(going_wrong):
    _, shop = going_wrong(Fault.CUT_CLIP)
    url = shop.clip_url("wavespeed", shop.buy("wavespeed"))

    with pytest.raises(httpx.RemoteProtocolError, match=f"expected {len(CLIP)}"):
        httpx.get(url)
    assert httpx.get(url).content == CLIP


def test_the_first_download_may_be_a_web_page(going_wrong):
    _, shop = going_wrong(Fault.HTML_CLIP)
    url = shop.clip_url("wavespeed", shop.buy("wavespeed"))

    page = httpx.get(url)

    assert page.status_code == 200
    assert page.content.startswith(b"<!doctype html>")
    assert httpx.get(url).content == CLIP


def test_a_script_is_found_by_a_part_of_the_stills_url(emulate):
    emulator = Emulator(faults={"cat.jpg": [Fault.THROTTLE]})
    shop = emulate(emulator)

    answer = shop.submit("wavespeed", image="https://stills.example/a/cat.jpg?sig=1")

    assert answer.status_code == 429


def test_a_script_can_be_extended_while_the_emulator_runs(emulate):
    emulator = Emulator()
    shop = emulate(emulator)
    shop.buy("wavespeed")

    emulator.faults["dolly"] = [Fault.NO_CREDIT]

    assert shop.submit("atlas").status_code == 402


def test_the_same_seed_has_the_same_faults(emulate):
    chances = parse_faults("throttle=0.3,lose_answer_mid=0.2,fail=0.2")

    def luck(seed):
        emulator = Emulator(chances=chances, seed=seed, clip=CLIP)
        shop = emulate(emulator)
        seen = []
        for _ in range(40):
            try:
                seen.append(shop.submit("atlas").status_code)
            except httpx.RemoteProtocolError:
                seen.append(0)
        return seen, [charge.fault for charge in emulator.bill]

    assert luck(7) == luck(7)
    assert luck(7) != luck(8)
    statuses, faults = luck(7)
    assert set(statuses) == {200, 429, 0}
    assert set(faults) == {None, Fault.LOSE_ANSWER_MID, Fault.FAIL}


def test_another_dialects_submits_do_not_change_the_luck(emulate):
    def faults(*, interleaved):
        emulator = Emulator(chances={Fault.FAIL: 0.5}, seed=1, clip=CLIP)
        shop = emulate(emulator)
        for _ in range(12):
            if interleaved:
                shop.buy("fal")
            shop.buy("wavespeed")
        return [each.fault for each in emulator.bill if each.dialect == "wavespeed"]

    assert faults(interleaved=False) == faults(interleaved=True)
