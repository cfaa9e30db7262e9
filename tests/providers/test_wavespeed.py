"""Requests to WaveSpeed, and the meaning of its answers."""

import json
from decimal import Decimal

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
    UploadRefusedError,
)
from tasks.providers.protocol import (
    Absent,
    AccountReport,
    Doubt,
    Findable,
    Finished,
    Unproven,
    UnreadableError,
)
from tasks.providers.wavespeed import WaveSpeed

KEY = "ws-secret-5160"
SPICY = "wavespeed-ai/wan-2.2-spicy/image-to-video"
ROUTE = Route(
    name="wavespeed/wan-2.2-spicy",
    endpoints={"480p": SPICY, "720p": SPICY},
    prices_usd={("480p", 5): Decimal("0.15")},
    fps=16,
)
JOB = Job(image="https://i/1.jpg", prompt="slow dolly in", negative_prompt="blur")
IMAGE = "https://i/1.jpg?X-Amz-Signature=77"
TICKET = Ticket("wavespeed", "a1b2c3")
PROVIDER = WaveSpeed(ROUTE, KEY)


def asking(step, still):
    """The request of each step, as the exchange would send it."""
    match step:
        case "submit":
            return next(PROVIDER.submit(JOB, IMAGE, 42, "ref-1"))
        case "upload":
            return next(PROVIDER.upload(still))
        case "poll":
            return next(PROVIDER.poll(TICKET))


def test_a_submit_is_one_request_to_the_model_with_a_flat_body(play, recorded):
    exchange = PROVIDER.submit(JOB, IMAGE, 42, "ref-1")

    [request], ticket = play(PROVIDER, exchange, recorded("wavespeed", "submitted"))

    assert request.method == "POST"
    assert str(request.url) == f"https://api.wavespeed.ai/api/v3/{SPICY}"
    assert dict(request.headers) == {
        "host": "api.wavespeed.ai",
        "authorization": f"Bearer {KEY}",
        "content-type": "application/json",
        "content-length": str(len(request.content)),
    }
    assert request.content == (
        b'{"image":"https://i/1.jpg?X-Amz-Signature=77","prompt":"slow dolly in",'
        b'"resolution":"480p","duration":5,"seed":42}'
    )
    assert ticket == TICKET


def test_a_negative_prompt_goes_only_where_the_route_takes_one():
    route = Route(
        name="wavespeed/wan-2.2",
        endpoints={"720p": "wavespeed-ai/wan-2.2/image-to-video"},
        prices_usd={},
        fps=16,
        takes_negative_prompt=True,
    )
    job = Job(image="i", prompt="p", negative_prompt="blur", resolution="720p")
    plain = Job(image="i", prompt="p", resolution="720p")

    body = json.loads(
        next(WaveSpeed(route, KEY).submit(job, IMAGE, 1, "ref-1")).content
    )
    unsaid = json.loads(
        next(WaveSpeed(route, KEY).submit(plain, IMAGE, 1, "ref-1")).content
    )

    assert body["negative_prompt"] == "blur"
    assert body["resolution"] == "720p"
    assert "negative_prompt" not in unsaid


def test_endpoint_of_one_resolution_gets_no_resolution():
    """A request to an endpoint for one resolution has no resolution parameter."""
    route = Route(
        name="wavespeed/wan-2.1",
        endpoints={
            "480p": "wavespeed-ai/wan-2.1/i2v-480p",
            "720p": "wavespeed-ai/wan-2.1/i2v-720p",
        },
        prices_usd={},
        fps=16,
    )
    job = Job(image="i", prompt="p", resolution="720p")

    request = next(WaveSpeed(route, KEY).submit(job, IMAGE, 0, "ref-1"))

    assert request.url.path == "/api/v3/wavespeed-ai/wan-2.1/i2v-720p"
    assert json.loads(request.content) == {
        "image": IMAGE,
        "prompt": "p",
        "duration": 5,
        "seed": 0,
    }


def test_webhook_url_goes_into_the_query_only():
    """The webhook's URL goes into the query; the body stays the same."""
    hook = "https://hooks.example/ws?batch=a&b"

    listened = next(WaveSpeed(ROUTE, KEY, hook).submit(JOB, IMAGE, 42, "ref-1"))

    assert dict(listened.url.params) == {"webhook": hook}
    assert listened.url.path == f"/api/v3/{SPICY}"
    assert listened.content == next(PROVIDER.submit(JOB, IMAGE, 42, "ref-1")).content


