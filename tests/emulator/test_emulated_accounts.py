"""Quotas hold and are recorded, and every submit is on the bill."""

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import httpx
import pytest

from tasks.emulator import Emulator


def account(emulator, dialect):
    (one,) = [
        each for each in emulator.stats()["accounts"] if each["dialect"] == dialect
    ]
    return one


@pytest.mark.parametrize("dialect", ["wavespeed", "fal"])
def test_job_above_the_slots_waits_in_line(emulate, clock, dialect):
    emulator = Emulator(latency_s=10, slots=2, clip=b"a clip", clock=clock)
    shop = emulate(emulator)
    for _ in range(5):
        shop.buy(dialect)

    seen = []
    for _ in range(4):
        seen.append([charge.outcome for charge in emulator.bill])
        clock.now += 10

    assert seen == [
        ["running"] * 2 + ["waiting"] * 3,
        ["succeeded"] * 2 + ["running"] * 2 + ["waiting"],
        ["succeeded"] * 4 + ["running"],
        ["succeeded"] * 5,
    ]
    assert account(emulator, dialect)["running"] == 2
    assert account(emulator, dialect)["waiting"] == 3


def test_a_job_that_waited_runs_its_whole_time(emulate, clock):
    emulator = Emulator(latency_s=10, slots=1, clip=b"a clip", clock=clock)
    shop = emulate(emulator)
    shop.buy("wavespeed")
    second = shop.buy("wavespeed")

    clock.now += 25

    told = shop.poll("wavespeed", second).json()["data"]
    assert told["status"] == "completed"
    assert told["executionTime"] == 10_000


def test_atlas_refuses_a_job_above_the_slots(emulate, clock):
    emulator = Emulator(latency_s=10, slots=2, clock=clock)
    shop = emulate(emulator)

    answers = [shop.submit("atlas").status_code for _ in range(3)]
    clock.now += 10
    later = shop.submit("atlas").status_code

    assert answers == [200, 200, 429]
    assert later == 200
    assert len(emulator.bill) == 3
    assert account(emulator, "atlas")["throttled"] == 1


@pytest.mark.parametrize("dialect", ["wavespeed", "atlas"])
def test_the_minute_slides(emulate, clock, dialect):
    emulator = Emulator(latency_s=0, submits_per_minute=2, clip=b"c", clock=clock)
    shop = emulate(emulator)

    answers = []
    for _ in range(5):
        answers.append(shop.submit(dialect).status_code)
        clock.now += 20

    assert answers == [200, 200, 429, 200, 200]
    assert account(emulator, dialect)["per_minute"] == 2
    assert account(emulator, dialect)["throttled"] == 1


def test_fal_has_no_minute(emulate, clock):
    emulator = Emulator(submits_per_minute=1, clock=clock)
    shop = emulate(emulator)

    assert [shop.submit("fal").status_code for _ in range(3)] == [200] * 3


def test_the_minute_may_say_when_to_come_again(emulate, clock):
    emulator = Emulator(submits_per_minute=1, retry_after=True, clock=clock)
    shop = emulate(emulator)
    shop.buy("wavespeed")
    clock.now += 13.5

    assert shop.submit("wavespeed").headers["retry-after"] == "47"


def test_each_key_has_a_separate_quota(emulate, clock):
    emulator = Emulator(submits_per_minute=1, clock=clock)
    shop = emulate(emulator)

    answers = [shop.submit("wavespeed", key=key) for key in ("a", "b", "a")]

    assert [each.status_code for each in answers] == [200, 200, 429]
    assert len({charge.key for charge in emulator.bill}) == 2


def test_quotas_can_be_set_by_dialect(emulate, clock):
    emulator = Emulator(latency_s=10, slots={"atlas": 1}, clock=clock)
    shop = emulate(emulator)

    for _ in range(2):
        shop.submit("atlas")
        shop.submit("wavespeed")

    assert account(emulator, "atlas")["running"] == 1
    assert account(emulator, "wavespeed")["running"] == 2


