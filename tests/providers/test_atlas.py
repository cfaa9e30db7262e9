"""Requests to Atlas Cloud, and the meaning of its answers."""

import json
from decimal import Decimal

import pytest

from manifests.catalogue import Route
from manifests.jobs import Job
from manifests.lifecycle import Refused, Rejected, Ticket
from tasks.providers.atlas import Atlas
from tasks.providers.errors import (
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    RejectedError,
    ThrottledError,
    UploadRefusedError,
)
from tasks.providers.protocol import AccountReport, Finished, UnreadableError

KEY = "at-secret-5160"
SPICY = "alibaba/wan-2.2-spicy/image-to-video"
ROUTE = Route(
    name="atlas/wan-2.2-spicy",
    endpoints={"480p": SPICY, "720p": SPICY},
    prices_usd={("480p", 5): Decimal("0.17")},
    fps=16,
)
JOB = Job(image="https://i/1.jpg", prompt="slow dolly in", resolution="720p")
IMAGE = "https://i/1.jpg"
TICKET = Ticket("atlas", "9f8e7d")
PROVIDER = Atlas(ROUTE, KEY)


def asking(step, still):
    """The request of each step, as the exchange would send it."""
    match step:
        case "submit":
            return next(PROVIDER.submit(JOB, IMAGE, 42, "ref-1"))
        case "upload":
            return next(PROVIDER.upload(still))
        case "poll":
            return next(PROVIDER.poll(TICKET))


def test_a_submit_is_one_request_with_the_model_in_a_flat_body(play, recorded):
    exchange = PROVIDER.submit(JOB, IMAGE, 42, "ref-1")

    [request], ticket = play(PROVIDER, exchange, recorded("atlas", "submitted"))

    assert request.method == "POST"
    assert str(request.url) == "https://api.atlascloud.ai/api/v1/model/generateVideo"
    assert dict(request.headers) == {
        "host": "api.atlascloud.ai",
        "authorization": f"Bearer {KEY}",
        "x-atlascloud-object-expiration-hours": "168",
        "x-atlascloud-request-retention-hours": "168",
        "content-type": "application/json",
        "content-length": str(len(request.content)),
    }
    assert request.content == (
        b'{"model":"alibaba/wan-2.2-spicy/image-to-video","image":"https://i/1.jpg",'
        b'"prompt":"slow dolly in","resolution":"720p","duration":5,"seed":42}'
    )
    assert ticket == TICKET


def test_an_upload_is_one_form_with_the_file(play, recorded, still):
    [request], url = play(
        PROVIDER, PROVIDER.upload(still), recorded("atlas", "uploaded")
    )

    kind, _, boundary = request.headers["content-type"].partition("; boundary=")
    assert request.method == "POST"
    assert str(request.url) == "https://api.atlascloud.ai/api/v1/model/uploadMedia"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert kind == "multipart/form-data"
    assert (
        request.read()
        == (
            f"--{boundary}\r\n"
            'Content-Disposition: form-data; name="file"; filename="still.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        ).encode()
        + still.content
        + f"\r\n--{boundary}--\r\n".encode()
    )
    assert url == "https://static.atlascloud.ai/up/still.jpg"


def test_a_poll_asks_for_the_prediction_by_its_id(play, recorded):
    [request], _ = play(PROVIDER, PROVIDER.poll(TICKET), recorded("atlas", "running"))

    assert request.method == "GET"
    assert (
        str(request.url) == "https://api.atlascloud.ai/api/v1/model/prediction/9f8e7d"
    )
    assert request.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    ("name", "progress"),
    [
        ("submitted", None),
        ("running", None),
        ("succeeded", Finished("https://static.atlascloud.ai/media/out.mp4")),
        ("failed", Refused("failed: GPU lost")),
        ("moderated", Rejected("failed: input rejected by content moderation")),
    ],
)
def test_poll_reads_recorded_answers(play, recorded, name, progress):
    """Each recorded answer to a poll is read as its documented state."""
    answers = recorded("atlas", name)

    assert play(PROVIDER, PROVIDER.poll(TICKET), answers)[1] == progress


@pytest.mark.parametrize(
    "outputs",
    [
        {"outputs": ["https://v/1.mp4", "https://v/2.mp4"]},
        {"outputs": [{"url": "https://v/1.mp4"}]},
        {"outputs": [{"video": "https://v/1.mp4"}]},
        {"outputs": [{"output": "https://v/1.mp4"}]},
        {"outputs": None, "output": "https://v/1.mp4"},
        {"outputs": [], "output": ["https://v/1.mp4"]},
        {"output": {"url": "https://v/1.mp4"}},
    ],
)
@pytest.mark.parametrize("word", ["completed", "succeeded"])
def test_clip_is_found_in_every_output_form(play, answer, word, outputs):
    """A clip is found in each form in which Atlas writes its outputs."""
    response = answer(200, {"code": 200, "data": {"status": word} | outputs})

    assert play(PROVIDER, PROVIDER.poll(TICKET), response)[1] == Finished(
        "https://v/1.mp4"
    )


