"""Requests to 302.AI's two APIs, and the meaning of their answers."""

import json
from decimal import Decimal

import pytest

from manifests.catalogue import Route
from manifests.jobs import Job
from manifests.lifecycle import Discarded, Rejected, Ticket
from tasks.providers.ai302 import Ai302
from tasks.providers.errors import (
    CappedError,
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    RejectedError,
    ThrottledError,
)
from tasks.providers.protocol import (
    AccountReport,
    Billed,
    Findable,
    Finished,
    UnreadableError,
)

KEY = "sk-302-secret-5160"
SPICY = "wavespeed-ai/wan-2.2-spicy/image-to-video"
JOB = Job(image="i", prompt="slow dolly in", resolution="720p", negative_prompt="blur")
IMAGE = "data:image/jpeg;base64,/9j/"
OWN = Ai302(
    Route(
        name="302ai/unified",
        endpoints={"720p": "wan2.7-i2v"},
        prices_usd={("720p", 5): Decimal("0.50")},
        fps=24,
        takes_negative_prompt=True,
    ),
    KEY,
)
RESOLD = Ai302(
    Route(
        name="302ai/wan-2.2-spicy",
        endpoints={"480p": SPICY, "720p": SPICY},
        prices_usd={("480p", 5): Decimal("0.15")},
        fps=16,
    ),
    KEY,
)
DOORS = {"own": OWN, "resold": RESOLD}
TICKET = Ticket("302ai", "t1", {"record": "/dashboard/record/req-1"})


def asking(provider, step, still):
    """The request of each step, as the exchange would send it."""
    match step:
        case "submit":
            return next(provider.submit(JOB, IMAGE, 42, "ref-1"))
        case "upload":
            return next(provider.upload(still))
        case "poll":
            return next(provider.poll(TICKET))


def test_its_own_api_is_asked_in_one_flat_body(play, recorded):
    response = recorded("302ai", "submitted")
    response.headers["request-id"] = "req-1"

    [request], ticket = play(OWN, OWN.submit(JOB, IMAGE, 42, "ref-1"), response)

    assert request.method == "POST"
    assert str(request.url) == "https://api.302.ai/302/v2/video/create"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.content == (
        b'{"model":"wan2.7-i2v","prompt":"slow dolly in",'
        b'"image":"data:image/jpeg;base64,/9j/","resolution":"720P","duration":5,'
        b'"seed":42,"negative_prompt":"blur"}'
    )
    assert ticket == TICKET


def test_submit_without_a_cost_record_is_accepted(play, recorded):
    """A submit is accepted even if its answer has no record of the cost."""
    exchange = OWN.submit(JOB, IMAGE, 42, "ref-1")

    _, ticket = play(OWN, exchange, recorded("302ai", "submitted"))

    assert ticket == Ticket("302ai", "t1")


def test_resold_request_is_wavespeeds_with_a_prefix(play, recorded):
    """A resold request is WaveSpeed's, with a prefix before its path."""
    exchange = RESOLD.submit(JOB, IMAGE, 42, "ref-1")

    [request], ticket = play(RESOLD, exchange, recorded("302ai", "passed_on"))

    assert str(request.url) == f"https://api.302.ai/ws/api/v3/{SPICY}"
    assert json.loads(request.content) == {
        "image": IMAGE,
        "prompt": "slow dolly in",
        "resolution": "720p",
        "duration": 5,
        "seed": 42,
    }
    assert ticket == Ticket("302ai", "a1b2c3")


@pytest.mark.parametrize("door", DOORS)
def test_webhook_url_goes_into_the_query(door):
    """The webhook's URL goes into the query of the submit, not into the body."""
    hook = "https://hooks.example/302?batch=a&b"
    provider = Ai302(DOORS[door].route, KEY, hook)

    request = next(provider.submit(JOB, IMAGE, 42, "ref-1"))

    assert dict(request.url.params) == {"webhook": hook}
    assert b"hooks.example" not in request.content


def test_a_still_goes_out_with_its_own_submit(play, still):
    asked, url = play(OWN, OWN.upload(still))

    assert asked == []
    assert url == "data:image/jpeg;base64,/9j/"


def test_a_still_for_wavespeed_is_handed_over_at_its_door(
    play, recorded, answer, still
):
    answers = recorded("wavespeed", "upload_ticket"), answer(200)

    [ask, put], url = play(RESOLD, RESOLD.upload(still), *answers)

    assert str(ask.url) == "https://api.302.ai/ws/api/v3/media/uploads"
    assert "authorization" not in put.headers
    assert url == "https://media.wavespeed.ai/u/still.jpg"


@pytest.mark.parametrize(
    ("door", "url"),
    [
        ("own", "https://api.302.ai/302/v2/video/fetch/..%2Fa%3Fb"),
        ("resold", "https://api.302.ai/ws/api/v3/predictions/..%2Fa%3Fb/result"),
    ],
)
def test_an_id_cannot_lead_a_poll_astray(door, url):
    request = next(DOORS[door].poll(Ticket("302ai", "../a?b")))

    assert str(request.url) == url


