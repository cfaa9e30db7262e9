"""WaveSpeed's own SDK gets the same answers from the emulator as live."""

import io

import httpx
import pytest
from wavespeed import Client

from tasks.emulator import Emulator, Fault, running

MODEL = "wavespeed-ai/wan-2.2-spicy/image-to-video"
SCRIPT = {
    "nude": [Fault.REFUSE_CONTENT],
    "unlucky": [Fault.FAIL],
    "hurried": [Fault.THROTTLE],
    "unheard": [Fault.LOSE_ANSWER],
    "interrupted": [Fault.LOSE_ANSWER_MID],
    "poor": [Fault.NO_CREDIT],
    "garbled": [Fault.MALFORMED_ACCEPT],
    "broken": [Fault.ERROR_BEFORE],
    "gateway": [Fault.ERROR_AFTER],
}


@pytest.fixture
def emulator():
    return Emulator(latency_s=0.05, clip=b"a clip", faults=SCRIPT, keys={"a-key"})


@pytest.fixture
def client(emulator):
    with running(emulator) as base:
        yield Client(
            api_key="a-key",
            base_url=f"{base}/wavespeed",
            max_connection_retries=0,
            max_retries=2,
            retry_interval=0.01,
        )


@pytest.fixture
def image(client, still):
    file = io.BytesIO(still)
    file.name = "a still.jpg"
    return client.upload(file)


def run(client, **asked):
    return client.run(MODEL, asked, poll_interval=0.02)


def test_the_sdk_uploads_a_still_and_gets_its_clip(client, emulator, image):
    result = run(client, image=image, prompt="dolly", resolution="720p", duration=8)

    assert httpx.get(result["outputs"][0]).content == b"a clip"
    (charge,) = emulator.bill
    assert charge.price_usd == "0.48"
    assert charge.outcome == "succeeded"
    assert charge.image.startswith("sha256:")


def test_the_sdk_uploads_by_path(client, still, tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(still)

    assert client.upload(str(path)).endswith("/cat.png")


def test_moderation_is_reported_in_a_good_answer_and_refunded(client, emulator, image):
    with pytest.raises(RuntimeError, match=r"Prediction failed .* flagged"):
        run(client, image=image, prompt="nude")

    (charge,) = emulator.bill
    assert (charge.outcome, charge.refunded) == ("moderated", True)


def test_a_failure_says_no_more_than_the_provider_does(client, emulator, image):
    with pytest.raises(RuntimeError, match="Please check your input parameters"):
        run(client, image=image, prompt="unlucky")

    assert emulator.total_usd == 0


@pytest.mark.parametrize(
    ("prompt", "status"),
    [("hurried", 429), ("poor", 400), ("broken", 500)],
)
def test_a_refused_submit_is_not_charged(client, emulator, image, prompt, status):
    with pytest.raises(RuntimeError, match=rf"Failed to submit .* HTTP {status}"):
        run(client, image=image, prompt=prompt)

    assert emulator.bill == []


@pytest.mark.parametrize("prompt", ["unheard", "interrupted", "garbled", "gateway"])
def test_submit_with_a_lost_answer_is_charged(client, emulator, image, prompt):
    with pytest.raises((RuntimeError, OSError, ValueError)):
        run(client, image=image, prompt=prompt)

    assert len(emulator.bill) == 1
    assert str(emulator.total_usd) == "0.15"


def test_a_lost_answer_is_a_dropped_connection(client, image):
    with pytest.raises(RuntimeError, match="may already have been created"):
        run(client, image=image, prompt="unheard")


def test_a_bad_key_is_refused(client, emulator, image):
    client.api_key = "another"

    with pytest.raises(RuntimeError, match="HTTP 401"):
        run(client, image=image, prompt="dolly")

    assert emulator.bill == []


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": "dolly"},
        {"image": "https://stills.example/1.jpg"},
        {"image": "https://stills.example/1.jpg", "prompt": "dolly", "duration": 6},
        {"image": "https://stills.example/1.jpg", "prompt": "dolly", "duration": "5"},
        {"image": "https://stills.example/1.jpg", "prompt": "p", "resolution": "4k"},
        {"image": "https://stills.example/1.jpg", "prompt": "p", "seed": -2},
    ],
)
def test_a_bad_input_is_refused_and_not_charged(client, emulator, asked):
    with pytest.raises(RuntimeError, match="HTTP 400"):
        run(client, **asked)

    assert emulator.bill == []


def test_a_model_that_is_not_sold_is_not_found(client, image):
    with pytest.raises(RuntimeError, match="HTTP 404"):
        client.run("wavespeed-ai/wan-9/image-to-video", {"image": image, "prompt": "p"})


def test_a_still_that_cannot_be_fetched_fails_the_job(client, emulator):
    with pytest.raises(RuntimeError, match="Failed to fetch the media"):
        run(client, image="http://127.0.0.1:9/1.jpg", prompt="dolly")

    assert emulator.bill[0].outcome == "unreadable"
    assert emulator.total_usd == 0