@pytest.mark.parametrize(
    "word", ["created", "pending", "starting", "processing", "running"]
)
def test_every_word_for_not_yet_is_known(play, answer, word):
    response = answer(200, {"code": 200, "data": {"status": word}})

    assert play(PROVIDER, PROVIDER.poll(TICKET), response)[1] is None


@pytest.mark.parametrize(
    ("status", "task", "kind"),
    [
        (200, {"status": "timeout"}, Refused),
        (200, {"status": "cancelled", "error": None}, Refused),
        (200, {"status": "failed", "error_code": "1039"}, Rejected),
        (200, {"status": "failed", "error_code": None}, Refused),
        (500, {"status": "failed", "error": "out of memory"}, Refused),
        (400, {"status": "failed", "error_code": 1039}, Rejected),
        (404, {"status": "failed"}, Refused),
    ],
)
def test_ended_prediction_is_read_at_any_http_status(play, answer, status, task, kind):
    """A prediction that ended is read from the body, whatever the HTTP status."""
    response = answer(status, {"code": status, "msg": "?", "data": task})

    progress = play(PROVIDER, PROVIDER.poll(TICKET), response)[1]

    assert type(progress) is kind
    assert not isinstance(progress, Rejected) or not progress.charged


@pytest.mark.parametrize(
    "body",
    [
        {"code": 200, "data": {"status": "snoozed"}},
        {"code": 200, "data": {"status": "completed", "outputs": []}},
        {"code": 200, "data": {"status": "completed", "outputs": [{"img": "x"}]}},
        {"code": 200, "data": None},
        {"code": 200},
        b"<html>maintenance</html>",
        b'{"code": 20',
        b"",
    ],
)
def test_senseless_poll_is_unreadable(play, answer, body):
    """A poll whose answer has no known form is unreadable, and the error quotes it."""
    with pytest.raises(UnreadableError, match="atlas: cannot read"):
        play(PROVIDER, PROVIDER.poll(TICKET), answer(200, body))


@pytest.mark.parametrize(
    "body", [{"code": 200, "data": {"id": ""}}, {"code": 200}, b"<html>ok</html>", b""]
)
def test_good_answer_without_a_prediction_is_unreadable(play, answer, body):
    """A successful submit whose answer names no prediction is unreadable."""
    with pytest.raises(UnreadableError):
        play(PROVIDER, PROVIDER.submit(JOB, IMAGE, 42, "ref-1"), answer(200, body))


def test_answer_that_names_a_prediction_is_accepted(play, answer):
    """An answer that names a prediction proves acceptance, whatever else it says."""
    failed = {"id": "9f8e7d", "status": "failed", "error_code": 1039}
    response = answer(400, {"code": 400, "msg": "moderated", "data": failed})

    assert (
        play(PROVIDER, PROVIDER.submit(JOB, IMAGE, 42, "ref-1"), response)[1] == TICKET
    )


HTML = b"<html><body>nginx</body></html>"


def refusal(code, msg="no"):
    return {"code": code, "msg": msg, "request_id": "req-1", "data": None}