@pytest.mark.parametrize(
    ("name", "progress"),
    [
        ("submitted", None),
        ("running", None),
        ("succeeded", Finished("https://file.302.ai/gpt/imgs/clip.mp4")),
        ("failed", Discarded("failed: generation failed")),
        (
            "moderated",
            Rejected(
                "failed: DataInspectionFailed: "
                "Input data may contain inappropriate content.",
                charged=True,
            ),
        ),
    ],
)
def test_poll_reads_recorded_answers(play, recorded, name, progress):
    """Each recorded answer to a poll is read as its documented state."""
    assert play(OWN, OWN.poll(TICKET), recorded("302ai", name))[1] == progress


@pytest.mark.parametrize("word", ["completed", "succeed", "success"])
def test_every_word_for_success_needs_a_clip(play, answer, word):
    clip = "https://file.302.ai/c.mp4"
    body = {"task_id": "t1", "status": word, "video_url": clip}

    assert play(OWN, OWN.poll(TICKET), answer(200, body))[1] == Finished(clip)
    with pytest.raises(UnreadableError):
        play(OWN, OWN.poll(TICKET), answer(200, body | {"video_url": ""}))


@pytest.mark.parametrize(
    "body",
    [{"task_id": "t1", "status": "snoozed"}, {"task_id": "t1"}, [1], b"", b"<p>"],
)
def test_senseless_poll_is_unreadable(play, answer, body):
    """A poll whose answer has no known form is unreadable."""
    with pytest.raises(UnreadableError, match="302ai: cannot read"):
        play(OWN, OWN.poll(TICKET), answer(200, body))


def test_failure_with_an_error_inside_is_discarded(play, answer):
    """A failed task is a failure, even if it contains a refusal's error."""
    error = {"err_code": -1024, "message": "upstream"}
    response = answer(200, {"task_id": "t1", "status": "error", "error": error})

    assert isinstance(play(OWN, OWN.poll(TICKET), response)[1], Discarded)


def test_failure_of_a_resold_clip_counts_as_charged(play, recorded):
    """A failure of a resold clip counts as charged."""
    response = recorded("302ai", "passed_on_failed")

    assert play(RESOLD, RESOLD.poll(TICKET), response)[1] == Discarded("failed: no")


@pytest.mark.parametrize("body", [{"task_id": ""}, {"status": "pending"}, b"", b"<p>"])
def test_good_answer_without_a_task_is_unreadable(play, answer, body):
    """A successful submit whose answer names no task is unreadable."""
    with pytest.raises(UnreadableError):
        play(OWN, OWN.submit(JOB, IMAGE, 42, "ref-1"), answer(200, body))


@pytest.mark.parametrize("status", [200, 400, 500, 504])
def test_answer_that_names_a_task_is_accepted(play, answer, status):
    """An answer that names a task proves acceptance, whatever its status or error."""
    response = answer(status, {"task_id": "t1", "error": {"err_code": -1024}})

    assert play(OWN, OWN.submit(JOB, IMAGE, 42, "ref-1"), response)[1].id == "t1"


def coded(code, message="no"):
    return {"error": {"err_code": code, "message": message, "type": "api_error"}}


HTML = b"<html>nginx</html>"
VERDICTS = [
    ("submit", 401, coded(-10001), MisconfiguredError),
    ("submit", 403, coded(-10005), MisconfiguredError),
    ("submit", 401, {"error": {"message": "who?"}}, MisconfiguredError),
    ("submit", 402, coded(-10004, "Insufficient balance"), MisconfiguredError),
    ("submit", 429, coded(-10006), MisconfiguredError),
    ("submit", 403, coded(-10002), MisconfiguredError),
    ("submit", 400, coded(-10009), MisconfiguredError),
    ("submit", 400, coded(-10003, "Parameter error: duration"), RejectedError),
    ("submit", 500, coded(-10003, "Network error, try again"), InDoubtError),
    ("submit", 500, coded(-10003, "网络错误"), InDoubtError),
    ("submit", 429, coded(-10007), CappedError),
    ("submit", 429, coded(-10018), CappedError),
    ("submit", 429, coded(-10012), ThrottledError),
    ("submit", 200, coded(-10012), ThrottledError),
    ("submit", 200, coded(-10004), MisconfiguredError),
    ("submit", 503, coded(-10008), InDoubtError),
    ("submit", 504, coded(-1024), InDoubtError),
    ("submit", 400, coded(-99999), InDoubtError),
    ("submit", 400, {"error": {"message": "bad"}}, InDoubtError),
    ("submit", 429, {"error": {"message": "slow"}}, InDoubtError),
    ("submit", 401, {"error": "from a proxy"}, InDoubtError),
    ("submit", 401, HTML, InDoubtError),
    ("submit", 502, HTML, InDoubtError),
    ("poll", 401, coded(-10001), MisconfiguredError),
    ("poll", 400, coded(-10003, "Parameter error"), InDoubtError),
    ("poll", 404, {"error": {"message": "no task"}}, NotFoundError),
    ("poll", 404, HTML, NotFoundError),
    ("poll", 429, coded(-10012), ThrottledError),
    ("poll", 502, HTML, InDoubtError),
]


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("row", VERDICTS)
def test_its_own_refusals_mean_the_same_at_either_door(answer, still, row, door):
    step, status, body, kind = row
    response = answer(status, body)
    response.request = asking(DOORS[door], step, still)

    assert type(DOORS[door].judge(response)) is kind