def test_no_crowd_gets_more_than_the_quota(emulate):
    emulator = Emulator(latency_s=60, slots=5, submits_per_minute=8)
    shop = emulate(emulator)

    with ThreadPoolExecutor(12) as crowd:
        answers = list(crowd.map(lambda _: shop.submit("wavespeed"), range(24)))

    assert sum(each.status_code == 200 for each in answers) == 8
    witness = account(emulator, "wavespeed")
    assert (witness["running"], witness["per_minute"]) == (5, 8)
    assert witness["throttled"] == 16


def test_latency_varies_by_its_jitter_and_the_same_each_time(emulate, clock):
    def latencies():
        emulator = Emulator(latency_s=10, jitter=0.2, clip=b"c", clock=clock)
        shop = emulate(emulator)
        bought = [shop.buy("wavespeed") for _ in range(10)]
        clock.now += 100
        told = [shop.poll("wavespeed", each).json()["data"] for each in bought]
        return [each["executionTime"] for each in told]

    first = latencies()

    assert first == latencies()
    assert len(set(first)) == 10
    assert all(8_000 <= each <= 12_000 for each in first)


def test_bill_names_each_purchase_its_buyer_and_its_price(emulate):
    emulator = Emulator(latency_s=0, clip=b"a clip")
    shop = emulate(emulator)
    shop.buy(
        "wavespeed", image="https://stills.example/1.jpg?X-Amz-Signature=s", seed=7
    )
    shop.buy("wavespeed", resolution="720p", duration=8)
    shop.buy("atlas")
    shop.buy("fal", num_frames=129)

    bill = httpx.get(f"{shop.base}/bill").json()

    first = bill["charges"][0]
    assert (first["image"], first["seed"]) == ("https://stills.example/1.jpg", 7)
    assert first["prompt"] == "slow dolly in"
    assert [each["price_usd"] for each in bill["charges"]] == [
        "0.15",
        "0.48",
        "0.17",
        "0.3225",
    ]
    assert bill["charges"][3]["duration_s"] == 8
    assert bill["total_usd"] == "1.1225"
    assert emulator.total_usd == Decimal("1.1225")
    assert "a-key" not in str(bill)


def test_seed_left_to_the_provider_is_drawn_and_reported(emulate):
    emulator = Emulator(latency_s=0, clip=b"a clip")
    shop = emulate(emulator)

    told = [shop.poll("fal", shop.buy("fal", seed=-1)).json()["seed"] for _ in range(2)]

    assert [charge.seed for charge in emulator.bill] == told
    assert told[0] != told[1]
    assert all(seed >= 0 for seed in told)


def test_requests_are_counted_by_kind(emulate):
    emulator = Emulator(latency_s=0, clip=b"a clip")
    shop = emulate(emulator)
    url = shop.clip_url("atlas", shop.buy("atlas"))
    httpx.get(url)

    assert httpx.get(f"{shop.base}/stats").json()["requests"]["atlas"] == {
        "submit": 1,
        "poll": 1,
        "download": 1,
    }


def test_a_key_shown_to_a_download_host_is_noticed(emulate):
    emulator = Emulator(latency_s=0, clip=b"a clip")
    shop = emulate(emulator)
    url = shop.clip_url("atlas", shop.buy("atlas"))

    httpx.get(url)
    assert emulator.stats()["keys_shown"] == 0
    httpx.get(url, headers=shop.headers("atlas"))
    assert emulator.stats()["keys_shown"] == 1


@pytest.mark.parametrize(
    ("dialect", "headers"),
    [
        ("wavespeed", {}),
        ("atlas", {"X-AtlasCloud-Object-Expiration-Hours": "1"}),
        (
            "fal",
            {
                "X-Fal-Object-Lifecycle-Preference": '{"expiration_duration_seconds":3600}'
            },
        ),
    ],
)
def test_clips_expire(emulate, clock, dialect, headers):
    shop = emulate(Emulator(latency_s=0, clip=b"a clip", keep_s=3600, clock=clock))
    shop.http.headers.update(headers)
    url = shop.clip_url(dialect, shop.buy(dialect))

    clock.now += 3600
    assert httpx.get(url).content == b"a clip"
    clock.now += 1
    assert httpx.get(url).status_code == 404
