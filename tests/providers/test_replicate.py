"""Requests to Replicate, and the meaning of its answers."""

import json
from datetime import UTC, datetime
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
from tasks.providers.protocol import (
    Absent,
    AccountReport,
    Billed,
    Doubt,
    Findable,
    Finished,
    Gone,
    Unproven,
    UnreadableError,
)
from tasks.providers.replicate import Replicate

KEY = "r8_51602417"
FAST = "wan-video/wan-2.2-i2v-fast"
ROUTE = Route(
    name="replicate/wan-2.2",
    endpoints={"480p": FAST},
    prices_usd={("480p", 5): Decimal("0.06")},
    fps=16,
)
JOB = Job(image="https://i/1.jpg", prompt="slow dolly in", negative_prompt="blur")
IMAGE = "https://i/1.jpg?X-Amz-Signature=77"
INPUT = {
    "image": IMAGE,
    "prompt": "slow dolly in",
    "num_frames": 81,
    "frames_per_second": 16,
    "resolution": "480p",
    "seed": 42,
}
TICKET = Ticket("replicate", "gm3qorzdhgbf")
PROVIDER = Replicate(ROUTE, KEY)
HTML = b"<html><body>nginx</body></html>"
SUBMITTED_AT = datetime(2026, 11, 22, 10, tzinfo=UTC).timestamp()


def asking(step, still):
    """The request of each step, as the exchange would send it."""
    match step:
        case "submit":
            return next(PROVIDER.submit(JOB, IMAGE, 42, "ref-1"))
        case "upload":
            return next(PROVIDER.upload(still))
        case "poll":
            return next(PROVIDER.poll(TICKET))
        case "list":
            return next(PROVIDER.find(doubt()))
        case "check":
            return next(PROVIDER.check())


def test_a_submit_is_one_request_to_the_model_in_frames(play, recorded):
    exchange = PROVIDER.submit(JOB, IMAGE, 42, "ref-1")

    [request], ticket = play(PROVIDER, exchange, recorded("replicate", "submitted"))

    assert request.method == "POST"
    assert str(request.url) == f"https://api.replicate.com/v1/models/{FAST}/predictions"
    assert dict(request.headers) == {
        "host": "api.replicate.com",
        "authorization": f"Bearer {KEY}",
        "content-type": "application/json",
        "content-length": str(len(request.content)),
    }
    assert request.content == (
        b'{"input":{"image":"https://i/1.jpg?X-Amz-Signature=77",'
        b'"prompt":"slow dolly in","num_frames":81,"frames_per_second":16,'
        b'"resolution":"480p","seed":42}}'
    )
    assert ticket == TICKET


def test_a_submit_says_where_to_tell_of_its_end():
    listening = Replicate(ROUTE, KEY, "https://hooks.example/replicate")

    request = next(listening.submit(JOB, IMAGE, 42, "ref-1"))

    body = json.loads(request.content)
    assert body["webhook"] == "https://hooks.example/replicate"
    assert body["webhook_events_filter"] == ["completed"]
    assert "webhook" not in body["input"]


@pytest.mark.parametrize(("seconds", "frames"), [(5, 81), (6, 97), (7, 113)])
def test_a_clip_as_long_as_the_model_makes_is_asked_for(seconds, frames):
    job = Job(image="i", prompt="p", duration_s=seconds)

    request = next(PROVIDER.submit(job, IMAGE, 0, "ref-1"))

    assert json.loads(request.content)["input"]["num_frames"] == frames


@pytest.mark.parametrize("seconds", [4, 8])
def test_a_clip_that_the_model_does_not_make_is_never_sent(seconds):
    job = Job(image="i", prompt="p", duration_s=seconds)

    with pytest.raises(MisconfiguredError, match=f"replicate/wan-2.2: {seconds} s are"):
        next(PROVIDER.submit(job, IMAGE, 0, "ref-1"))


def test_an_upload_posts_a_form_and_gives_the_files_page(play, recorded, still):
    exchange = PROVIDER.upload(still)

    [request], url = play(PROVIDER, exchange, recorded("replicate", "uploaded"))

    assert str(request.url) == "https://api.replicate.com/v1/files"
    assert b'name="content"; filename="still.jpg"' in request.read()
    assert url == "https://api.replicate.com/v1/files/MWQ4Zjc"


def test_an_id_cannot_lead_a_poll_astray():
    request = next(PROVIDER.poll(Ticket("replicate", "../account?x")))

    assert request.url.raw_path == b"/v1/predictions/..%2Faccount%3Fx"


