"""Requests to fal, and the meaning of its answers."""

import json
from dataclasses import replace
from decimal import Decimal

import pytest

from manifests.catalogue import Route
from manifests.jobs import Job
from manifests.lifecycle import Discarded, Refused, Rejected, Ticket
from tasks.providers.errors import (
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    RejectedError,
    ThrottledError,
    UploadRefusedError,
)
from tasks.providers.fal import Fal
from tasks.providers.protocol import AccountReport, Finished, UnreadableError

KEY = "key-id:fal-secret-5160"
A14B = "fal-ai/wan/v2.2-a14b/image-to-video"
ASPECTS = frozenset({"auto", "16:9", "9:16", "1:1"})
ROUTE = Route(
    name="fal/wan-2.2",
    endpoints={"480p": A14B, "720p": A14B},
    prices_usd={("480p", 5): Decimal("0.20")},
    fps=16,
    aspect_ratios=ASPECTS,
    takes_negative_prompt=True,
    queues=True,
)
WAN_21 = Route(
    name="fal/wan-2.1",
    endpoints={"480p": "fal-ai/wan-i2v"},
    prices_usd={("480p", 5): Decimal("0.20")},
    fps=16,
)
JOB = Job(image="i", prompt="slow dolly in", negative_prompt="blur", aspect_ratio="1:1")
IMAGE = "https://i/1.jpg"
REQUEST = "https://queue.fal.run/fal-ai/wan/requests/80e7"
TICKET = Ticket(
    "fal",
    "80e7",
    {"status": f"{REQUEST}/status", "result": REQUEST},
)
PROVIDER = Fal(ROUTE, KEY)


def asking(step, answer, still):
    """The request of each step, as the exchange would send it."""
    match step:
        case "submit":
            return next(PROVIDER.submit(JOB, IMAGE, 42, "ref-1"))
        case "upload":
            return next(PROVIDER.upload(still))
        case "poll":
            return next(PROVIDER.poll(TICKET))
        case "result":
            polling = PROVIDER.poll(TICKET)
            status = answer(200, {"status": "COMPLETED"})
            status.request = next(polling)
            return polling.send(status)


def test_submit_is_one_request_in_frames(play, recorded):
    """A submit is one request; its length is in frames at the model's own rate."""
    exchange = PROVIDER.submit(JOB, IMAGE, 42, "ref-1")

    [request], ticket = play(PROVIDER, exchange, recorded("fal", "submitted"))

    assert request.method == "POST"
    assert str(request.url) == f"https://queue.fal.run/{A14B}"
    assert dict(request.headers) == {
        "host": "queue.fal.run",
        "authorization": f"Key {KEY}",
        "x-fal-object-lifecycle-preference": '{"expiration_duration_seconds": 604800}',
        "x-fal-no-retry": "1",
        "content-type": "application/json",
        "content-length": str(len(request.content)),
    }
    assert request.content == (
        b'{"image_url":"https://i/1.jpg","prompt":"slow dolly in","resolution":"480p",'
        b'"num_frames":81,"frames_per_second":16,"seed":42,"num_interpolated_frames":0,'
        b'"negative_prompt":"blur","aspect_ratio":"1:1"}'
    )
    assert ticket == TICKET


def test_wan_2_1_gets_only_its_parameters():
    """A request for Wan 2.1 has no parameter that the model does not take."""
    request = next(Fal(WAN_21, KEY).submit(JOB, IMAGE, 0, "ref-1"))

    assert str(request.url) == "https://queue.fal.run/fal-ai/wan-i2v"
    assert json.loads(request.content) == {
        "image_url": IMAGE,
        "prompt": "slow dolly in",
        "resolution": "480p",
        "num_frames": 81,
        "frames_per_second": 16,
        "seed": 0,
    }


KLING = Route(
    name="fal/kling-1.6",
    endpoints={"720p": "fal-ai/kling-video/v1.6/standard/image-to-video"},
    prices_usd={("720p", 10): Decimal("0.56")},
    fps=24,
    takes_negative_prompt=True,
)


def test_kling_submit_is_in_seconds():
    """A request for Kling gives seconds and no parameter that Kling does not take."""
    job = replace(JOB, resolution="720p", duration_s=10, aspect_ratio="auto")

    request = next(Fal(KLING, KEY).submit(job, IMAGE, 42, "ref-1"))

    assert str(request.url) == f"https://queue.fal.run/{KLING.endpoints['720p']}"
    assert request.content == (
        b'{"image_url":"https://i/1.jpg","prompt":"slow dolly in","duration":"10",'
        b'"negative_prompt":"blur"}'
    )