@pytest.mark.parametrize(
    "row",
    [
        ("submit", 401, {"code": 401, "message": "who?"}, MisconfiguredError),
        ("submit", 400, {"code": 400, "message": "bad size"}, RejectedError),
        ("submit", 200, {"code": 1200, "message": "moderated"}, RejectedError),
        ("submit", 404, {"code": 404, "message": "no model"}, MisconfiguredError),
        ("submit", 429, {"code": 429, "message": "slow down"}, ThrottledError),
        ("submit", 500, {"code": 500, "message": "oops"}, InDoubtError),
        ("upload", 413, {"code": 413, "message": "too large"}, RejectedError),
        ("upload", 401, coded(-10001), MisconfiguredError),
        ("poll", 404, {"code": 404, "message": "not found"}, NotFoundError),
    ],
)
def test_wavespeeds_refusals_mean_what_they_do_at_its_own_door(answer, still, row):
    step, status, body, kind = row
    response = answer(status, body)
    response.request = asking(RESOLD, step, still)

    assert type(RESOLD.judge(response)) is kind


def test_a_lane_that_is_closed_says_whom_to_ask(answer, still, recorded):
    refused = recorded("302ai", "no_balance")
    refused.request = asking(OWN, "submit", still)
    passed = answer(402, {"code": 402, "message": "payment required"})
    passed.request = asking(RESOLD, "submit", still)

    assert str(OWN.judge(refused)) == (
        "302ai: HTTP 402: Insufficient balance: top up the account at https://302.ai"
    )
    assert str(RESOLD.judge(passed)) == (
        "302ai: HTTP 402: payment required: top up the account at https://302.ai"
    )


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("row", VERDICTS)
def test_no_verdict_repeats_the_key(answer, still, echoing, row, door):
    step, status, body, _ = row
    response = answer(status, echoing(body, KEY))
    response.request = asking(DOORS[door], step, still)

    verdict = DOORS[door].judge(response)

    assert verdict is not None
    assert KEY not in str(verdict)


PROOFS = {
    "own": "https://api.302.ai/302/v2/video/fetch/nightreel-check",
    "resold": "https://api.302.ai/ws/api/v3/balance",
}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    "proof",
    [
        (404, {"error": {"message": "no task"}}),
        (400, coded(-10003, "Parameter error")),
        (404, {"code": 404, "message": "not found"}),
        (404, HTML),
    ],
)
def test_a_check_proves_the_key_by_any_answer_that_knows_it(
    play, answer, recorded, door, proof
):
    provider = DOORS[door]
    answers = answer(*proof), recorded("302ai", "balance")

    asked, report = play(provider, provider.check(), *answers)

    assert [str(request.url) for request in asked] == [
        PROOFS[door],
        "https://api.302.ai/dashboard/balance",
    ]
    assert report == AccountReport(credit_usd=Decimal("12.34"))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize(
    ("status", "body"), [(401, coded(-10001)), (200, coded(-10005))]
)
def test_a_check_tells_a_bad_key(play, answer, door, status, body):
    with pytest.raises(MisconfiguredError, match="check the key"):
        play(DOORS[door], DOORS[door].check(), answer(status, body))


def test_a_key_that_may_not_ask_for_the_balance_is_still_good(play, answer):
    answers = answer(404, HTML), answer(403, coded(-10002))

    assert play(OWN, OWN.check(), *answers)[1] == AccountReport()


@pytest.mark.parametrize(
    ("body", "charged"),
    [
        ({"data": {"cost": 0.5}}, Decimal("0.5")),
        ({"data": {"cost": "0.123"}}, Decimal("0.123")),
        ({"cost": 0.1 + 0.2}, Decimal("0.3")),
        ({"data": 0.25}, Decimal("0.25")),
        ({"data": {"cost": 0}}, Decimal(0)),
        ({"data": {"cost": -1}}, None),
        ({"data": {"cost": None}}, None),
        ({"data": {"points": 5}}, None),
        ({"data": None}, None),
        ([], None),
    ],
)
def test_charge_is_read_from_each_form(play, answer, body, charged):
    """The charge is read from each form of 302.AI's record."""
    [request], usd = play(OWN, OWN.charge(TICKET), answer(200, body))

    assert str(request.url) == "https://api.302.ai/dashboard/record/req-1"
    assert usd == charged


def test_a_submit_without_a_record_cannot_be_asked_about():
    assert list(OWN.charge(Ticket("302ai", "t1"))) == []
    assert isinstance(OWN, Billed)
    assert not isinstance(OWN, Findable)