@pytest.mark.parametrize(
    ("name", "progress"),
    [
        ("submitted", None),
        ("running", None),
        ("succeeded", Finished("https://replicate.delivery/xezq/clip.mp4")),
        ("succeeded_with_a_list", Finished("https://replicate.delivery/xezq/clip.mp4")),
        ("forgotten", Gone("results are kept one hour")),
        ("failed", Refused("failed: Prediction interrupted; please retry (code: PA)")),
        (
            "moderated",
            Rejected(
                "failed: The input or output was flagged as sensitive. "
                "Please try again with different inputs. (E005)"
            ),
        ),
        ("canceled", Discarded("canceled")),
        ("aborted", Discarded("aborted")),
    ],
)
def test_poll_reads_recorded_answers(play, recorded, name, progress):
    """Each recorded answer to a poll is read as its documented state."""
    answers = recorded("replicate", name)

    assert play(PROVIDER, PROVIDER.poll(TICKET), answers)[1] == progress


@pytest.mark.parametrize(
    "error",
    ["NSFW content detected", "flagged by the safety checker", "Sensitive content"],
)
def test_moderation_is_recognized_and_final(play, answer, error):
    """A moderation failure is recognized by its words, and is final."""
    response = answer(200, {"id": "1", "status": "failed", "error": error})

    assert play(PROVIDER, PROVIDER.poll(TICKET), response)[1] == Rejected(
        f"failed: {error}"
    )


@pytest.mark.parametrize(
    "body",
    [
        {"id": "1", "status": "warming_up"},
        {"id": "1", "status": "succeeded", "output": None},
        {"id": "1", "status": "succeeded", "output": []},
        {"id": "1", "status": "succeeded", "output": {"video": "x"}},
        {"id": "1"},
        [1, 2],
        HTML,
        b'{"status": "succ',
        b"",
    ],
)
def test_senseless_poll_is_unreadable(play, answer, body):
    """A poll whose answer has no known form is unreadable, and the error quotes it."""
    with pytest.raises(UnreadableError, match="replicate: cannot read"):
        play(PROVIDER, PROVIDER.poll(TICKET), answer(200, body))


@pytest.mark.parametrize("body", [{"status": "starting"}, {"id": ""}, HTML, b""])
def test_good_answer_without_a_prediction_is_unreadable(play, answer, body):
    """A successful submit whose answer names no prediction is unreadable."""
    with pytest.raises(UnreadableError):
        play(PROVIDER, PROVIDER.submit(JOB, IMAGE, 42, "ref-1"), answer(201, body))


@pytest.mark.parametrize("status", [201, 202, 422, 500])
def test_answer_that_names_a_prediction_is_accepted(play, answer, status):
    """An answer that names a prediction proves acceptance, whatever else it says."""
    response = answer(status, {"id": TICKET.id, "status": "starting", "detail": "?"})

    assert (
        play(PROVIDER, PROVIDER.submit(JOB, IMAGE, 42, "ref-1"), response)[1] == TICKET
    )


def listed(remote, asked=INPUT, at="2026-11-22T10:00:01.5Z", **other):
    """A prediction in the listing's form."""
    return {"id": remote, "model": FAST, "input": asked, "created_at": at, **other}


def page(*results, onward=None):
    return {"previous": None, "next": onward, "results": [*results]}


def doubt(known=(), *, near=(), enclosed=False, route=ROUTE.name):
    return Doubt(
        mark=PROVIDER.mark(JOB, IMAGE, 42, "ref-1"),
        submitted_at=SUBMITTED_AT,
        known=frozenset(known),
        near=frozenset(near),
        enclosed=enclosed,
        route=route,
    )


def found(play, answer, *pages, **about):
    answers = [answer(200, each) for each in pages]
    asked, result = play(PROVIDER, PROVIDER.find(doubt(**about)), *answers)
    assert len(asked) == len(pages)
    return result


def test_a_mark_is_a_digest_that_tells_nothing():
    mark = PROVIDER.mark(JOB, IMAGE, 42, "ref-1")

    assert set(mark) <= set("0123456789abcdef-")
    assert mark == PROVIDER.mark(JOB, IMAGE, 42, "ref-2")
    assert mark != PROVIDER.mark(JOB, IMAGE, 43, "ref-1")
    assert mark != PROVIDER.mark(JOB, "https://i/2.jpg", 42, "ref-1")


def test_replicate_is_findable_and_not_billed():
    """Replicate can be asked for a lost submit, but not for a charge."""
    assert isinstance(PROVIDER, Findable)
    assert not isinstance(PROVIDER, Billed)


def test_lost_submit_is_found_by_its_input(play, answer):
    """A lost submit is found by its input, in whatever order the listing has it."""
    shuffled = dict(reversed(INPUT.items()))
    pages = page(listed("b", INPUT | {"seed": 1}), listed("a", shuffled))

    assert found(play, answer, pages) == Ticket("replicate", "a")