def test_a_route_that_waits_for_its_turn_says_so():
    live, batch = (
        next(Fal(replace(ROUTE, kind=kind), KEY).submit(JOB, IMAGE, 1, "ref-1"))
        for kind in ("live", "batch")
    )

    assert "x-fal-queue-priority" not in live.headers
    assert batch.headers["x-fal-queue-priority"] == "low"


def test_a_hook_is_named_in_the_submits_address():
    provider = Fal(ROUTE, KEY, "https://hooks.example/fal?batch=1&b=2")

    request = next(provider.submit(JOB, IMAGE, 1, "ref-1"))

    assert request.url.path == f"/{A14B}"
    assert dict(request.url.params) == {
        "fal_webhook": "https://hooks.example/fal?batch=1&b=2"
    }


@pytest.mark.parametrize(
    ("route", "seconds", "frames"), [(ROUTE, 10, 161), (WAN_21, 6, 97)]
)
def test_a_clip_as_long_as_the_model_makes_is_asked_for(route, seconds, frames):
    job = Job(image="i", prompt="p", duration_s=seconds)

    request = next(Fal(route, KEY).submit(job, IMAGE, 0, "ref-1"))

    assert json.loads(request.content)["num_frames"] == frames


@pytest.mark.parametrize(("route", "seconds"), [(ROUTE, 11), (WAN_21, 8)])
def test_a_clip_longer_than_the_model_makes_is_never_sent(route, seconds):
    job = Job(image="i", prompt="p", duration_s=seconds)

    with pytest.raises(MisconfiguredError, match=f"{route.name}: {seconds} s are"):
        next(Fal(route, KEY).submit(job, IMAGE, 0, "ref-1"))


def test_an_upload_puts_the_still_without_the_key(play, recorded, answer, still):
    answers = recorded("fal", "upload_initiated"), answer(200)

    [ask, put], url = play(PROVIDER, PROVIDER.upload(still), *answers)

    assert ask.method == "POST"
    assert str(ask.url) == (
        "https://rest.fal.ai/storage/upload/initiate?storage_type=fal-cdn-v3"
    )
    assert ask.headers["authorization"] == f"Key {KEY}"
    assert ask.content == b'{"file_name":"still.jpg","content_type":"image/jpeg"}'
    assert put.method == "PUT"
    assert str(put.url) == "https://store.example/files/still.jpg?token=5160"
    assert dict(put.headers) == {
        "host": "store.example",
        "content-type": "image/jpeg",
        "content-length": "3",
    }
    assert put.content == still.content
    assert url == "https://v3b.fal.media/files/b/still.jpg"


@pytest.mark.parametrize("status", [400, 403, 404, 500])
def test_a_store_that_refuses_an_upload_closes_no_lane(
    play, recorded, answer, still, status
):
    answers = recorded("fal", "upload_initiated"), answer(status, b"token=5160")

    with pytest.raises(InDoubtError) as caught:
        play(PROVIDER, PROVIDER.upload(still), *answers)

    assert str(caught.value) == f"fal: HTTP {status} from its upload store"


def test_an_unreadable_upload_does_not_give_its_signature_away(play, answer, still):
    response = answer(200, {"upload_url": "https://s/u?token=5160", "file": 1})

    with pytest.raises(UnreadableError) as caught:
        play(PROVIDER, PROVIDER.upload(still), response)

    assert "5160" not in str(caught.value)
    assert "https://s/u?***" in str(caught.value)


@pytest.mark.parametrize("name", ["queued", "running"])
def test_a_poll_asks_where_fal_said_to(play, recorded, name):
    [request], progress = play(PROVIDER, PROVIDER.poll(TICKET), recorded("fal", name))

    assert (request.method, str(request.url)) == ("GET", f"{REQUEST}/status")
    assert request.headers["authorization"] == f"Key {KEY}"
    assert progress is None


def test_a_clip_comes_with_the_seed_that_made_it(play, recorded):
    answers = recorded("fal", "completed"), recorded("fal", "result")

    [_, request], progress = play(PROVIDER, PROVIDER.poll(TICKET), *answers)

    assert (request.method, str(request.url)) == ("GET", REQUEST)
    assert progress == Finished("https://v3b.fal.media/files/b/out.mp4", 42)


