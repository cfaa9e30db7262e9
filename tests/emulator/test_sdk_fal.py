"""fal's own SDK gets the same answers from the emulator as from the live service.

The SDK has https and its hosts in three constants, which point at the emulator here.
Everything else is the SDK's own code, including its transport and its retries.
"""

import gc

import fal_client
import httpx
import pytest
from PIL import Image

from tasks.emulator import Emulator, Fault, running

MODEL = "fal-ai/wan/v2.2-a14b/image-to-video"
KLING = "fal-ai/kling-video/v2.5-turbo/pro/image-to-video"
SCRIPT = {
    "nude": [Fault.REFUSE_CONTENT],
    "unlucky": [Fault.FAIL],
    "hurried": [Fault.THROTTLE, Fault.THROTTLE_WITH_RETRY_AFTER],
    "unheard": [Fault.LOSE_ANSWER],
    "gateway": [Fault.ERROR_AFTER],
    "poor": [Fault.NO_CREDIT],
    "broken": [Fault.ERROR_BEFORE],
    "endless": [Fault.STUCK],
}

# fal-client opens a client for each upload and never closes it.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning",
    "ignore::pytest.PytestUnraisableExceptionWarning",
)


@pytest.fixture
def emulator():
    return Emulator(latency_s=0.05, clip=b"a clip", faults=SCRIPT, keys={"id:secret"})


@pytest.fixture
def fal(emulator, monkeypatch):
    with running(emulator) as base:
        monkeypatch.setattr(fal_client.client, "QUEUE_URL_FORMAT", f"{base}/fal/")
        monkeypatch.setattr(fal_client.client, "REST_URL", f"{base}/fal")
        monkeypatch.setattr(fal_client.client, "CDN_URL", f"{base}/fal")
        yield fal_client.SyncClient(key="id:secret")
    gc.collect()


def run(fal, prompt, image, **asked):
    asked = {"prompt": prompt, "image_url": image, "resolution": "480p"} | asked
    return fal.subscribe(MODEL, asked, interval=0.02)


@pytest.fixture
def image(fal, still):
    return fal.upload(still, "image/jpeg", file_name="a still.jpg")


def test_the_sdk_uploads_a_still_and_gets_its_clip(fal, emulator, image):
    result = run(fal, "dolly", image, num_frames=81, seed=42)

    assert result["seed"] == 42
    assert result["video"]["content_type"] == "video/mp4"
    assert result["video"]["file_size"] == len(b"a clip")
    assert httpx.get(result["video"]["url"]).content == b"a clip"
    (charge,) = emulator.bill
    assert (charge.price_usd, charge.outcome) == ("0.2025", "succeeded")


def test_the_sdk_sees_the_queue_and_then_the_end(fal, image):
    handle = fal.submit(MODEL, {"prompt": "dolly", "image_url": image})
    seen = list(handle.iter_events(with_logs=True, interval=0.01))

    assert isinstance(seen[0], fal_client.InProgress | fal_client.Queued)
    assert isinstance(seen[-1], fal_client.Completed)
    assert seen[-1].metrics["inference_time"] == pytest.approx(0.05)
    assert seen[-1].error is None


@pytest.mark.parametrize("repository", ["fal_v3", "fal"])
def test_both_ways_of_handing_a_still_over_work(fal, emulator, still, repository):
    image = fal.upload(still, "image/jpeg", "a still.jpg", repository=repository)
    run(fal, "dolly", image)

    assert emulator.bill[0].image.startswith("sha256:")


def test_a_still_may_be_in_the_request_itself(fal, emulator):
    run(fal, "dolly", fal_client.encode_image(Image.new("RGB", (300, 300))))

    assert emulator.bill[0].outcome == "succeeded"


async def completes(image):
    client = fal_client.AsyncClient(key="id:secret")
    return await client.subscribe(MODEL, {"prompt": "dolly", "image_url": image})


@pytest.mark.anyio
async def test_the_asynchronous_sdk_gets_its_clip_too(image):
    assert (await completes(image))["video"]["url"].endswith(".mp4")


def test_moderation_shows_in_the_result_and_is_billed(fal, emulator, image):
    with pytest.raises(fal_client.FalClientHTTPError) as refusal:
        run(fal, "nude", image)

    assert refusal.value.status_code == 422
    assert refusal.value.message[0]["type"] == "content_policy_violation"
    assert (emulator.bill[0].outcome, emulator.bill[0].refunded) == ("moderated", False)