def test_lost_submit_is_found_with_defaults_added(play, answer):
    """A lost submit is found although the listing adds defaults to its input."""
    pages = page(listed("a", INPUT | {"go_fast": True, "sample_shift": 12}))

    assert found(play, answer, pages) == Ticket("replicate", "a")


def test_a_submit_that_is_not_listed_was_not_accepted(play, answer):
    pages = page(
        listed("b", INPUT | {"seed": 7}),
        listed("a", at="2026-11-22T09:44:59Z"),
        onward="https://api.replicate.com/v1/predictions?cursor=x",
    )

    result = found(play, answer, pages)

    assert result == Absent("not among the predictions that replicate lists")


def test_a_clock_that_is_ahead_by_the_answers_date_hides_nothing(play, answer):
    response = answer(200, page(listed("a", at="2026-11-22T08:00:00Z")))
    response.headers["date"] = "Sun, 22 Nov 2026 08:00:01 GMT"
    wrong = Replicate(ROUTE, KEY, now=lambda: SUBMITTED_AT)

    assert play(wrong, wrong.find(doubt()), response)[1] == Ticket("replicate", "a")


def test_known_prediction_is_not_found_again(play, answer):
    """A prediction that is on record for another job is not this submit's."""
    result = found(play, answer, page(listed("a")), known=["a"], near=["a"])

    assert isinstance(result, Absent)


def test_listing_without_one_of_our_submits_proves_nothing(play, answer):
    """A listing that lacks one of our accepted submits of that time is not whole."""
    older = listed("o", at="2026-11-22T09:44:59Z")
    about = {"known": ["a", "b"], "near": ["a", "b"]}

    result = found(play, answer, page(listed("a"), older), **about)

    assert isinstance(result, Unproven)
    assert (
        "lacks 1 of our 2 accepted submits near that time, such as b" in result.reason
    )


@pytest.mark.parametrize(("enclosed", "kind"), [(False, Unproven), (True, Absent)])
def test_latest_hundred_may_leave_out_a_doubt(play, answer, enclosed, kind):
    """Our later submits in a list of a hundred do not show that it reaches back."""
    ids = [f"p{number}" for number in range(100)]
    pages = page(*(listed(each, INPUT | {"seed": 1}) for each in ids))

    result = found(play, answer, pages, known=ids, near=ids, enclosed=enclosed)

    assert type(result) is kind


@pytest.mark.parametrize(
    ("count", "kind"), [(0, Absent), (99, Absent), (100, Unproven)]
)
def test_full_page_without_older_predictions_may_be_cut_off(play, answer, count, kind):
    """The last hundred predictions do not prove that an earlier one is missing."""
    later = listed("b", INPUT | {"seed": 7}, at="2026-11-23T10:00:00Z")

    assert isinstance(found(play, answer, page(*[later] * count)), kind)


@pytest.mark.parametrize(
    "results",
    [
        [listed("a"), listed("b")],
        [listed("a", {}, data_removed=True)],
        [listed("a", None)],
        [listed("a", {}, model="")],
        # Replicate might store the still under another link.
        [listed("a", INPUT | {"image": "https://replicate.delivery/1.jpg"})],
    ],
)
def test_uncertain_match_stays_in_doubt(play, answer, results):
    """A submit stays in doubt if a listed prediction may be its own."""
    assert found(play, answer, page(*results)) is None


def test_predictions_of_other_models_are_ignored(play, answer):
    """Predictions of other models do not keep a submit in doubt."""
    others = listed("a", {}, model="acme/upscaler", data_removed=True)
    older = listed("o", at="2026-11-22T09:44:59Z")

    assert isinstance(found(play, answer, page(others, older)), Absent)


def test_prediction_of_another_model_may_be_of_the_former_route(play, answer):
    """The lane's route was changed: predictions of the former model count."""
    others = listed("a", {}, model="acme/upscaler", data_removed=True)
    older = listed("o", at="2026-11-22T09:44:59Z")
    pages = page(others, older)

    assert found(play, answer, pages, route="replicate/former") is None


def test_a_submit_without_a_mark_on_record_stays_in_doubt(play, answer):
    unmarked = Doubt(mark="", submitted_at=SUBMITTED_AT, known=frozenset())
    response = answer(200, page(listed("a", {})))

    assert play(PROVIDER, PROVIDER.find(unmarked), response)[1] is None


def test_a_listing_is_read_page_by_page_on_replicates_own_host(play, answer):
    onward = "https://elsewhere.example/v1/predictions?cursor=c%2B1"
    pages = [page(listed("b", INPUT | {"seed": 1}), onward=onward), page(listed("a"))]
    exchange = PROVIDER.find(doubt())

    asked, result = play(PROVIDER, exchange, *(answer(200, each) for each in pages))

    assert [str(request.url) for request in asked] == [
        "https://api.replicate.com/v1/predictions",
        "https://api.replicate.com/v1/predictions?cursor=c%2B1",
    ]
    assert result == Ticket("replicate", "a")