def test_a_clip_without_a_seed_is_a_clip(play, recorded, answer):
    answers = (
        recorded("fal", "completed"),
        answer(200, {"video": {"url": "https://v/1.mp4"}, "seed": None}),
    )

    progress = play(PROVIDER, PROVIDER.poll(TICKET), *answers)[1]

    assert progress == Finished("https://v/1.mp4")


def test_completed_is_not_success(play, recorded):
    response = recorded("fal", "completed_with_error")

    progress = play(PROVIDER, PROVIDER.poll(TICKET), response)[1]

    assert progress == Refused("runner_disconnected: Runner disconnected")


def model_error(kind):
    return {"detail": [{"loc": ["body"], "msg": "no", "type": kind, "input": "x"}]}


def request_error(kind):
    return {"detail": "no", "error_type": kind}


@pytest.mark.parametrize(
    ("failure", "outcome"),
    [
        ((422, model_error("content_policy_violation")), Rejected),
        ((422, model_error("image_too_small")), Rejected),
        ((422, model_error("less_than_equal")), Rejected),
        ((400, request_error("bad_request")), Rejected),
        ((422, model_error("no_media_generated")), Discarded),
        ((422, model_error("file_download_error")), Discarded),
        ((400, model_error("downstream_service_error")), Discarded),
        ((499, request_error("client_cancelled")), Discarded),
    ],
)
def test_failure_in_place_of_the_result_is_read(
    play, recorded, answer, failure, outcome
):
    """A failure that fal reports in place of the result is read."""
    answers = recorded("fal", "completed"), answer(*failure)

    progress = play(PROVIDER, PROVIDER.poll(TICKET), *answers)[1]

    assert type(progress) is outcome
    assert "no" in progress.reason
    assert not isinstance(progress, Rejected) or progress.charged


OWN_FAULTS = [
    (500, model_error("internal_server_error")),
    (500, model_error("downstream_service_unavailable")),
    (504, model_error("generation_timeout")),
    (503, request_error("runner_scheduling_failure")),
]


@pytest.mark.parametrize("failure", OWN_FAULTS)
def test_5xx_is_a_failure_only_if_repeated(play, recorded, answer, failure):
    """A 5xx is a failure only if fal repeats it; a passing one would rebuy the clip."""
    completed = recorded("fal", "completed")
    answers = completed, answer(*failure), recorded("fal", "completed")

    asked, progress = play(PROVIDER, PROVIDER.poll(TICKET), *answers, answer(*failure))

    assert type(progress) is Refused
    assert [str(request.url) for request in asked] == [
        f"{REQUEST}/status",
        REQUEST,
        f"{REQUEST}/status",
        REQUEST,
    ]


@pytest.mark.parametrize("failure", OWN_FAULTS)
def test_a_5xx_is_a_failure_if_the_status_then_says_so(play, recorded, answer, failure):
    completed = recorded("fal", "completed")
    answers = completed, answer(*failure), recorded("fal", "completed_with_error")

    assert type(play(PROVIDER, PROVIDER.poll(TICKET), *answers)[1]) is Refused


def test_a_5xx_that_passes_leaves_the_clip(play, recorded, answer):
    answers = (
        recorded("fal", "completed"),
        answer(500, request_error("internal_error")),
        recorded("fal", "completed"),
        recorded("fal", "result"),
    )

    progress = play(PROVIDER, PROVIDER.poll(TICKET), *answers)[1]

    assert progress == Finished("https://v3b.fal.media/files/b/out.mp4", 42)


@pytest.mark.parametrize(
    "other",
    [
        (503, request_error("internal_error")),
        (500, request_error("runner_server_error")),
        (500, {"detail": "Internal Server Error"}),
    ],
)
def test_two_5xx_that_differ_are_asked_about_later(play, recorded, answer, other):
    answers = (
        recorded("fal", "completed"),
        answer(500, request_error("internal_error")),
        recorded("fal", "completed"),
        answer(*other),
    )

    assert play(PROVIDER, PROVIDER.poll(TICKET), *answers)[1] is None