def test_a_failed_runner_shows_in_the_status_and_is_not_billed(fal, emulator, image):
    handle = fal.submit(MODEL, {"prompt": "unlucky", "image_url": image})
    *_, last = handle.iter_events(interval=0.02)

    assert last.error_type == "runner_server_error"
    with pytest.raises(fal_client.FalClientHTTPError) as failure:
        handle.get()
    assert failure.value.status_code == 500
    assert failure.value.error_type == "runner_server_error"
    assert emulator.total_usd == 0


def test_throttled_submit_succeeds_third_time_and_costs_once(fal, emulator, image):
    """A throttled submit goes through the third time and is charged once."""
    run(fal, "hurried", image)

    assert len(emulator.bill) == 1
    assert emulator.stats()["accounts"][0]["throttled"] == 2


@pytest.mark.parametrize("prompt", ["unheard", "gateway"])
def test_sdk_pays_twice_after_a_lost_answer(fal, emulator, image, prompt):
    run(fal, prompt, image)

    assert len(emulator.bill) == 2
    assert str(emulator.total_usd) == "0.4050"


@pytest.mark.parametrize(("prompt", "status"), [("poor", 403), ("broken", 500)])
def test_a_refused_submit_is_not_charged(fal, emulator, image, prompt, status):
    with pytest.raises(fal_client.FalClientHTTPError) as refusal:
        run(fal, prompt, image)

    assert refusal.value.status_code == status
    assert emulator.bill == []


def test_a_bad_key_is_refused(fal, emulator, image):
    with pytest.raises(fal_client.FalClientHTTPError) as refusal:
        run(type(fal)(key="another:key"), "dolly", image)

    assert refusal.value.status_code == 401
    assert emulator.bill == []


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"prompt": None}, "missing"),
        ({"image_url": None}, "missing"),
        ({"num_frames": 500}, "less_than_equal"),
        ({"num_frames": 16}, "greater_than_equal"),
        ({"frames_per_second": 3}, "greater_than_equal"),
        ({"resolution": "4k"}, "one_of"),
        ({"aspect_ratio": "4:3"}, "one_of"),
    ],
)
def test_a_bad_input_is_refused_and_not_charged(fal, emulator, image, asked, kind):
    with pytest.raises(fal_client.FalClientHTTPError) as refusal:
        run(fal, **{"prompt": "dolly", "image": image, **asked})

    (detail,) = refusal.value.message
    assert refusal.value.status_code == 422
    assert detail["loc"] == ["body", *asked]
    assert detail["type"] == kind
    assert emulator.bill == []


def kling(fal, image, **asked):
    asked = {"prompt": "dolly", "image_url": image} | asked
    return fal.subscribe(KLING, asked, interval=0.02)


def test_kling_is_sold_by_the_second_and_reports_no_seed(fal, emulator, image):
    result = kling(fal, image, duration="10", negative_prompt="blur", cfg_scale=0.5)

    assert result["video"]["url"].endswith(".mp4")
    assert "seed" not in result
    (charge,) = emulator.bill
    assert (charge.price_usd, charge.outcome) == ("0.70", "succeeded")


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        ({"duration": 10}, "one_of"),
        ({"duration": "8"}, "one_of"),
        ({"cfg_scale": 7.5}, "less_than_equal"),
        ({"prompt": None}, "missing"),
    ],
)
def test_request_invalid_at_kling_is_refused_and_not_charged(
    fal, emulator, image, asked, kind
):
    with pytest.raises(fal_client.FalClientHTTPError) as refusal:
        kling(fal, image, **asked)

    (detail,) = refusal.value.message
    assert (refusal.value.status_code, detail["type"]) == (422, kind)
    assert emulator.bill == []


def test_a_still_that_cannot_be_fetched_fails_the_job(fal, emulator):
    with pytest.raises(fal_client.FalClientHTTPError) as failure:
        run(fal, "dolly", "http://127.0.0.1:9/1.jpg")

    assert failure.value.message[0]["type"] == "image_load_error"
    assert emulator.bill[0].outcome == "unreadable"
