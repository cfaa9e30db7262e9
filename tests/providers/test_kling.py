"""Requests to Kling, and the meaning of its answers."""

import base64
import json
from dataclasses import replace
from decimal import Decimal

import jwt
import pytest

from manifests.catalogue import Route
from manifests.jobs import Job
from manifests.lifecycle import Refused, Rejected, Ticket
from tasks.providers.errors import (
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    RejectedError,
    ThrottledError,
)
from tasks.providers.kling import Kling
from tasks.providers.protocol import (
    Absent,
    AccountReport,
    Billed,
    Doubt,
    Findable,
    Finished,
    UnreadableError,
)

ACCESS, SECRET = "access-7d9f", "a-secret-of-thirty-two-bytes-5160"
KEY = f"{ACCESS}:{SECRET}"
NOW = 1_795_000_000.0
ROUTE = Route(
    name="kling/kling-2.5-turbo",
    endpoints={"720p": "kling-v2-5-turbo/std", "1080p": "kling-v2-5-turbo/pro"},
    prices_usd={("720p", 5): Decimal("0.28")},
    fps=24,
    takes_negative_prompt=True,
)
JOB = Job(image="i", prompt="slow dolly in", resolution="720p")
IMAGE = "https://i/1.jpg"
TICKET = Ticket("kling", "860012")
DOUBT = Doubt(mark="ref-1", submitted_at=NOW - 90, known=frozenset())
CLIPS = "https://api-singapore.klingai.com/v1/videos/image2video"


class Clock:
    """A clock that a test sets."""

    now = NOW

    def __call__(self) -> float:
        return self.now


PROVIDER = Kling(ROUTE, KEY, now=Clock())


def asking(step):
    """The request of each step, as the exchange would send it."""
    match step:
        case "submit":
            return next(PROVIDER.submit(JOB, IMAGE, 42, "ref-1"))
        case "poll":
            return next(PROVIDER.poll(TICKET))
        case "check":
            return next(PROVIDER.check())


def token_of(request):
    return request.headers["authorization"].removeprefix("Bearer ")


def test_a_submit_is_one_request_under_our_own_name(play, recorded):
    exchange = PROVIDER.submit(JOB, IMAGE, 42, "ref-1")

    [request], ticket = play(PROVIDER, exchange, recorded("kling", "submitted"))

    assert request.method == "POST"
    assert str(request.url) == CLIPS
    assert request.content == (
        b'{"model_name":"kling-v2-5-turbo","mode":"std","image":"https://i/1.jpg",'
        b'"prompt":"slow dolly in","duration":"5","external_task_id":"ref-1"}'
    )
    assert ticket == TICKET


@pytest.mark.parametrize("endpoint", ["pro", "/pro", "kling-v9/"])
def test_endpoint_without_model_is_refused(endpoint):
    """An endpoint that names no model, or no mode, closes the lane before it buys."""
    route = replace(ROUTE, endpoints={"720p": endpoint})

    with pytest.raises(MisconfiguredError) as caught:
        next(Kling(route, KEY).submit(JOB, IMAGE, 42, "ref-1"))

    place = '[routes."kling/kling-2.5-turbo".endpoints] 720p'
    assert str(caught.value).startswith(f"{place} = {endpoint!r}: must be MODEL/MODE")


def test_submit_has_mode_duration_and_callback():
    """A submit gives the mode, the duration, the negative prompt and the callback."""
    job = replace(JOB, resolution="1080p", duration_s=10, negative_prompt="blur")
    provider = Kling(ROUTE, KEY, "https://hooks.example/kling")

    asked = json.loads(next(provider.submit(job, IMAGE, 42, "ref-1")).content)

    assert asked["mode"] == "pro"
    assert asked["duration"] == "10"
    assert asked["negative_prompt"] == "blur"
    assert asked["callback_url"] == "https://hooks.example/kling"


def test_request_has_a_signed_token_and_no_secret():
    """A request carries a token that the secret signed, and never the secret."""
    request = asking("submit")

    claims = jwt.decode(
        token_of(request), SECRET, ["HS256"], options={"verify_exp": False}
    )
    head = jwt.get_unverified_header(token_of(request))
    assert claims == {"iss": ACCESS, "exp": int(NOW) + 1800, "nbf": int(NOW) - 5}
    assert head == {"alg": "HS256", "typ": "JWT"}
    assert SECRET not in str(request.headers.raw)