def test_upload_uses_the_returned_headers_and_no_key(play, recorded, answer, still):
    """An upload sends the still with the headers of the answer, without the key."""
    answers = recorded("wavespeed", "upload_ticket"), answer(200)

    [ask, put], url = play(PROVIDER, PROVIDER.upload(still), *answers)

    assert ask.method == "POST"
    assert str(ask.url) == "https://api.wavespeed.ai/api/v3/media/uploads"
    assert ask.headers["authorization"] == f"Bearer {KEY}"
    assert ask.content == (
        b'{"filename":"still.jpg","size":3,"content_type":"image/jpeg"}'
    )
    assert put.method == "PUT"
    assert str(put.url) == "https://store.example/u/still.jpg?X-Amz-Signature=5160"
    assert dict(put.headers) == {
        "host": "store.example",
        "content-type": "image/jpeg",
        "x-amz-acl": "private",
        "content-length": "3",
    }
    assert put.content == still.content
    assert url == "https://media.wavespeed.ai/u/still.jpg"


@pytest.mark.parametrize("status", [400, 403, 500])
def test_a_store_that_refuses_an_upload_closes_no_lane(
    play, recorded, answer, still, status
):
    answers = (
        recorded("wavespeed", "upload_ticket"),
        answer(status, b"<Error><StringToSign>GET 5160</StringToSign></Error>"),
    )

    with pytest.raises(InDoubtError) as caught:
        play(PROVIDER, PROVIDER.upload(still), *answers)

    assert str(caught.value) == f"wavespeed: HTTP {status} from its upload store"


def test_a_poll_asks_for_the_task_by_its_id(play, recorded):
    exchange = PROVIDER.poll(TICKET)

    [request], _ = play(PROVIDER, exchange, recorded("wavespeed", "running"))

    assert request.method == "GET"
    assert (
        str(request.url) == "https://api.wavespeed.ai/api/v3/predictions/a1b2c3/result"
    )
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.content == b""


def test_an_id_cannot_lead_a_poll_astray():
    request = next(PROVIDER.poll(Ticket("wavespeed", "../../balance?x")))

    assert request.url.raw_path == (b"/api/v3/predictions/..%2F..%2Fbalance%3Fx/result")


@pytest.mark.parametrize(
    ("name", "progress"),
    [
        ("submitted", None),
        ("running", None),
        (
            "succeeded",
            Finished("https://d2p7pge43lyniu.cloudfront.net/output/clip.mp4"),
        ),
        (
            "failed",
            Refused("failed: Request failed. Please check your input parameters"),
        ),
        (
            "moderated",
            Rejected("failed: The content contains sensitive information."),
        ),
        ("failed_without_envelope", Rejected("failed: Error description")),
    ],
)
def test_poll_reads_recorded_answers(play, recorded, name, progress):
    """Each recorded answer to a poll is read as its documented state."""
    answers = recorded("wavespeed", name)

    assert play(PROVIDER, PROVIDER.poll(TICKET), answers)[1] == progress


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ({"status": "failed", "code": 1400}, Rejected),
        ({"status": "failed", "code": 1401}, Rejected),
        ({"status": "failed", "code": 1402}, Refused),
        ({"status": "failed", "code": 1405}, Refused),
        ({"status": "failed", "code": 5000}, Refused),
        ({"status": "failed", "code": 5003}, Refused),
        ({"status": "failed", "has_nsfw_contents": [True]}, Rejected),
        ({"status": "failed", "has_nsfw_contents": [False]}, Refused),
        ({"status": "failed", "has_nsfw_contents": None}, Refused),
        ({"status": "failed", "error": None}, Refused),
        ({"status": "cancelled"}, Refused),
        ({"status": "timeout"}, Refused),
        ({"status": "deleted"}, Refused),
        ({"status": "failed", "code": 5004}, type(None)),
        ({"status": "processing", "error": "Sync mode timed out"}, type(None)),
        ({"status": "failed", "error": "Sync mode timed out."}, type(None)),
    ],
)
def test_a_task_that_ended_is_free_and_only_bad_input_is_final(
    play, answer, task, kind
):
    response = answer(200, {"code": 200, "message": "success", "data": task})

    progress = play(PROVIDER, PROVIDER.poll(TICKET), response)[1]

    assert type(progress) is kind
    assert not isinstance(progress, Rejected) or not progress.charged


