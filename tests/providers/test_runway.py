"""Requests to Runway, and the meaning of its answers."""

import json
from decimal import Decimal

import pytest

from manifests.catalogue import Route
from manifests.jobs import Job
from manifests.lifecycle import Discarded, Refused, Rejected, Ticket
from tasks.providers.errors import (
    CappedError,
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    RejectedError,
    ThrottledError,
    UploadRefusedError,
)
from tasks.providers.protocol import (
    AccountReport,
    Billed,
    Findable,
    Finished,
    UnreadableError,
)
from tasks.providers.runway import Runway

KEY = "key_5160"
ROUTE = Route(
    name="runway/gen4-turbo",
    endpoints={"720p": "gen4_turbo"},
    prices_usd={("720p", 5): Decimal("0.25")},
    fps=24,
    aspect_ratios=frozenset({"16:9", "9:16", "1:1"}),
)
JOB = Job(
    image="https://i/1.jpg",
    prompt="slow dolly in",
    resolution="720p",
    aspect_ratio="16:9",
)
IMAGE = "runway://0f2b7d"
TICKET = Ticket("runway", "17f20503")
PROVIDER = Runway(ROUTE, KEY)
HTML = b"<html><body>nginx</body></html>"


def asking(step, still):
    """The request of each step, as the exchange would send it."""
    match step:
        case "submit":
            return next(PROVIDER.submit(JOB, IMAGE, 42, "ref-1"))
        case "upload":
            return next(PROVIDER.upload(still))
        case "poll":
            return next(PROVIDER.poll(TICKET))


def test_a_submit_is_one_request_that_names_the_version(play, recorded):
    exchange = PROVIDER.submit(JOB, IMAGE, 42, "ref-1")

    [request], ticket = play(PROVIDER, exchange, recorded("runway", "submitted"))

    assert request.method == "POST"
    assert str(request.url) == "https://api.dev.runwayml.com/v1/image_to_video"
    assert dict(request.headers) == {
        "host": "api.dev.runwayml.com",
        "authorization": f"Bearer {KEY}",
        "x-runway-version": "2024-11-06",
        "content-type": "application/json",
        "content-length": str(len(request.content)),
    }
    assert request.content == (
        b'{"model":"gen4_turbo","promptImage":"runway://0f2b7d",'
        b'"promptText":"slow dolly in","ratio":"1280:720","duration":5,"seed":42}'
    )
    assert ticket == TICKET


@pytest.mark.parametrize(
    ("aspect", "ratio"),
    [
        ("16:9", "1280:720"),
        ("9:16", "720:1280"),
        ("1:1", "960:960"),
        ("auto", "1280:720"),
    ],
)
def test_an_aspect_ratio_is_asked_for_in_pixels(aspect, ratio):
    job = Job(image="i", prompt="p", resolution="720p", aspect_ratio=aspect)

    request = next(PROVIDER.submit(job, IMAGE, 0, "ref-1"))

    assert json.loads(request.content)["ratio"] == ratio


@pytest.mark.parametrize("prompt", ["p" * 1000, "🎞" * 500])
def test_a_prompt_of_a_thousand_units_is_sent(prompt):
    job = Job(image="i", prompt=prompt, resolution="720p")

    request = next(PROVIDER.submit(job, IMAGE, 0, "ref-1"))

    assert json.loads(request.content)["promptText"] == prompt


@pytest.mark.parametrize(("prompt", "units"), [("p" * 1001, 1001), ("🎞" * 501, 1002)])
def test_long_prompt_is_rejected_unsent(prompt, units):
    """A prompt over 1000 UTF-16 units is rejected before anything is sent."""
    job = Job(image="i", prompt=prompt, resolution="720p")

    with pytest.raises(RejectedError, match=f"has {units} UTF-16 units, over 1000"):
        next(PROVIDER.submit(job, IMAGE, 0, "ref-1"))