@pytest.mark.parametrize(
    ("later_s", "same"),
    [(0, True), (600, True), (1000, False), (1790, False), (90_000, False)],
)
def test_a_token_is_shown_for_half_its_life_and_no_longer(later_s, same):
    clock = Clock()
    provider = Kling(ROUTE, KEY, now=clock)
    first = token_of(next(provider.poll(TICKET)))

    clock.now += later_s
    second = token_of(next(provider.poll(TICKET)))

    assert (second == first) is same
    unproved = jwt.decode(second, options={"verify_signature": False})
    assert unproved["exp"] - clock.now >= 900


def test_clock_set_back_gets_a_valid_token():
    """After the clock is set back, the next token is already valid."""
    clock = Clock()
    provider = Kling(ROUTE, KEY, now=clock)
    next(provider.poll(TICKET))

    clock.now -= 3600
    token = token_of(next(provider.poll(TICKET)))

    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["nbf"] <= clock.now


@pytest.mark.parametrize("key", ["no-colon-5160", "", ":5160", "5160:"])
def test_key_that_is_no_pair_is_refused_unquoted(key):
    """A key that is no pair is refused, and the message does not quote it."""
    with pytest.raises(MisconfiguredError) as caught:
        next(Kling(ROUTE, key).submit(JOB, IMAGE, 42, "ref-1"))

    assert str(caught.value) == "kling: the key is not written ACCESS:SECRET"


def test_an_adapter_shows_neither_its_key_nor_its_token():
    request = asking("poll")

    assert "5160" not in repr(PROVIDER)
    assert token_of(request) not in repr(PROVIDER)


def test_adapters_are_equal_whatever_their_tokens():
    """Two adapters with one key are equal, whatever tokens they have made."""
    asking("poll")

    assert Kling(ROUTE, KEY) == PROVIDER


def test_a_still_goes_with_the_submit_as_bare_base64(still):
    with pytest.raises(StopIteration) as end:
        next(PROVIDER.upload(still))

    assert base64.b64decode(end.value.value, validate=True) == still.content


def test_a_still_over_ten_megabytes_is_never_sent(still):
    heavy = replace(still, content=bytes(10_000_001))

    with pytest.raises(RejectedError, match=r"still\.jpg has 10000001 bytes"):
        next(PROVIDER.upload(heavy))


def test_a_poll_asks_for_the_task_by_its_id(play, recorded):
    exchange = PROVIDER.poll(TICKET)

    [request], _ = play(PROVIDER, exchange, recorded("kling", "processing"))

    assert (request.method, str(request.url)) == ("GET", f"{CLIPS}/860012")
    assert request.content == b""


def test_an_id_cannot_lead_a_poll_astray():
    request = next(PROVIDER.poll(Ticket("kling", "../../account?x")))

    assert request.url.raw_path == b"/v1/videos/image2video/..%2F..%2Faccount%3Fx"


@pytest.mark.parametrize(
    ("name", "progress"),
    [
        ("submitted", None),
        ("processing", None),
        (
            "succeeded",
            Finished("https://v.example/clip.mp4", usd=Decimal("0.49")),
        ),
        ("failed", Refused("failed: Image pixel is invalid")),
        ("moderated", Rejected("failed: Failure to pass the risk control system")),
    ],
)
def test_poll_reads_recorded_answers(play, recorded, name, progress):
    """Each recorded answer to a poll is read as its documented state."""
    answers = recorded("kling", name)

    assert play(PROVIDER, PROVIDER.poll(TICKET), answers)[1] == progress


@pytest.mark.parametrize("reason", [None, ""])
def test_a_failure_without_a_reason_is_a_failure_and_free(play, answer, reason):
    task = {"task_id": "860012", "task_status": "failed", "task_status_msg": reason}

    progress = play(
        PROVIDER, PROVIDER.poll(TICKET), answer(200, {"code": 0, "data": task})
    )[1]

    assert progress == Refused("failed")


