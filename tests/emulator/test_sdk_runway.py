"""Runway's own SDK gets the same answers from the emulator as live."""

import httpx
import pytest
import runwayml
from runwayml import RunwayML

from tasks.emulator import Emulator, Fault, running

SCRIPT = {
    "nude": [Fault.REFUSE_CONTENT],
    "unlucky": [Fault.FAIL],
    "hurried": [Fault.THROTTLE],
    "tomorrow": [Fault.DAILY_CAP],
    "unheard": [Fault.LOSE_ANSWER],
    "interrupted": [Fault.LOSE_ANSWER_MID],
    "poor": [Fault.NO_CREDIT],
    "garbled": [Fault.MALFORMED_ACCEPT],
    "broken": [Fault.ERROR_BEFORE],
    "gateway": [Fault.ERROR_AFTER],
    "stale": [Fault.EXPIRED_LINK],
}


@pytest.fixture
def emulator(clock):
    return Emulator(
        latency_s=10,
        slots=1,
        clip=b"a clip",
        faults=SCRIPT,
        keys={"key_1"},
        clock=clock,
    )


@pytest.fixture
def client(emulator, monkeypatch):
    monkeypatch.setattr("runwayml.lib.polling.POLL_TIME", 0.01)
    monkeypatch.setattr("runwayml.lib.polling.POLL_JITTER", 0)
    # Its retries would submit again after a lost answer.
    with (
        running(emulator) as base,
        RunwayML(api_key="key_1", base_url=f"{base}/runway", max_retries=0) as client,
    ):
        yield client


@pytest.fixture
def image(client, still):
    return client.uploads.create_ephemeral(file=("a still.jpg", still)).uri


def submit(client, image, prompt="dolly", **asked):
    fields = {"model": "gen4_turbo", "ratio": "1280:720", "duration": 5} | asked
    return client.image_to_video.create(
        prompt_image=image, prompt_text=prompt, **fields
    )


def test_the_sdk_uploads_a_still_and_gets_its_clip(client, emulator, clock, image):
    task = submit(client, image, seed=7)
    clock.now += 10

    done = task.wait_for_task_output()

    assert image.startswith("runway://")
    assert httpx.get(done.output[0]).content == b"a clip"
    assert task.estimated_cost.credits == done.cost.credits == 25
    (charge,) = emulator.bill
    assert (charge.price_usd, charge.outcome, charge.seed) == ("0.25", "succeeded", 7)
    assert charge.image.startswith("sha256:")
    assert emulator.stats()["keys_shown"] == 0


def test_a_still_may_be_named_as_the_first_frame(client, clock, image):
    frames = [{"uri": image, "position": "first"}]

    task = submit(client, frames, ratio="720:1280", duration=10)
    clock.now += 10

    assert client.tasks.retrieve(task.id).cost.credits == 50


def test_job_above_the_concurrency_waits_as_throttled(client, clock, image):
    tasks = [submit(client, image) for _ in range(2)]

    told = [client.tasks.retrieve(task.id) for task in tasks]
    clock.now += 20

    assert [each.status for each in told] == ["RUNNING", "THROTTLED"]
    assert client.tasks.retrieve(tasks[1].id).status == "SUCCEEDED"


def test_moderation_of_the_input_is_charged(client, emulator, clock, image):
    task = submit(client, image, "nude")
    clock.now += 10

    with pytest.raises(runwayml.TaskFailedError) as caught:
        task.wait_for_task_output()

    assert caught.value.task_details.failure_code == "SAFETY.INPUT.IMAGE"
    assert caught.value.task_details.cost.credits == 25
    assert str(emulator.total_usd) == "0.25"


def test_a_failure_is_refunded(client, emulator, clock, image):
    task = submit(client, image, "unlucky")
    clock.now += 10

    with pytest.raises(runwayml.TaskFailedError) as caught:
        task.wait_for_task_output()

    assert caught.value.task_details.failure_code.startswith("INTERNAL")
    assert caught.value.task_details.cost.credits == 0
    assert emulator.total_usd == 0


def test_a_still_that_cannot_be_read_fails_the_job(client, emulator, clock):
    task = submit(client, "http://127.0.0.1:9/1.jpg")
    clock.now += 10

    with pytest.raises(runwayml.TaskFailedError) as caught:
        task.wait_for_task_output()

    assert caught.value.task_details.failure_code == "ASSET.INVALID"
    assert emulator.total_usd == 0


@pytest.mark.parametrize(
    ("prompt", "refusal"),
    [
        ("hurried", (429, "Too many requests.")),
        ("tomorrow", (429, "Your daily task limit has been reached.")),
        ("poor", (400, "You do not have enough credits to run this task.")),
        ("broken", (500, "Internal server error")),
    ],
)
def test_a_refused_submit_is_not_charged(client, emulator, image, prompt, refusal):
    with pytest.raises(runwayml.APIStatusError) as caught:
        submit(client, image, prompt)

    assert (caught.value.status_code, caught.value.body["error"]) == refusal
    assert emulator.bill == []


@pytest.mark.parametrize("prompt", ["unheard", "interrupted", "gateway"])
def test_submit_with_a_lost_answer_is_charged(client, emulator, image, prompt):
    with pytest.raises((runwayml.APIError, httpx.HTTPError)):
        submit(client, image, prompt)

    assert len(emulator.bill) == 1
    assert str(emulator.total_usd) == "0.25"


def test_the_sdk_takes_a_web_page_for_a_receipt(client, emulator, image):
    receipt = submit(client, image, "garbled")

    assert getattr(receipt, "id", None) is None
    assert len(emulator.bill) == 1


def test_a_bad_key_is_refused(client, emulator, image):
    stranger = client.with_options(api_key="key_2")

    with pytest.raises(runwayml.AuthenticationError):
        submit(stranger, image)

    assert emulator.bill == []


@pytest.mark.parametrize(
    "asked",
    [
        {"ratio": "1280:768"},
        {"duration": 11},
        {"duration": "5"},
        {"seed": -1},
        {"prompt": "p" * 1001},
        {"model": "gen3a_turbo"},
    ],
)
def test_a_bad_input_is_refused_and_not_charged(client, emulator, image, asked):
    with pytest.raises(runwayml.BadRequestError, match="Validation of body failed"):
        submit(client, image, **asked)

    assert emulator.bill == []


def test_a_request_without_the_version_is_refused(client, image):
    old = client.with_options(default_headers={"X-Runway-Version": "2023-09-06"})

    with pytest.raises(runwayml.BadRequestError, match="X-Runway-Version"):
        submit(old, image)


def test_a_link_dies_after_a_day_and_asking_again_gives_another(client, clock, image):
    task = submit(client, image)
    clock.now += 10
    [old] = client.tasks.retrieve(task.id).output
    clock.now += 25 * 3600

    dead = httpx.get(old).status_code
    [fresh] = client.tasks.retrieve(task.id).output

    assert dead == 404
    assert httpx.get(fresh).content == b"a clip"


def test_a_link_that_died_early_is_made_anew(client, clock, image):
    task = submit(client, image, "stale")
    clock.now += 10

    answers = [
        httpx.get(client.tasks.retrieve(task.id).output[0]).status_code
        for _ in range(2)
    ]

    assert answers == [404, 200]


def test_the_organization_has_its_balance_its_limits_and_its_use(client, image):
    submit(client, image)

    told = client.organization.retrieve()

    limits = told.tier.models["gen4_turbo"]
    assert told.credit_balance == 100_000_000 - 25
    assert limits.max_concurrent_generations == 1
    assert limits.max_daily_generations == 25_000
    assert told.usage.models["gen4_turbo"].daily_generations == 1