def test_upload_posts_the_given_form_without_the_key(play, recorded, answer, still):
    """An upload posts the form from the ticket, without the key."""
    answers = recorded("runway", "upload_ticket"), answer(204)

    [ask, post], uri = play(PROVIDER, PROVIDER.upload(still), *answers)

    form = post.read()
    assert str(ask.url) == "https://api.dev.runwayml.com/v1/uploads"
    assert ask.content == b'{"filename":"still.jpg","type":"ephemeral"}'
    assert (post.method, str(post.url)) == ("POST", "https://store.example/uploads")
    assert "authorization" not in post.headers
    assert "x-runway-version" not in post.headers
    assert b'name="X-Amz-Signature"\r\n\r\n5160\r\n' in form
    # A store reads nothing after the file.
    assert form.index(b'name="policy"') < form.index(
        b'name="file"; filename="still.jpg"\r\nContent-Type: image/jpeg'
    )
    assert uri == "runway://0f2b7d"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 500])
def test_a_store_that_refuses_an_upload_closes_no_lane(
    play, recorded, answer, still, status
):
    answers = (
        recorded("runway", "upload_ticket"),
        answer(status, b"<Error><StringToSign>GET 5160</StringToSign></Error>"),
    )

    with pytest.raises(InDoubtError) as caught:
        play(PROVIDER, PROVIDER.upload(still), *answers)

    assert str(caught.value) == f"runway: HTTP {status} from its upload store"


def test_an_id_cannot_lead_a_poll_astray():
    request = next(PROVIDER.poll(Ticket("runway", "../organization?x")))

    assert request.url.raw_path == b"/v1/tasks/..%2Forganization%3Fx"


@pytest.mark.parametrize(
    ("name", "progress"),
    [
        ("pending", None),
        ("throttled", None),
        ("running", None),
        (
            "succeeded",
            Finished(
                "https://dnznrvs05pmza.cloudfront.net/clip.mp4?_jwt=5160",
                usd=Decimal("0.25"),
            ),
        ),
        (
            "moderated",
            Rejected(
                "FAILED: SAFETY.INPUT.TEXT: "
                "The input was rejected by content moderation.",
                charged=True,
            ),
        ),
        (
            "failed",
            Refused(
                "FAILED: INTERNAL.BAD_OUTPUT.CODE01: An unexpected error occurred."
            ),
        ),
        ("cancelled", Refused("CANCELLED")),
    ],
)
def test_poll_reads_recorded_answers(play, recorded, name, progress):
    """Each recorded answer to a poll is read as its documented state."""
    answers = recorded("runway", name)

    assert play(PROVIDER, PROVIDER.poll(TICKET), answers)[1] == progress


REFUNDED, CHARGED, UNSAID = {"credits": 0}, {"credits": 25}, None


@pytest.mark.parametrize(
    ("code", "cost", "outcome"),
    [
        ("SAFETY.INPUT.IMAGE", REFUNDED, Rejected("r", charged=False)),
        ("SAFETY.INPUT.IMAGE", CHARGED, Rejected("r", charged=True)),
        ("SAFETY.INPUT.IMAGE", UNSAID, Rejected("r", charged=True)),
        ("SAFETY.OUTPUT.VIDEO", REFUNDED, Rejected("r", charged=False)),
        ("SAFETY.OUTPUT.VIDEO", CHARGED, Rejected("r", charged=True)),
        ("SAFETY.OUTPUT.VIDEO", UNSAID, Rejected("r", charged=True)),
        ("INPUT_PREPROCESSING.SAFETY.TEXT", REFUNDED, Rejected("r", charged=False)),
        ("ASSET.INVALID", REFUNDED, Rejected("r", charged=False)),
        ("ASSET.INVALID", UNSAID, Rejected("r", charged=True)),
        ("INTERNAL", REFUNDED, Refused("r")),
        ("INTERNAL.BAD_OUTPUT.CODE01", CHARGED, Discarded("r")),
        ("INTERNAL", UNSAID, Discarded("r")),
        ("THIRD_PARTY.UNAVAILABLE", REFUNDED, Refused("r")),
        ("SOMETHING.NEW", UNSAID, Discarded("r")),
        (None, REFUNDED, Refused("r")),
        (None, UNSAID, Discarded("r")),
    ],
)
def test_cost_decides_who_pays_for_a_failure(play, answer, code, cost, outcome):
    """The cost of a failed task decides whether the failure is charged."""
    task = {"id": "1", "status": "FAILED", "failureCode": code, "failure": "oops"}
    response = answer(200, task if cost is None else task | {"cost": cost})

    progress = play(PROVIDER, PROVIDER.poll(TICKET), response)[1]

    assert type(progress) is type(outcome)
    assert not isinstance(outcome, Rejected) or progress.charged == outcome.charged