def test_reason_is_one_short_line(play, answer):
    """A reason is one line with the provider's words, and no more."""
    silent = answer(200, {"data": {"status": "deleted", "error": "", "model": "m"}})
    wordy = answer(200, {"data": {"status": "failed", "error": "out\n  of luck"}})

    reasons = [
        play(PROVIDER, PROVIDER.poll(TICKET), each)[1].reason
        for each in (silent, wordy)
    ]

    assert reasons == ["deleted", "failed: out of luck"]


@pytest.mark.parametrize(
    "body",
    [
        {"code": 200, "data": {"id": "a1b2c3", "status": "snoozed"}},
        {"code": 200, "data": {"id": "a1b2c3", "status": "completed", "outputs": []}},
        {"code": 200, "data": {"id": "a1b2c3"}},
        {"code": 200, "data": None},
        [1, 2],
        b"<html>maintenance</html>",
        b'{"code": 20',
        b"",
    ],
)
def test_senseless_poll_is_unreadable(play, answer, body):
    """A poll whose answer has no known form is unreadable, and the error quotes it."""
    with pytest.raises(UnreadableError, match="wavespeed: cannot read"):
        play(PROVIDER, PROVIDER.poll(TICKET), answer(200, body))


def test_an_unknown_word_is_quoted_but_not_at_length(play, answer):
    response = answer(200, {"data": {"status": "snoozed", "error": "z" * 9_999}})

    with pytest.raises(UnreadableError, match="snoozed") as caught:
        play(PROVIDER, PROVIDER.poll(TICKET), response)

    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "body",
    [
        {"code": 200, "message": "success", "data": {"status": "created"}},
        {"code": 200, "message": "success", "data": {"id": ""}},
        {"code": 200, "message": "success"},
        b"<html>ok</html>",
        b"",
        b'{"code":200,',
        b"[" * 100_000,
    ],
)
def test_good_answer_without_a_task_is_unreadable(play, answer, body):
    """A successful submit whose answer names no task is unreadable."""
    with pytest.raises(UnreadableError):
        play(PROVIDER, PROVIDER.submit(JOB, IMAGE, 42, "ref-1"), answer(200, body))


@pytest.mark.parametrize("status", [200, 400, 429, 500, 504])
def test_answer_that_names_a_task_is_accepted(play, answer, status):
    """An answer that names a task proves acceptance, whatever its status or code."""
    response = answer(
        status, {"code": status, "message": "?", "data": {"id": "a1b2c3"}}
    )

    assert (
        play(PROVIDER, PROVIDER.submit(JOB, IMAGE, 42, "ref-1"), response)[1] == TICKET
    )


HTML = b"<html><body>nginx</body></html>"