@pytest.mark.parametrize("name", ["queued", "running"])
def test_5xx_of_a_running_job_is_polled_later(play, recorded, answer, name):
    """After a 5xx, a job that still runs is polled again later."""
    hiccup = answer(500, request_error("internal_error"))
    answers = recorded("fal", "completed"), hiccup, recorded("fal", name)

    assert play(PROVIDER, PROVIDER.poll(TICKET), *answers)[1] is None


def test_5xx_whose_repeat_fails_proves_nothing(play, recorded, answer):
    """A 5xx proves nothing if the second request fails in another way."""
    hiccup = answer(500, request_error("internal_error"))
    answers = recorded("fal", "completed"), hiccup, answer(502, b"<html></html>")

    with pytest.raises(InDoubtError):
        play(PROVIDER, PROVIDER.poll(TICKET), *answers)


@pytest.mark.parametrize("name", ["moderated", "out_of_range"])
@pytest.mark.parametrize("how", ["completed", "completed_with_an_untyped_error"])
def test_rejected_content_may_be_billed(play, recorded, how, name):
    """Content that every provider would refuse counts as charged."""
    answers = recorded("fal", how), recorded("fal", name)

    progress = play(PROVIDER, PROVIDER.poll(TICKET), *answers)[1]

    assert isinstance(progress, Rejected)
    assert progress.charged


@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ((422, {"detail": "no"}), Discarded),
        ((200, {}), Discarded),
    ],
)
def test_an_error_that_is_not_explained_is_free_only_if_fals_own(
    play, recorded, answer, result, outcome
):
    answers = recorded("fal", "completed_with_an_untyped_error"), answer(*result)

    assert type(play(PROVIDER, PROVIDER.poll(TICKET), *answers)[1]) is outcome


def test_unexplained_5xx_is_free_if_the_status_repeats(play, recorded, answer):
    """An unexplained 5xx is free if the status reports the same error again."""
    name = "completed_with_an_untyped_error"
    failed = answer(500, {"detail": "Internal Server Error"})
    answers = recorded("fal", name), failed, recorded("fal", name)

    assert type(play(PROVIDER, PROVIDER.poll(TICKET), *answers)[1]) is Refused


def test_an_unexplained_5xx_is_asked_for_again_however_often(play, recorded, answer):
    failed = [answer(500, {"detail": "Internal Server Error"}) for _ in range(2)]
    answers = recorded("fal", "completed"), failed[0], recorded("fal", "completed")

    with pytest.raises(UnreadableError, match="fal: cannot read"):
        play(PROVIDER, PROVIDER.poll(TICKET), *answers, failed[1])


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, {"status": "COMPLETED"}),
        (200, b"<html>maintenance</html>"),
        (200, b""),
        (422, {"detail": "no"}),
    ],
)
def test_a_result_that_makes_no_sense_is_asked_for_again(
    play, recorded, answer, status, body
):
    answers = recorded("fal", "completed"), answer(status, body)

    with pytest.raises(UnreadableError, match="fal: cannot read"):
        play(PROVIDER, PROVIDER.poll(TICKET), *answers)


@pytest.mark.parametrize(
    "body",
    [{"status": "SNOOZED"}, {"status": None}, {}, [], b"<html></html>", b"", b'{"st'],
)
def test_senseless_poll_is_unreadable(play, answer, body):
    """A poll whose answer has no known form is unreadable, and the error quotes it."""
    with pytest.raises(UnreadableError, match="fal: cannot read"):
        play(PROVIDER, PROVIDER.poll(TICKET), answer(200, body))


@pytest.mark.parametrize("word", ["FAILED", "ERROR", "CANCELLED"])
def test_status_of_another_provider_ends_a_job_as_charged(play, answer, word):
    """A status that means failure elsewhere has no documented charge: it counts."""
    response = answer(200, {"status": word, "error": "out of luck"})

    progress = play(PROVIDER, PROVIDER.poll(TICKET), response)[1]

    assert progress == Discarded(f"{word}: out of luck")


@pytest.mark.parametrize(
    "body", [{"request_id": None}, {"detail": "ok"}, b"<html>ok</html>", b""]
)
def test_good_answer_without_a_receipt_is_unreadable(play, answer, body):
    """A successful submit whose answer is no receipt is unreadable."""
    with pytest.raises(UnreadableError):
        play(PROVIDER, PROVIDER.submit(JOB, IMAGE, 42, "ref-1"), answer(200, body))