@pytest.mark.parametrize(
    "body",
    [
        {"code": 0, "data": {"task_status": "succeeded"}},
        {"code": 0, "data": {"task_status": "succeed", "task_result": {"videos": []}}},
        {"code": 0, "data": {"task_id": "860012"}},
        {"code": 0, "data": None},
        [1],
        b"<html>maintenance</html>",
        b"",
    ],
)
def test_senseless_poll_is_unreadable(play, answer, body):
    """A poll whose answer has no known form is unreadable, and the error quotes it."""
    with pytest.raises(UnreadableError, match="kling: cannot read"):
        play(PROVIDER, PROVIDER.poll(TICKET), answer(200, body))


def test_a_task_that_is_not_there_is_asked_for_again(play, recorded):
    with pytest.raises(NotFoundError):
        play(PROVIDER, PROVIDER.poll(TICKET), recorded("kling", "unknown"))


@pytest.mark.parametrize(
    "body",
    [
        {"code": 0, "message": "SUCCEED", "data": {"task_status": "submitted"}},
        {"code": 0, "message": "SUCCEED", "data": {"task_id": ""}},
        {"code": 0, "message": "SUCCEED"},
        b"<html>ok</html>",
        b"",
    ],
)
def test_good_answer_without_a_task_is_unreadable(play, answer, body):
    """A successful submit whose answer names no task is unreadable."""
    with pytest.raises(UnreadableError):
        play(PROVIDER, PROVIDER.submit(JOB, IMAGE, 42, "ref-1"), answer(200, body))


@pytest.mark.parametrize("status", [200, 400, 429, 504])
def test_answer_that_names_a_task_is_accepted(play, answer, status):
    """An answer that names a task proves acceptance, whatever its status or code."""
    response = answer(
        status, {"code": 5002, "message": "?", "data": {"task_id": "860012"}}
    )

    assert (
        play(PROVIDER, PROVIDER.submit(JOB, IMAGE, 42, "ref-1"), response)[1] == TICKET
    )


def test_kling_is_findable_and_billed():
    """Kling can be asked for a lost submit and for the charge of a task."""
    assert isinstance(PROVIDER, Findable)
    assert isinstance(PROVIDER, Billed)
    assert PROVIDER.mark(JOB, IMAGE, 42, "ref-1") == "ref-1"


@pytest.mark.parametrize("name", ["submitted", "succeeded", "failed"])
def test_a_submit_whose_answer_was_lost_is_found_by_our_name(play, recorded, name):
    exchange = PROVIDER.find(DOUBT)

    [request], found = play(PROVIDER, exchange, recorded("kling", name))

    assert (request.method, str(request.url)) == ("GET", f"{CLIPS}/ref-1")
    assert found == TICKET


def test_a_name_that_kling_does_not_know_was_never_accepted(play, recorded):
    found = play(PROVIDER, PROVIDER.find(DOUBT), recorded("kling", "unknown"))[1]

    assert found == Absent("kling: no task is called ref-1")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"<html>not found</html>"),
        (404, {"code": 1203, "message": "a gateway that speaks alike"}),
        (200, {"code": 0, "data": {"task_id": ""}}),
        (200, {"code": 0, "data": None}),
        (200, b"<html>maintenance</html>"),
    ],
)
def test_inconclusive_answer_leaves_the_doubt(play, answer, status, body):
    """An inconclusive answer leaves the submit in doubt."""
    try:
        found = play(PROVIDER, PROVIDER.find(DOUBT), answer(status, body))[1]
    except NotFoundError:  # to be asked again
        found = None

    assert found is None


def test_invalid_method_does_not_make_a_task_absent(play, answer):
    """Code 1202 is about the request's method, so it does not make a task absent."""
    body = {"code": 1202, "message": "invalid method", "request_id": "r"}

    with pytest.raises(InDoubtError):
        play(PROVIDER, PROVIDER.find(DOUBT), answer(404, body))


def test_task_past_retention_is_not_absent(play, recorded):
    """A task that Kling may have deleted by age is not taken for absent."""
    old = replace(DOUBT, submitted_at=NOW - 30 * 86_400)

    assert play(PROVIDER, PROVIDER.find(old), recorded("kling", "unknown"))[1] is None


