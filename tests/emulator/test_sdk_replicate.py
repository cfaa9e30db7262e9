"""Replicate's own SDK gets the same answers from the emulator as live."""

import io
from contextlib import ExitStack

import httpx
import pytest
from replicate import Client
from replicate.exceptions import ModelError, ReplicateError

from tasks.emulator import Emulator, Fault, running

MODEL = "wan-video/wan-2.2-i2v-fast"
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
def emulator(clock):
    return Emulator(
        latency_s=10, clip=b"a clip", faults=SCRIPT, keys={"r8_1"}, clock=clock
    )


@pytest.fixture
def connect():
    """Starts an emulator on a port and returns the SDK's client of it."""
    with ExitStack() as stack:

        def connected(emulator, token="r8_1"):
            client = Client(
                api_token=token,
                base_url=f"{stack.enter_context(running(emulator))}/replicate",
                # The SDK offers no way to close its connections.
                transport=stack.enter_context(httpx.HTTPTransport()),
            )
            client.poll_interval = 0.01
            return client

        yield connected


@pytest.fixture
def client(connect, emulator):
    return connect(emulator)


@pytest.fixture
def photo(still):
    file = io.BytesIO(still)
    file.name = "a still.jpg"
    return file


@pytest.fixture
def image(client, photo):
    return client.files.create(photo).urls["get"]


def submit(client, image, prompt="dolly", **asked):
    given = {"image": image, "prompt": prompt, "num_frames": 81, **asked}
    return client.models.predictions.create(MODEL, given)


def test_the_sdk_uploads_a_still_and_gets_its_clip(client, emulator, clock, image):
    prediction = submit(client, image, seed=7)
    clock.now += 10

    prediction.wait()

    assert prediction.status == "succeeded"
    assert prediction.input["seed"] == 7
    assert httpx.get(prediction.output).content == b"a clip"
    (charge,) = emulator.bill
    assert (charge.price_usd, charge.outcome, charge.seed) == ("0.06", "succeeded", 7)
    assert charge.image.startswith("sha256:")


def test_the_sdk_uploads_the_file_that_it_is_given(client, emulator, photo):
    prediction = submit(client, photo)

    assert "/v1/files/" in prediction.input["image"]
    assert emulator.bill[0].image.startswith("sha256:")


def test_run_waits_for_the_clip(connect, photo):
    client = connect(Emulator(latency_s=0.05, clip=b"a clip"))

    clip = client.run(MODEL, {"image": photo, "prompt": "dolly"})

    assert httpx.get(clip).content == b"a clip"


def test_moderation_is_a_failure_and_free(client, emulator, clock, image):
    prediction = submit(client, image, "nude")
    clock.now += 10

    prediction.wait()

    assert prediction.status == "failed"
    assert "flagged as sensitive" in prediction.error
    assert emulator.total_usd == 0


def test_failure_is_reported_with_its_error_and_free(connect, photo):
    emulator = Emulator(latency_s=0.05, faults=SCRIPT)
    client = connect(emulator)

    with pytest.raises(ModelError, match="Prediction interrupted"):
        client.run(MODEL, {"image": photo, "prompt": "unlucky"})

    assert emulator.total_usd == 0


@pytest.mark.parametrize(
    ("prompt", "refusal"),
    [
        ("hurried", (429, "Request was throttled. Your rate limit resets in ~30s.")),
        ("broken", (500, "Something went wrong.")),
    ],
)
def test_a_refused_submit_is_not_charged(client, emulator, image, prompt, refusal):
    with pytest.raises(ReplicateError) as caught:
        submit(client, image, prompt)

    assert (caught.value.status, caught.value.detail) == refusal
    assert emulator.bill == []


def test_empty_account_gets_the_link_to_buy_credit(client, emulator, image):
    with pytest.raises(ReplicateError, match="account/billing") as caught:
        submit(client, image, "poor")

    assert (caught.value.status, caught.value.title) == (402, "Insufficient credit")
    assert emulator.bill == []


@pytest.mark.parametrize("prompt", ["unheard", "interrupted", "garbled", "gateway"])
def test_submit_with_a_lost_answer_is_charged_once(client, emulator, image, prompt):
    with pytest.raises((ReplicateError, httpx.HTTPError, ValueError)):
        submit(client, image, prompt)

    assert len(emulator.bill) == 1
    assert str(emulator.total_usd) == "0.06"


def test_a_lost_submit_is_in_the_listing_with_its_input(client, emulator, image):
    submit(client, image, "before")
    with pytest.raises(httpx.HTTPError):
        submit(client, image, "unheard", seed=5)

    newest, before = client.predictions.list().results

    assert newest.input == {
        "image": image,
        "prompt": "unheard",
        "num_frames": 81,
        "seed": 5,
    }
    assert before.input["prompt"] == "before"


def test_a_long_listing_comes_in_pages(client, image):
    ids = [submit(client, image, f"pan {n}").id for n in range(102)]

    first = client.predictions.list()
    second = client.predictions.list(first.next)

    listed = [each.id for each in [*first.results, *second.results]]
    assert listed == ids[::-1]
    assert (len(first), len(second), second.next) == (100, 2, None)


def test_clip_is_gone_after_an_hour(client, clock, image):
    prediction = submit(client, image)
    clock.now += 10
    prediction.reload()
    link = prediction.output
    clock.now += 3601

    prediction.reload()

    assert (prediction.status, prediction.output, prediction.input) == (
        "succeeded",
        None,
        {},
    )
    assert httpx.get(link).status_code == 404
    assert client.predictions.list().results[0].input == {}


def test_a_bad_token_is_refused(connect, emulator):
    stranger = connect(emulator, "r8_2")

    with pytest.raises(ReplicateError, match="valid authentication token") as caught:
        submit(stranger, "https://stills.example/1.jpg")

    assert caught.value.status == 401
    assert emulator.bill == []


@pytest.mark.parametrize(
    "asked",
    [
        {"prompt": ""},
        {"image": None},
        {"num_frames": 80},
        {"num_frames": 122},
        {"num_frames": "81"},
        {"resolution": "4k"},
    ],
)
def test_a_bad_input_is_refused_and_not_charged(client, emulator, image, asked):
    given = {"image": image, "prompt": "dolly", **asked}

    with pytest.raises(ReplicateError, match="Input validation failed") as caught:
        client.models.predictions.create(MODEL, given)

    assert caught.value.status == 422
    assert emulator.bill == []


def test_a_model_that_is_not_there_is_not_found(client, image):
    with pytest.raises(ReplicateError) as caught:
        client.models.predictions.create("acme/wan-9", {"image": image, "prompt": "p"})
    with pytest.raises(ReplicateError):
        client.models.get("acme/wan-9")

    assert caught.value.status == 404


def test_the_account_and_the_model_can_be_asked_after(client):
    owner, _, name = MODEL.partition("/")

    assert client.accounts.current().type == "user"
    assert client.models.get(owner, name).name == name