@pytest.mark.parametrize("urls", [{}, {"status_url": None, "response_url": "/r"}])
def test_receipt_without_urls_has_the_usual_ones(play, answer, urls):
    """A receipt with an id alone is one: fal's URLs follow from the id and the app."""
    body = {"request_id": 80, **urls}

    ticket = play(PROVIDER, PROVIDER.submit(JOB, IMAGE, 1, "ref"), answer(200, body))[1]

    usual = "https://queue.fal.run/fal-ai/wan/requests/80"
    assert ticket == Ticket("fal", "80", {"status": f"{usual}/status", "result": usual})


@pytest.mark.parametrize(
    "body",
    [
        {"video": "https://v.example/1.mp4"},
        {"videos": [{"url": "https://v.example/1.mp4"}]},
        {"data": {"video": {"url": "https://v.example/1.mp4"}}},
        {"made": {"deep": ["https://v.example/1.mp4?x=1"]}},
    ],
)
def test_result_with_a_clip_in_any_field(play, answer, body):
    """A result's clip is found, whatever the field is called."""
    answers = answer(200, {"status": "Completed"}), answer(200, body)

    progress = play(PROVIDER, PROVIDER.poll(TICKET), *answers)[1]

    assert progress.url.startswith("https://v.example/1.mp4")


HTML = b"<html><body>nginx</body></html>"
LOCKED = {"detail": "User is locked. Reason: Exhausted balance."}

VERDICTS = [
    ("submit", 400, request_error("bad_request"), RejectedError),
    ("submit", 413, {"detail": "too large"}, RejectedError),
    ("submit", 422, model_error("content_policy_violation"), RejectedError),
    ("submit", 422, model_error("less_than_equal"), RejectedError),
    ("submit", 401, {"detail": "Authorization token=x is invalid"}, MisconfiguredError),
    ("submit", 402, {"detail": "pay"}, MisconfiguredError),
    ("submit", 403, LOCKED, MisconfiguredError),
    ("submit", 403, {"detail": "not for you"}, MisconfiguredError),
    ("submit", 429, {"detail": "slow down"}, ThrottledError),
    ("submit", 404, {"detail": "not found"}, InDoubtError),
    ("submit", 408, {"detail": "timeout"}, InDoubtError),
    ("submit", 409, {"detail": "conflict"}, InDoubtError),
    ("submit", 500, request_error("internal_error"), InDoubtError),
    ("submit", 503, request_error("runner_disconnected"), InDoubtError),
    ("submit", 504, request_error("request_timeout"), InDoubtError),
    ("submit", 502, HTML, InDoubtError),
    ("submit", 400, HTML, InDoubtError),
    ("submit", 401, HTML, InDoubtError),
    ("submit", 403, HTML, InDoubtError),
    ("submit", 429, b"", InDoubtError),
    ("submit", 422, b'{"detail":[{"ty', InDoubtError),
    ("submit", 422, {"error": "from a proxy"}, InDoubtError),
    ("submit", 307, b"", InDoubtError),
    ("upload", 401, {"detail": "no"}, MisconfiguredError),
    ("upload", 403, LOCKED, MisconfiguredError),
    ("upload", 413, {"detail": "too large"}, RejectedError),
    ("upload", 422, model_error("missing"), UploadRefusedError),
    ("upload", 404, HTML, NotFoundError),
    ("upload", 429, HTML, ThrottledError),
    ("upload", 500, HTML, InDoubtError),
    ("poll", 401, {"detail": "no"}, MisconfiguredError),
    ("poll", 403, LOCKED, MisconfiguredError),
    ("poll", 404, {"detail": "not found"}, NotFoundError),
    ("poll", 400, {"detail": "no"}, InDoubtError),
    ("poll", 422, model_error("missing"), InDoubtError),
    ("poll", 429, HTML, ThrottledError),
    ("poll", 500, {"detail": "no"}, InDoubtError),
    ("poll", 502, HTML, InDoubtError),
    ("result", 401, {"detail": "no"}, MisconfiguredError),
    ("result", 403, LOCKED, MisconfiguredError),
    ("result", 404, {"detail": "not found"}, NotFoundError),
    ("result", 429, {"detail": "slow down"}, ThrottledError),
    ("result", 502, HTML, InDoubtError),
    ("result", 504, b"", InDoubtError),
]


@pytest.mark.parametrize("row", VERDICTS)
def test_only_a_documented_refusal_proves_no_purchase(answer, still, row):
    """Only a refusal that the provider documents proves that nothing was bought."""
    step, status, body, kind = row
    response = answer(status, body)
    response.request = asking(step, answer, still)

    assert type(PROVIDER.judge(response)) is kind