def test_a_task_of_another_name_is_not_ours(play, recorded):
    other = replace(DOUBT, mark="860012")

    assert play(PROVIDER, PROVIDER.find(other), recorded("kling", "submitted"))[1] is (
        None
    )


def test_a_task_that_another_submit_made_is_not_found_twice(play, recorded):
    known = replace(DOUBT, known=frozenset({"860012"}))

    found = play(PROVIDER, PROVIDER.find(known), recorded("kling", "submitted"))[1]

    assert found is None


def test_a_name_that_is_taken_leaves_a_doubt_and_no_refusal(play, recorded):
    """The submit may have been sent twice: then the first was accepted, and is
    charged."""
    exchange = PROVIDER.submit(JOB, IMAGE, 42, "ref-1")

    with pytest.raises(InDoubtError, match="external_task_id is duplicated"):
        play(PROVIDER, exchange, recorded("kling", "taken"))


@pytest.mark.parametrize(
    ("task", "usd"),
    [
        ({"task_status": "succeed", "final_unit_deduction": "2"}, Decimal("0.28")),
        ({"task_status": "succeed", "final_unit_deduction": "3.5"}, Decimal("0.49")),
        ({"task_status": "succeed", "final_unit_deduction": 2}, Decimal("0.28")),
        ({"task_status": "failed", "final_unit_deduction": "0"}, Decimal(0)),
        ({"task_status": "failed"}, Decimal(0)),
        ({"task_status": "succeed"}, None),
        ({"task_status": "succeed", "final_unit_deduction": ""}, None),
        ({"task_status": "succeed", "final_unit_deduction": "0"}, None),
        ({"task_status": "succeed", "final_unit_deduction": "-2"}, None),
        ({"task_status": "succeed", "final_unit_deduction": "nan"}, None),
        ({"task_status": "succeed", "final_unit_deduction": "many"}, None),
        ({"task_status": "processing", "final_unit_deduction": "2"}, None),
        ({}, None),
    ],
)
def test_charge_is_read_from_the_units(play, answer, task, usd):
    """A charge is known only from a task's units; a failed task is free."""
    response = answer(200, {"code": 0, "data": task})

    assert play(PROVIDER, PROVIDER.charge(TICKET), response)[1] == usd


@pytest.mark.parametrize(("units", "usd"), [("7", Decimal("0.98")), ("0", None)])
def test_poll_states_the_charge_of_a_clip(play, answer, units, usd):
    """The units of a task that succeeded are its bill; without them, its price stands."""
    videos = {"videos": [{"url": "https://v.example/clip.mp4"}]}
    task = {
        "task_id": "860012",
        "task_status": "succeed",
        "task_result": videos,
        "final_unit_deduction": units,
    }

    response = answer(200, {"code": 0, "data": task})

    progress = play(PROVIDER, PROVIDER.poll(TICKET), response)[1]

    assert progress == Finished("https://v.example/clip.mp4", usd=usd)


def test_a_check_asks_something_that_needs_the_key(play, recorded):
    [request], found = play(PROVIDER, PROVIDER.check(), recorded("kling", "listed"))

    assert str(request.url) == f"{CLIPS}?pageNum=1&pageSize=1"
    assert "authorization" in request.headers
    assert found == AccountReport()


def test_a_check_with_a_bad_key_says_so(play, recorded):
    with pytest.raises(MisconfiguredError, match="ACCESS:SECRET"):
        play(PROVIDER, PROVIDER.check(), recorded("kling", "expired"))


def kling(code):
    return {"code": code, "message": "told", "request_id": "r"}


HTML = b"<html><body>nginx</body></html>"

