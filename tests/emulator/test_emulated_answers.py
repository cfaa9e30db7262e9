"""The emulator's answers have the shapes that providers document, key by key.

The recorded ones are from the providers' docs and SDK sources (read 2026-11); their
values are made up.
"""

import re

import pytest

from tasks.emulator import Emulator, Fault


def outline(answer):
    """The shape of an answer: its keys and types, without the values."""
    match answer:
        case dict():
            return {key: outline(value) for key, value in answer.items()}
        case list():
            return [outline(value) for value in answer]
        case int() | float():
            return "number"
        case _:
            return "text" if isinstance(answer, str) else answer


WAVESPEED_TASK = {
    "id": "a1b2",
    "model": "wavespeed-ai/wan-2.2-spicy/image-to-video",
    "outputs": [],
    "urls": {"get": "https://api.wavespeed.ai/api/v3/predictions/a1b2/result"},
    "has_nsfw_contents": [],
    "status": "created",
    "created_at": "2026-11-22T10:00:00.000Z",
    "error": "",
    "executionTime": 0,
    "timings": {"inference": 0},
}
FAL_URLS = {
    "request_id": "80e7",
    "response_url": "https://queue.fal.run/fal-ai/wan/requests/80e7",
    "status_url": "https://queue.fal.run/fal-ai/wan/requests/80e7/status",
    "cancel_url": "https://queue.fal.run/fal-ai/wan/requests/80e7/cancel",
}
ACCEPTED = {
    "wavespeed": {"code": 200, "message": "success", "data": WAVESPEED_TASK},
    "atlas": {"code": 200, "data": {"id": "9f", "status": "starting"}},
    "fal": {"status": "IN_QUEUE", "queue_position": 0, **FAL_URLS},
}
DONE = {
    "wavespeed": {
        "code": 200,
        "message": "success",
        "data": {
            **WAVESPEED_TASK,
            "status": "completed",
            "outputs": ["https://d2p7pge43lyniu.cloudfront.net/output/1.mp4"],
            "has_nsfw_contents": [False],
            "executionTime": 61000,
        },
    },
    "atlas": {
        "code": 200,
        "data": {"id": "9f", "status": "completed", "outputs": ["https://1.mp4"]},
    },
    "fal": {
        "video": {
            "url": "https://v3b.fal.media/files/b/out.mp4",
            "content_type": "video/mp4",
            "file_name": "out.mp4",
            "file_size": 1234567,
        },
        "seed": 42,
    },
}
REFUSALS = {
    ("wavespeed", Fault.UNAUTHORIZED): (401, {"code": 401, "message": "m"}),
    ("wavespeed", Fault.THROTTLE): (429, {"code": 429, "message": "m"}),
    ("wavespeed", Fault.REJECT_INPUT): (400, {"code": 400, "message": "m"}),
    ("wavespeed", Fault.ERROR_BEFORE): (500, {"code": 500, "message": "m"}),
    ("wavespeed", Fault.NO_CREDIT): (400, {"code": 400, "message": "m"}),
    **{
        ("atlas", fault): (
            status,
            {"code": status, "msg": "m", "request_id": "r", "data": None},
        )
        for fault, status in {
            Fault.UNAUTHORIZED: 401,
            Fault.THROTTLE: 429,
            Fault.REJECT_INPUT: 400,
            Fault.ERROR_BEFORE: 500,
            Fault.NO_CREDIT: 402,
        }.items()
    },
    ("fal", Fault.UNAUTHORIZED): (401, {"detail": "m"}),
    ("fal", Fault.THROTTLE): (429, {"detail": "m"}),
    ("fal", Fault.NO_CREDIT): (403, {"detail": "m"}),
    ("fal", Fault.ERROR_BEFORE): (500, {"detail": "m", "error_type": "t"}),
    ("fal", Fault.REJECT_INPUT): (
        422,
        {
            "detail": [
                {
                    "loc": ["body", "image_url"],
                    "msg": "m",
                    "type": "image_too_small",
                    "url": "https://docs.fal.ai/errors#image_too_small",
                    "input": None,
                }
            ]
        },
    ),
}


@pytest.fixture
def shop(emulate, clock):
    return emulate(Emulator(latency_s=60, clip=b"a clip", clock=clock))


@pytest.mark.parametrize("dialect", ACCEPTED)
def test_a_submit_is_answered_as_documented(shop, dialect):
    answer = shop.submit(dialect)

    assert answer.status_code == 200
    assert outline(answer.json()) == outline(ACCEPTED[dialect])


@pytest.mark.parametrize("dialect", DONE)
def test_answer_about_a_finished_job_is_as_documented(shop, clock, dialect):
    prediction = shop.buy(dialect, seed=42)
    clock.now += 60

    answer = shop.poll(dialect, prediction)

    assert answer.status_code == 200
    assert outline(answer.json()) == outline(DONE[dialect])


@pytest.mark.parametrize(("dialect", "fault"), REFUSALS)
def test_a_refusal_is_worded_as_documented(emulate, dialect, fault):
    emulator = Emulator(faults={"dolly": [fault]})
    status, recorded = REFUSALS[dialect, fault]

    answer = emulate(emulator).submit(dialect)

    assert answer.status_code == status
    assert outline(answer.json()) == outline(recorded)
    assert emulator.bill == []