def test_a_listing_without_end_proves_nothing(play, answer):
    onward = "https://api.replicate.com/v1/predictions?cursor=x"
    endless = [page(listed("b", INPUT | {"seed": 1}), onward=onward)] * 100

    assert found(play, answer, *endless) is None


@pytest.mark.parametrize("body", [{"results": None}, {"results": []}, [], HTML])
def test_senseless_listing_is_unreadable(play, answer, body):
    """A listing without a known form is unreadable."""
    with pytest.raises(UnreadableError):
        play(PROVIDER, PROVIDER.find(doubt()), answer(200, body))


@pytest.mark.parametrize(("name", "there"), [("model", True), ("not_found", False)])
def test_a_check_asks_after_the_account_and_the_model(play, recorded, name, there):
    answers = recorded("replicate", "account"), recorded("replicate", name)

    asked, checkup = play(PROVIDER, PROVIDER.check(), *answers)

    assert [request.url.path for request in asked] == [
        "/v1/account",
        f"/v1/models/{FAST}",
    ]
    assert checkup == AccountReport(has_model=there)


def test_check_rejects_a_foreign_page(play, recorded, answer):
    """A check does not accept another server's HTML page."""
    with pytest.raises(UnreadableError):
        play(PROVIDER, PROVIDER.check(), answer(200, HTML))
    with pytest.raises(NotFoundError):
        play(
            PROVIDER,
            PROVIDER.check(),
            recorded("replicate", "account"),
            answer(404, HTML),
        )


VERDICTS = [
    ("submit", 401, {"detail": "bad token"}, MisconfiguredError),
    ("submit", 402, {"detail": "insufficient credit"}, MisconfiguredError),
    ("submit", 404, {"detail": "no such model"}, MisconfiguredError),
    ("submit", 422, {"detail": "- input: image is required\n"}, RejectedError),
    ("submit", 422, {"detail": "- version is required\n"}, MisconfiguredError),
    ("submit", 429, {"detail": "Request was throttled."}, ThrottledError),
    ("submit", 400, {"detail": "bad"}, InDoubtError),
    ("submit", 403, {"detail": "forbidden"}, InDoubtError),
    ("submit", 500, {"detail": "oops"}, InDoubtError),
    ("submit", 502, HTML, InDoubtError),
    ("submit", 503, {"detail": "load"}, InDoubtError),
    ("submit", 504, b"", InDoubtError),
    ("submit", 402, HTML, InDoubtError),
    ("submit", 422, HTML, InDoubtError),
    ("submit", 429, HTML, InDoubtError),
    ("submit", 429, {"message": "from a proxy"}, InDoubtError),
    ("submit", 422, ["detail"], InDoubtError),
    ("submit", 302, b"", InDoubtError),
    ("upload", 401, {"detail": "bad token"}, MisconfiguredError),
    ("upload", 422, {"detail": "bad"}, UploadRefusedError),
    ("upload", 404, {"detail": "bad"}, NotFoundError),
    ("upload", 429, HTML, ThrottledError),
    ("poll", 401, {"detail": "bad token"}, MisconfiguredError),
    ("poll", 404, {"detail": "not found"}, NotFoundError),
    ("poll", 404, HTML, NotFoundError),
    ("poll", 422, {"detail": "bad"}, InDoubtError),
    ("poll", 429, {"detail": "Request was throttled."}, ThrottledError),
    ("poll", 502, HTML, InDoubtError),
    ("list", 401, {"detail": "bad token"}, MisconfiguredError),
    ("list", 404, {"detail": "not found"}, NotFoundError),
    ("check", 401, {"detail": "bad token"}, MisconfiguredError),
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
        ("bad_token", MisconfiguredError, "replicate: HTTP 401: check the token"),
        ("out_of_credit", MisconfiguredError, "wait a few minutes before the next run"),
        ("not_found", MisconfiguredError, "check the model's id"),
        ("not_official", MisconfiguredError, "one of Replicate's official models"),
        ("invalid", RejectedError, "Must be greater than or equal to 81"),
        ("too_many", ThrottledError, "resets in ~30s"),
    ],
)
def test_refusal_is_recognized_by_its_words(recorded, still, name, kind, words):
    """A refusal is classified by the words of the provider's message."""
    response = recorded("replicate", name)
    response.request = asking("submit", still)

    verdict = PROVIDER.judge(response)

    assert type(verdict) is kind
    assert words in str(verdict)