VERDICTS = [
    ("submit", 401, kling(1000), MisconfiguredError),
    ("submit", 401, kling(1001), MisconfiguredError),
    ("submit", 401, kling(1002), MisconfiguredError),
    ("submit", 401, kling(1003), MisconfiguredError),
    ("submit", 401, kling(1004), MisconfiguredError),
    ("submit", 429, kling(1100), MisconfiguredError),
    ("submit", 429, kling(1101), MisconfiguredError),
    ("submit", 429, kling(1102), MisconfiguredError),
    ("submit", 400, kling(1102), MisconfiguredError),
    ("submit", 200, kling(1102), MisconfiguredError),
    ("submit", 403, kling(1103), MisconfiguredError),
    ("submit", 429, kling(1304), MisconfiguredError),
    ("submit", 404, kling(1202), MisconfiguredError),
    ("submit", 404, kling(1203), MisconfiguredError),
    ("submit", 400, kling(1200), RejectedError),
    ("submit", 400, kling(1201), RejectedError),
    ("submit", 400, kling(1300), RejectedError),
    ("submit", 400, kling(1301), RejectedError),
    ("submit", 429, kling(1302), ThrottledError),
    ("submit", 429, kling(1303), ThrottledError),
    ("submit", 200, kling(1303), ThrottledError),
    ("submit", 500, kling(5000), InDoubtError),
    ("submit", 503, kling(5001), InDoubtError),
    ("submit", 504, kling(5002), InDoubtError),
    ("submit", 200, kling(5000), InDoubtError),
    ("submit", 429, kling(1399), InDoubtError),
    ("submit", 500, kling(0), InDoubtError),
    ("submit", 429, {"code": "1303", "message": "as a text"}, InDoubtError),
    ("submit", 429, {"message": "from a proxy"}, InDoubtError),
    ("submit", 401, HTML, InDoubtError),
    ("submit", 429, HTML, InDoubtError),
    ("submit", 413, HTML, InDoubtError),
    ("submit", 502, HTML, InDoubtError),
    ("submit", 302, b"", InDoubtError),
    ("submit", 400, b'{"code":1201,"mess', InDoubtError),
    ("poll", 401, kling(1004), MisconfiguredError),
    ("poll", 404, HTML, NotFoundError),
    ("poll", 429, kling(1302), ThrottledError),
    ("poll", 429, HTML, ThrottledError),
    ("poll", 400, kling(1201), InDoubtError),
    ("poll", 400, kling(1301), InDoubtError),
    ("poll", 404, kling(1202), InDoubtError),
    ("poll", 500, kling(5000), InDoubtError),
    ("poll", 502, HTML, InDoubtError),
    ("check", 403, kling(1103), MisconfiguredError),
    ("check", 429, kling(1304), MisconfiguredError),
]


@pytest.mark.parametrize("row", VERDICTS)
def test_only_a_documented_refusal_proves_no_purchase(answer, row):
    """Only a refusal that the provider documents proves that nothing was bought."""
    step, status, body, kind = row
    response = answer(status, body)
    response.request = asking(step)

    assert type(PROVIDER.judge(response)) is kind


@pytest.mark.parametrize(
    ("code", "over"), [(1302, "rate"), (1303, "slots")], ids=["rate", "slots"]
)
def test_rate_and_concurrency_limits_are_distinct(answer, code, over):
    """The codes of a rate limit and a concurrency limit are distinguished."""
    response = answer(429, kling(code))
    response.request = asking("submit")

    assert PROVIDER.judge(response).over == over


@pytest.mark.parametrize("row", VERDICTS)
@pytest.mark.parametrize("what", ["key", "secret", "token"])
def test_no_verdict_repeats_the_key_or_a_token(answer, echoing, row, what):
    step, status, body, _ = row
    request = asking(step)
    echo = {"key": KEY, "secret": SECRET, "token": token_of(request)}[what]
    response = answer(status, echoing(body, echo))
    response.request = request

    verdict = PROVIDER.judge(response)

    assert verdict is not None
    assert SECRET not in repr(verdict)
    assert token_of(request) not in repr(verdict)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "out_of_credit",
            (
                "kling: HTTP 429: Account balance not enough: look after the account, "
                "or buy a resource pack, at https://app.klingai.com/global/dev"
            ),
        ),
        (
            "expired",
            (
                "kling: HTTP 401: check the key, which is written ACCESS:SECRET, "
                "and this machine's clock"
            ),
        ),
        ("over_the_slots", "kling: HTTP 429: parallel task over resource pack limit"),
    ],
)
def test_refusal_names_the_remedy(recorded, name, words):
    """The message about a refusal says what the user has to do."""
    response = recorded("kling", name)
    response.request = asking("submit")

    assert str(PROVIDER.judge(response)) == words