def test_wavespeed_says_created_then_processing_then_completed(emulate, clock):
    shop = emulate(Emulator(latency_s=60, slots=1, clip=b"a clip", clock=clock))
    shop.buy("wavespeed")
    prediction = shop.buy("wavespeed")

    words = []
    for _ in range(3):
        words.append(shop.poll("wavespeed", prediction).json()["data"]["status"])
        clock.now += 60

    assert words == ["created", "processing", "completed"]


def test_wavespeed_hands_out_the_url_to_poll_at(shop):
    answer = shop.submit("wavespeed").json()["data"]

    polled = shop.http.get(answer["urls"]["get"], headers=shop.headers("wavespeed"))

    assert polled.json()["data"]["id"] == answer["id"]
    assert answer["urls"]["get"].startswith(f"{shop.base}/wavespeed/api/v3/predictions")


def test_wavespeeds_wan_2_1_has_its_resolution_in_its_name(emulate):
    emulator = Emulator()
    shop = emulate(emulator)
    url = f"{shop.base}/wavespeed/api/v3/wavespeed-ai/wan-2.1/i2v-720p"
    body = {"image": shop.image, "prompt": "dolly", "size": "720*1280"}

    shop.http.post(url, json=body, headers=shop.headers("wavespeed")).raise_for_status()

    assert emulator.bill[0].resolution == "720p"


def test_wavespeeds_size_is_a_resolution_too(emulate):
    emulator = Emulator()

    emulate(emulator).buy("wavespeed", resolution=None, size="720*1280")

    assert emulator.bill[0].resolution == "720p"


def test_atlas_runs_from_starting_to_completed_without_a_queue(shop, clock):
    prediction = shop.buy("atlas")

    running = shop.poll("atlas", prediction).json()["data"]
    clock.now += 60

    assert running == {"id": prediction, "status": "processing", "outputs": None}
    assert shop.poll("atlas", prediction).json()["data"]["status"] == "completed"


def test_atlas_calls_a_wrong_path_unauthorized(shop):
    answer = shop.http.post(f"{shop.base}/atlas/v1/generate", json={})

    assert answer.status_code == 401
    assert answer.headers["x-request-id"] == answer.json()["request_id"]


@pytest.mark.parametrize("hours", ["0", "337", "a week"])
def test_atlas_refuses_a_retention_it_does_not_have(shop, hours):
    headers = {"X-AtlasCloud-Object-Expiration-Hours": hours}
    shop.http.headers.update(headers)

    assert shop.submit("atlas").status_code == 400


def test_fal_drops_the_endpoints_sub_path_from_its_urls(shop):
    answer = shop.submit("fal").json()

    place = f"{shop.base}/fal/fal-ai/wan/requests/{answer['request_id']}"
    assert answer["response_url"] == place
    assert answer["status_url"] == f"{place}/status"
    assert answer["cancel_url"] == f"{place}/cancel"


def test_fal_answers_202_until_it_is_done(emulate, clock):
    shop = emulate(Emulator(latency_s=60, slots=1, clip=b"a clip", clock=clock))
    shop.buy("fal")
    status_url = shop.submit("fal").json()["status_url"]

    seen = []
    for _ in range(3):
        answer = shop.http.get(status_url, headers=shop.headers("fal"))
        seen.append((answer.status_code, answer.json()["status"]))
        clock.now += 60

    assert seen == [(202, "IN_QUEUE"), (202, "IN_PROGRESS"), (200, "COMPLETED")]


def test_fal_says_completed_for_a_moderated_job_too(emulate):
    shop = emulate(Emulator(latency_s=0, faults={"dolly": [Fault.REFUSE_CONTENT]}))
    urls = shop.submit("fal").json()

    status = shop.http.get(urls["status_url"], headers=shop.headers("fal"))
    result = shop.http.get(urls["response_url"], headers=shop.headers("fal"))

    assert status.json()["status"] == "COMPLETED"
    assert "error" not in status.json()
    assert result.status_code == 422
    assert result.headers["x-fal-retryable"] == "false"


@pytest.mark.parametrize("dialect", ACCEPTED)
def test_a_missing_or_foreign_key_is_refused(emulate, dialect):
    emulator = Emulator(keys={"a-key"})
    shop = emulate(emulator)

    assert shop.submit(dialect, key="").status_code == 401
    assert shop.submit(dialect, key="another").status_code == 401
    assert emulator.bill == []


@pytest.mark.parametrize("dialect", ACCEPTED)
def test_a_prediction_is_its_buyers_alone(shop, dialect):
    prediction = shop.buy(dialect, key="another")

    assert shop.poll(dialect, prediction).status_code == 404


@pytest.mark.parametrize("dialect", ACCEPTED)
def test_body_that_is_not_json_is_refused(shop, dialect):
    endpoint = shop.submit(dialect).request.url

    answer = shop.http.post(endpoint, content=b"{", headers=shop.headers(dialect))

    assert answer.status_code in {400, 422}


@pytest.mark.parametrize("dialect", ACCEPTED)
def test_every_url_handed_out_leads_back_the_way_the_client_came(shop, dialect):
    shop.http.headers["Host"] = "emulator.test:8400"

    handed_out = re.findall(r"https?://[^/\"]+", shop.submit(dialect).text)

    assert set(handed_out) <= {"http://emulator.test:8400"}