@pytest.mark.parametrize("echo", [KEY, "fal-secret-5160"])
@pytest.mark.parametrize("row", VERDICTS)
def test_no_verdict_repeats_the_key(answer, still, echoing, row, echo):
    step, status, body, _ = row
    response = answer(status, echoing(body, echo))
    response.request = asking(step, answer, still)

    verdict = PROVIDER.judge(response)

    assert verdict is not None
    assert "fal-secret-5160" not in str(verdict)
    assert "fal-secret-5160" not in repr(verdict)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "locked",
            (
                "fal: HTTP 403: User is locked. Reason: Exhausted balance. "
                "Top up your balance at fal.ai/dashboard/billing.: "
                "top up the account at https://fal.ai/dashboard/billing"
            ),
        ),
        ("unauthorized", "fal: HTTP 401: check the key, which is written id:secret"),
        (
            "out_of_range",
            (
                "fal: HTTP 422: less_than_equal: "
                "ensure this value is less than or equal to 161"
            ),
        ),
    ],
)
def test_refusal_names_the_remedy(recorded, answer, still, name, words):
    """The message about a refusal says what the user has to do."""
    response = recorded("fal", name)
    response.request = asking("submit", answer, still)

    assert str(PROVIDER.judge(response)) == words


PRO = "fal-ai/kling-video/v1.6/pro/image-to-video"
SECONDS = {"unit": "seconds", "unit_price": 0.098, "currency": "USD"}


def checked(play, answer, price, **endpoints):
    """The check's result for a route with these endpoints, with this price for each."""
    prices = dict.fromkeys([(size, 5) for size in endpoints], Decimal(1))
    route = Route(name="fal/x", endpoints=endpoints, prices_usd=prices, fps=24)
    provider = Fal(route, KEY)
    listed = [{"endpoint_id": each} | price for each in {*endpoints.values()}]
    return play(provider, provider.check(), answer(200, {"prices": listed}))[1]


def test_a_check_asks_the_platform_with_the_key(play, recorded):
    [request], report = play(PROVIDER, PROVIDER.check(), recorded("fal", "pricing"))

    assert request.method == "GET"
    assert request.url.host == "api.fal.ai"
    assert request.url.path == "/v1/models/pricing"
    assert dict(request.url.params) == {"endpoint_id": A14B}
    assert request.headers["authorization"] == f"Key {KEY}"
    assert report == AccountReport(has_model=True)


def test_price_by_the_second_is_a_clip_price_for_one_size(play, answer):
    """A price by the second gives a clip's price if the endpoint makes one size."""
    report = checked(play, answer, SECONDS, **{"1080p": PRO})

    assert report.prices_usd == {("1080p", 5): Decimal("0.49")}


@pytest.mark.parametrize(
    ("price", "endpoints"),
    [
        (SECONDS, {"480p": PRO, "720p": PRO}),
        (SECONDS, {"480p": A14B}),
        (SECONDS | {"unit": "videos"}, {"1080p": PRO}),
        (SECONDS | {"unit": "compute seconds"}, {"1080p": PRO}),
        (SECONDS | {"currency": "EUR"}, {"1080p": PRO}),
        (SECONDS | {"unit_price": None}, {"1080p": PRO}),
        ({}, {"1080p": PRO}),
    ],
)
def test_a_unit_that_leaves_room_for_doubt_prices_no_clip(
    play, answer, price, endpoints
):
    report = checked(play, answer, price, **endpoints)

    assert report == AccountReport(has_model=True)


def test_a_check_says_that_a_model_is_gone(play, answer):
    response = answer(200, {"prices": [], "has_more": False})

    assert play(PROVIDER, PROVIDER.check(), response)[1] == AccountReport(
        has_model=False
    )


def test_a_check_tells_a_bad_key(play, recorded):
    with pytest.raises(MisconfiguredError, match="check the key"):
        play(PROVIDER, PROVIDER.check(), recorded("fal", "unauthorized"))


@pytest.mark.parametrize("status", [422, 500])
def test_a_check_that_fails_is_no_jobs_outcome(play, answer, status):
    with pytest.raises(InDoubtError):
        play(PROVIDER, PROVIDER.check(), answer(status, {"detail": "no"}))