VERDICTS = [
    ("submit", 400, refusal(400), RejectedError),
    ("submit", 413, refusal(413), RejectedError),
    ("submit", 422, refusal(422), RejectedError),
    ("submit", 401, refusal(401), MisconfiguredError),
    ("submit", 402, refusal(402), MisconfiguredError),
    ("submit", 403, refusal(403), MisconfiguredError),
    ("submit", 404, refusal(404), MisconfiguredError),
    ("submit", 451, refusal(451), MisconfiguredError),
    ("submit", 429, refusal(429), ThrottledError),
    ("submit", 200, refusal(402), MisconfiguredError),
    ("submit", 200, refusal(429), ThrottledError),
    ("submit", 200, refusal(1039), RejectedError),
    ("submit", 200, refusal(500), InDoubtError),
    ("submit", 500, refusal(500), InDoubtError),
    ("submit", 503, refusal(503), InDoubtError),
    ("submit", 504, refusal(504), InDoubtError),
    ("submit", 502, HTML, InDoubtError),
    ("submit", 401, HTML, InDoubtError),
    ("submit", 429, HTML, InDoubtError),
    ("submit", 400, b"", InDoubtError),
    ("submit", 400, b'{"code":400,"m', InDoubtError),
    ("submit", 400, {"error": "from a proxy"}, InDoubtError),
    ("submit", 409, refusal(409), InDoubtError),
    ("submit", 308, b"", InDoubtError),
    ("upload", 401, refusal(401), MisconfiguredError),
    ("upload", 402, refusal(402), MisconfiguredError),
    ("upload", 451, refusal(451), MisconfiguredError),
    ("upload", 413, refusal(413), RejectedError),
    ("upload", 400, refusal(400), UploadRefusedError),
    ("upload", 404, refusal(404), NotFoundError),
    ("upload", 429, refusal(429), ThrottledError),
    ("upload", 500, HTML, InDoubtError),
    ("poll", 400, refusal(400), NotFoundError),
    ("poll", 400, HTML, NotFoundError),
    ("poll", 404, refusal(404), NotFoundError),
    ("poll", 404, b"", NotFoundError),
    ("poll", 200, refusal(404), NotFoundError),
    ("poll", 401, refusal(401), MisconfiguredError),
    ("poll", 403, refusal(403), MisconfiguredError),
    ("poll", 422, refusal(422), InDoubtError),
    ("poll", 429, HTML, ThrottledError),
    ("poll", 500, refusal(500), InDoubtError),
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
    ("name", "words"),
    [
        (
            "unauthorized",
            (
                "atlas: HTTP 401: check the key; "
                "a wrong URL path gets the same answer, so check base_url too"
            ),
        ),
        (
            "no_balance",
            (
                "atlas: HTTP 402: insufficient balance: "
                "top up the account at https://www.atlascloud.ai"
            ),
        ),
        ("too_many", "atlas: HTTP 429: rate limit reached"),
    ],
)
def test_refusal_names_the_remedy(recorded, still, name, words):
    """The message about a refusal says what the user has to do."""
    response = recorded("atlas", name)
    response.request = asking("submit", still)

    assert str(PROVIDER.judge(response)) == words


def test_webhook_url_goes_into_the_body():
    """The webhook's URL goes into the body, next to an otherwise equal request."""
    hook = "https://hooks.example/atlas"

    listened = json.loads(
        next(Atlas(ROUTE, KEY, hook).submit(JOB, IMAGE, 42, "r")).content
    )
    unsaid = json.loads(next(PROVIDER.submit(JOB, IMAGE, 42, "r")).content)

    assert listened == unsaid | {"webhook_url": hook}


CHECKED = ("no_such_prediction", "balance", "models", "price")


def test_a_check_proves_the_key_and_asks_for_each_price_in_full(play, recorded):
    answers = [recorded("atlas", name) for name in CHECKED]

    asked, report = play(PROVIDER, PROVIDER.check(), *answers)

    host = "https://api.atlascloud.ai"
    assert [(request.method, str(request.url)) for request in asked] == [
        ("GET", f"{host}/api/v1/model/prediction/nightreel-check"),
        ("GET", f"{host}/public/v1/balance"),
        ("GET", f"{host}/api/v1/models"),
        ("POST", f"{host}/api/v1/model/calculate"),
    ]
    assert asked[0].headers["authorization"] == f"Bearer {KEY}"
    assert json.loads(asked[3].content) == {
        "model": SPICY,
        "image": "https://example.com/still.jpg",
        "prompt": "slow pan",
        "resolution": "480p",
        "duration": 5,
        "seed": 1,
    }
    assert report == AccountReport(
        credit_usd=Decimal("12.34"),
        prices_usd={("480p", 5): Decimal("0.17")},
        has_model=True,
    )


def test_a_check_tells_a_bad_key(play, recorded):
    with pytest.raises(MisconfiguredError, match="check the key"):
        play(PROVIDER, PROVIDER.check(), recorded("atlas", "unauthorized"))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429])
def test_unpublished_facts_stay_unknown(play, recorded, answer, status):
    """A check leaves open what the provider does not publish."""
    unsaid = {"code": status, "msg": "no", "data": None}
    answers = recorded("atlas", "no_such_prediction"), *[answer(status, unsaid)] * 3

    assert play(PROVIDER, PROVIDER.check(), *answers)[1] == AccountReport()


def test_asking_for_a_price_is_no_submit(answer):
    exchange = PROVIDER.check()
    asked = [next(exchange)]
    asked += [exchange.send(answer(200, {})) for _ in range(3)]
    response = answer(500, {"code": 500, "msg": "oops"})
    response.request = asked[-1]

    assert asked[-1].method == "POST"
    assert type(PROVIDER.judge(response)) is InDoubtError