@pytest.mark.parametrize(
    "body",
    [
        {"id": "1", "status": "WARMING_UP"},
        {"id": "1", "status": "SUCCEEDED", "output": []},
        {"id": "1", "status": "SUCCEEDED"},
        {"id": "1"},
        [1, 2],
        HTML,
        b'{"status": "SUCC',
        b"",
    ],
)
def test_senseless_poll_is_unreadable(play, answer, body):
    """A poll whose answer has no known form is unreadable, and the error quotes it."""
    with pytest.raises(UnreadableError, match="runway: cannot read"):
        play(PROVIDER, PROVIDER.poll(TICKET), answer(200, body))


@pytest.mark.parametrize(
    "body", [{"estimatedCost": {}}, {"id": ""}, HTML, b"", b"[" * 9]
)
def test_good_answer_without_a_task_is_unreadable(play, answer, body):
    """A successful submit whose answer names no task is unreadable."""
    with pytest.raises(UnreadableError):
        play(PROVIDER, PROVIDER.submit(JOB, IMAGE, 42, "ref-1"), answer(200, body))


@pytest.mark.parametrize("status", [200, 400, 429, 500])
def test_answer_that_names_a_task_is_accepted(play, answer, status):
    """An answer that names a task proves acceptance, whatever its status or error."""
    response = answer(status, {"id": "17f20503", "error": "?"})

    assert (
        play(PROVIDER, PROVIDER.submit(JOB, IMAGE, 42, "ref-1"), response)[1] == TICKET
    )


@pytest.mark.parametrize(
    ("name", "usd"),
    [
        ("succeeded", Decimal("0.25")),
        ("moderated", Decimal("0.25")),
        ("failed", Decimal(0)),
        ("running", None),
    ],
)
def test_cost_is_known_once_the_task_has_ended(play, recorded, name, usd):
    """The cost of a task is known once the task has ended."""
    exchange = PROVIDER.charge(TICKET)

    [request], charged = play(PROVIDER, exchange, recorded("runway", name))

    assert (request.method, request.url.path) == ("GET", "/v1/tasks/17f20503")
    assert charged == usd


def test_runway_is_billed_and_not_findable():
    """Runway can be asked for a charge, but not for a lost submit."""
    assert isinstance(PROVIDER, Billed)
    assert not isinstance(PROVIDER, Findable)


def test_a_check_reads_the_balance_and_the_models_limits(play, recorded):
    exchange = PROVIDER.check()

    [request], checkup = play(PROVIDER, exchange, recorded("runway", "organization"))

    assert (request.method, request.url.path) == ("GET", "/v1/organization")
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert checkup == AccountReport(
        credit_usd=Decimal("12.50"), slots=1, submits_per_day=50, has_model=True
    )


def test_a_check_sees_that_a_model_is_gone(play, recorded):
    old = Runway(
        Route(
            name="runway/gen3a-turbo",
            endpoints={"720p": "gen3a_turbo"},
            prices_usd={},
            fps=24,
        ),
        KEY,
    )

    checkup = play(old, old.check(), recorded("runway", "organization"))[1]

    assert checkup.has_model is False
    assert checkup.slots is None


def test_a_model_without_a_limit_has_none(play, answer):
    models = {"gen4_turbo": {"maxConcurrentGenerations": None}}
    response = answer(
        200, {"creditBalance": 0, "tier": {"models": models}, "usage": {}}
    )

    checkup = play(PROVIDER, PROVIDER.check(), response)[1]

    assert checkup == AccountReport(credit_usd=Decimal(0), has_model=True)