VERDICTS = [
    ("submit", 401, {"code": 401, "message": "unauthorized"}, MisconfiguredError),
    ("submit", 402, {"code": 402, "message": "payment"}, MisconfiguredError),
    ("submit", 403, {"code": 403, "message": "forbidden"}, MisconfiguredError),
    ("submit", 404, {"code": 404, "message": "no model"}, MisconfiguredError),
    ("submit", 400, {"code": 400, "message": "bad size"}, RejectedError),
    ("submit", 413, {"code": 413, "message": "too large"}, RejectedError),
    ("submit", 422, {"code": 422, "message": "no"}, RejectedError),
    ("submit", 429, {"code": 429, "message": "Too Many Requests"}, ThrottledError),
    ("submit", 200, {"code": 400, "message": "bad size"}, RejectedError),
    ("submit", 200, {"code": 401, "message": "who?"}, MisconfiguredError),
    ("submit", 200, {"code": 429, "message": "slow down"}, ThrottledError),
    ("submit", 200, {"code": 500, "message": "oops"}, InDoubtError),
    ("submit", 200, {"code": 1200, "message": "moderated"}, RejectedError),
    ("submit", 200, {"code": 1401, "message": "duration"}, RejectedError),
    ("submit", 200, {"code": 5004, "message": "timeout"}, InDoubtError),
    (
        "submit",
        400,
        {"code": 400, "message": "Insufficient credits."},
        MisconfiguredError,
    ),
    (
        "submit",
        402,
        {"code": 402, "message": "Insufficient balance"},
        MisconfiguredError,
    ),
    ("submit", 403, {"code": 403, "message": "insufficient funds"}, MisconfiguredError),
    (
        "submit",
        200,
        {"code": 400, "message": "Insufficient credits"},
        MisconfiguredError,
    ),
    ("submit", 500, {"code": 500, "message": "oops"}, InDoubtError),
    ("submit", 502, HTML, InDoubtError),
    ("submit", 503, b"", InDoubtError),
    ("submit", 504, {"code": 504, "message": "timeout"}, InDoubtError),
    ("submit", 400, HTML, InDoubtError),
    ("submit", 401, HTML, InDoubtError),
    ("submit", 403, HTML, InDoubtError),
    ("submit", 429, HTML, InDoubtError),
    ("submit", 429, b"", InDoubtError),
    ("submit", 400, b'{"code":400,"mess', InDoubtError),
    ("submit", 400, {"error": "from a proxy"}, InDoubtError),
    ("submit", 400, ["message"], InDoubtError),
    ("submit", 408, {"code": 408, "message": "timeout"}, InDoubtError),
    ("submit", 409, {"code": 409, "message": "conflict"}, InDoubtError),
    ("submit", 302, b"", InDoubtError),
    ("upload", 401, {"code": 401, "message": "unauthorized"}, MisconfiguredError),
    ("upload", 413, {"code": 413, "message": "too large"}, RejectedError),
    ("upload", 400, {"code": 400, "message": "bad"}, UploadRefusedError),
    ("upload", 404, {"code": 404, "message": "bad"}, NotFoundError),
    ("upload", 429, HTML, ThrottledError),
    ("upload", 500, HTML, InDoubtError),
    ("upload", 200, {"code": 400, "message": "bad"}, UploadRefusedError),
    ("poll", 400, {"code": 400, "message": "bad"}, InDoubtError),
    ("poll", 401, {"code": 401, "message": "unauthorized"}, MisconfiguredError),
    ("poll", 404, {"code": 404, "message": "not found"}, NotFoundError),
    ("poll", 404, HTML, NotFoundError),
    ("poll", 422, {"code": 422, "message": "bad"}, InDoubtError),
    ("poll", 429, {"code": 429, "message": "slow down"}, ThrottledError),
    ("poll", 429, HTML, ThrottledError),
    ("poll", 502, HTML, InDoubtError),
    ("poll", 200, {"code": 500, "message": "oops"}, InDoubtError),
    ("poll", 200, {"code": 5004, "message": "timeout"}, InDoubtError),
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


def test_empty_account_asks_for_a_top_up(still, recorded):
    """The message about an empty account says to top it up."""
    response = recorded("wavespeed", "out_of_credit")
    response.request = asking("submit", still)

    assert str(PROVIDER.judge(response)) == (
        "wavespeed: HTTP 400: Insufficient credits. Please top up.: "
        "top up the account at https://wavespeed.ai"
    )


def test_a_refused_key_is_not_quoted_but_explained(answer, still):
    response = answer(401, {"code": 401, "message": "bad token"})
    response.request = asking("submit", still)

    assert str(PROVIDER.judge(response)) == (
        "wavespeed: HTTP 401: check the key; "
        "a new one sleeps until the account's first top-up"
    )


CHECKED = ("balance", "models", "price")


def test_a_check_asks_for_credit_model_and_each_price_in_full(play, recorded):
    answers = [recorded("wavespeed", name) for name in CHECKED]

    asked, report = play(PROVIDER, PROVIDER.check(), *answers)

    api = "https://api.wavespeed.ai/api/v3"
    assert [(request.method, str(request.url)) for request in asked] == [
        ("GET", f"{api}/balance"),
        ("GET", f"{api}/models"),
        ("POST", f"{api}/model/price"),
    ]
    assert json.loads(asked[2].content) == {
        "model_id": SPICY,
        "inputs": {
            "image": "https://example.com/still.jpg",
            "prompt": "slow pan",
            "resolution": "480p",
            "duration": 5,
            "seed": 1,
        },
    }
    assert report == AccountReport(
        credit_usd=Decimal("12.34"),
        prices_usd={("480p", 5): Decimal("0.12")},
        has_model=True,
    )


def test_a_check_says_that_a_model_is_gone(play, recorded, answer):
    listed = answer(200, {"code": 200, "data": [{"model_id": "another"}, "odd"]})
    answers = recorded("wavespeed", "balance"), listed, recorded("wavespeed", "price")

    assert play(PROVIDER, PROVIDER.check(), *answers)[1].has_model is False


@pytest.mark.parametrize("status", [400, 404, 422])
def test_unpublished_facts_stay_unknown(play, recorded, answer, status):
    """A check leaves open what the provider does not publish."""
    unsaid = {"code": status, "message": "no such page"}
    answers = recorded("wavespeed", "balance"), *[answer(status, unsaid)] * 2

    assert play(PROVIDER, PROVIDER.check(), *answers)[1] == AccountReport(
        credit_usd=Decimal("12.34")
    )


@pytest.mark.parametrize(
    ("data", "price"),
    [
        ({"price": 0.15}, Decimal("0.15")),
        ({"price": "0.15", "currency": "usd"}, Decimal("0.15")),
        ({"price": 1.1, "currency": "CNY"}, None),
        ({"price": 0}, None),
        ({"price": None}, None),
        ({}, None),
        (None, None),
    ],
)
def test_a_price_is_believed_in_dollars_only(play, recorded, answer, data, price):
    answers = [recorded("wavespeed", name) for name in CHECKED[:2]]
    response = answer(200, {"code": 200, "data": data})

    checkup = play(PROVIDER, PROVIDER.check(), *answers, response)[1]

    assert checkup.prices_usd.get(("480p", 5)) == price


def test_a_check_tells_a_bad_key(play, answer):
    response = answer(401, {"code": 401, "message": "unauthorized"})

    with pytest.raises(MisconfiguredError, match="check the key"):
        play(PROVIDER, PROVIDER.check(), response)


def test_a_question_that_is_posted_is_no_submit(answer):
    asked = next(PROVIDER.find(DOUBT))
    response = answer(400, {"code": 400, "message": "bad page"})
    response.request = asked

    assert asked.method == "POST"
    assert type(PROVIDER.judge(response)) is InDoubtError


MARK = PROVIDER.mark(JOB, IMAGE, 42, "ref-1")
DOUBT = Doubt(mark=MARK, submitted_at=1795341600.0, known=frozenset())


def test_a_mark_is_of_all_that_is_sent_and_shows_nothing_of_it():
    others = [
        PROVIDER.mark(JOB, IMAGE, 43, "ref-1"),
        PROVIDER.mark(JOB, "https://i/2.jpg", 42, "ref-1"),
        PROVIDER.mark(Job(image="i", prompt="other"), IMAGE, 42, "ref-1"),
    ]

    assert isinstance(PROVIDER, Findable)
    assert len({MARK, *others}) == 4
    assert len(MARK) == 32
    assert PROVIDER.mark(JOB, IMAGE, 42, "ref-2") == MARK


def test_a_doubt_is_looked_for_about_the_time_of_its_submit(play, recorded):
    exchange = PROVIDER.find(DOUBT)

    [request], _ = play(PROVIDER, exchange, recorded("wavespeed", "empty_listing"))

    assert str(request.url) == "https://api.wavespeed.ai/api/v3/predictions"
    assert json.loads(request.content) == {
        "page": 1,
        "page_size": 100,
        "created_after": "2026-11-22T09:45:00Z",
        "created_before": "2026-11-22T10:15:00Z",
    }


def test_wrong_clock_widens_the_listing(play, recorded):
    """A clock 2 hours ahead of the answer's date lists from 2 hours earlier too."""
    response = recorded("wavespeed", "empty_listing")
    response.headers["date"] = "Sun, 22 Nov 2026 08:00:00 GMT"
    wrong = WaveSpeed(ROUTE, KEY, now=lambda: DOUBT.submitted_at)

    requests, _ = play(wrong, wrong.find(DOUBT), response, response)

    asked = [json.loads(request.content) for request in requests]
    assert [one["created_after"] for one in asked] == [
        "2026-11-22T09:45:00Z",
        "2026-11-22T07:45:00Z",
    ]
    assert {one["created_before"] for one in asked} == {"2026-11-22T10:15:00Z"}


def test_a_doubt_is_found_by_the_request_that_an_item_repeats(play, recorded):
    response = recorded("wavespeed", "listing_with_input")

    assert play(PROVIDER, PROVIDER.find(DOUBT), response)[1] == TICKET


def test_known_prediction_is_not_found_again(play, recorded):
    """A prediction that is on our record already is not found a second time."""
    ids = frozenset({"a1b2c3", "other"})
    ours = Doubt(mark=MARK, submitted_at=0.0, known=ids, near=frozenset({"a1b2c3"}))
    pages = (
        recorded("wavespeed", "listing_with_input"),
        recorded("wavespeed", "empty_listing"),
    )

    assert type(play(PROVIDER, PROVIDER.find(ours), *pages)[1]) is Absent


def test_listing_without_a_known_task_proves_nothing(play, recorded):
    """A listing without any task that we know proves nothing about a doubt."""
    response = recorded("wavespeed", "empty_listing")

    found = play(PROVIDER, PROVIDER.find(DOUBT), response)[1]

    assert type(found) is Unproven


def listing(answer, *ids):
    """A page of a listing with these tasks."""
    return answer(200, {"code": 200, "data": {"items": [{"id": i} for i in ids]}})


def ours(near, *, enclosed=False):
    """A doubt beside these submits of ours, which were accepted near its time."""
    ids = frozenset(near)
    return Doubt(mark=MARK, submitted_at=0.0, known=ids, near=ids, enclosed=enclosed)


def test_listing_without_one_of_our_submits_proves_nothing(play, answer):
    """A listing that lacks one of our accepted submits of that time is not whole."""
    pages = listing(answer, "a", "b"), listing(answer)

    found = play(PROVIDER, PROVIDER.find(ours("abc", enclosed=True)), *pages)[1]

    assert found == Unproven(
        "the listing lacks 1 of our 3 accepted submits near that time, such as c"
    )


@pytest.mark.parametrize(("enclosed", "kind"), [(False, Unproven), (True, Absent)])
def test_listing_that_ignores_pages_may_be_cut_off(play, answer, enclosed, kind):
    """A repeated page proves an absence only between submits of ours."""
    page = listing(answer, "a", "b")

    found = play(PROVIDER, PROVIDER.find(ours("ab", enclosed=enclosed)), page, page)[1]

    assert type(found) is kind


@pytest.mark.parametrize(
    ("count", "enclosed", "kind"),
    [(99, False, Absent), (100, False, Unproven), (100, True, Absent)],
)
def test_latest_hundred_may_leave_out_a_doubt(play, answer, count, enclosed, kind):
    """A list of the latest hundred that all came after a doubt may have cut it off."""
    ids = [f"p{number}" for number in range(count)]
    pages = listing(answer, *ids), listing(answer)

    found = play(PROVIDER, PROVIDER.find(ours(ids, enclosed=enclosed)), *pages)[1]

    assert type(found) is kind


def test_a_doubt_stays_where_a_stranger_may_be_ours(play, recorded):
    pages = recorded("wavespeed", "listing"), recorded("wavespeed", "empty_listing")

    assert play(PROVIDER, PROVIDER.find(DOUBT), *pages)[1] is None


def test_every_page_is_read_before_a_doubt_is_absent(play, answer):
    pages = listing(answer, "a", "b"), listing(answer, "c"), listing(answer)

    asked, found = play(PROVIDER, PROVIDER.find(ours("abc")), *pages)

    assert [json.loads(request.content)["page"] for request in asked] == [1, 2, 3]
    assert type(found) is Absent


@pytest.mark.parametrize(
    "body", [{"data": {"items": [{}]}}, {"data": {"items": None}}, {"data": {}}, b""]
)
def test_senseless_listing_is_unreadable(play, answer, body):
    """A listing without a known form settles no doubt."""
    with pytest.raises(UnreadableError):
        play(PROVIDER, PROVIDER.find(DOUBT), answer(200, body))