@pytest.mark.parametrize("body", [{"creditBalance": None}, {}, HTML])
def test_senseless_check_is_unreadable(play, answer, body):
    """An answer to a check without a known form is unreadable."""
    with pytest.raises(UnreadableError):
        play(PROVIDER, PROVIDER.check(), answer(200, body))


VERDICTS = [
    ("submit", 401, {"error": "bad key"}, MisconfiguredError),
    ("submit", 404, {"error": "not found"}, MisconfiguredError),
    ("submit", 400, {"error": "Validation of body failed"}, RejectedError),
    (
        "submit",
        400,
        {"error": "You do not have enough credits to run this task."},
        MisconfiguredError,
    ),
    ("submit", 429, {"error": "Your daily task limit has been reached."}, CappedError),
    ("submit", 429, {"error": "Too many requests."}, ThrottledError),
    ("submit", 402, {"error": "payment"}, InDoubtError),
    ("submit", 403, {"error": "forbidden"}, InDoubtError),
    ("submit", 405, {"error": "method"}, InDoubtError),
    ("submit", 500, {"error": "oops"}, InDoubtError),
    ("submit", 502, HTML, InDoubtError),
    ("submit", 503, {"error": "load"}, InDoubtError),
    ("submit", 504, b"", InDoubtError),
    ("submit", 400, HTML, InDoubtError),
    ("submit", 401, HTML, InDoubtError),
    ("submit", 429, HTML, InDoubtError),
    ("submit", 400, {"message": "from a proxy"}, InDoubtError),
    ("submit", 400, ["error"], InDoubtError),
    ("submit", 302, b"", InDoubtError),
    ("upload", 401, {"error": "bad key"}, MisconfiguredError),
    ("upload", 400, {"error": "bad"}, UploadRefusedError),
    ("upload", 404, {"error": "bad"}, NotFoundError),
    ("upload", 429, HTML, ThrottledError),
    ("poll", 400, {"error": "bad"}, InDoubtError),
    ("poll", 401, {"error": "bad key"}, MisconfiguredError),
    ("poll", 404, {"error": "Could not find Task"}, NotFoundError),
    ("poll", 404, HTML, NotFoundError),
    ("poll", 429, {"error": "Too many requests."}, ThrottledError),
    ("poll", 502, HTML, InDoubtError),
]


@pytest.mark.parametrize("row", VERDICTS)
def test_only_a_documented_refusal_proves_no_purchase(answer, still, row):
    """Only a refusal that the provider documents proves that nothing was bought."""
    step, status, body, kind = row
    response = answer(status, body)
    response.request = asking(step, still)

    assert type(PROVIDER.judge(response)) is kind


@pytest.mark.parametrize("row", VERDICTS)
def test_no_verdict_repeats_the_key(answer, still, echoing, row):
    step, status, body, _ = row
    response = answer(status, echoing(body, KEY))
    response.request = asking(step, still)

    verdict = PROVIDER.judge(response)

    assert verdict is not None
    assert KEY not in str(verdict)
    assert KEY not in repr(verdict)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("bad_key", MisconfiguredError, "runway: HTTP 401: check the key"),
        (
            "out_of_credit",
            MisconfiguredError,
            "buy credits at https://dev.runwayml.com",
        ),
        ("no_such_model", MisconfiguredError, "check the model's id"),
        ("invalid", RejectedError, "Validation of body failed"),
        ("day_used_up", CappedError, "Your daily task limit has been reached."),
        ("too_many", ThrottledError, "Too many requests."),
    ],
)
def test_refusal_is_recognized_by_its_words(recorded, still, name, kind, words):
    """A refusal is classified by the words of the provider's message."""
    response = recorded("runway", name)
    response.request = asking("submit", still)

    verdict = PROVIDER.judge(response)

    assert type(verdict) is kind
    assert words in str(verdict)
