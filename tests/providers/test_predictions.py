"""The exchange steps that the prediction APIs share."""

from decimal import Decimal

import pytest

from manifests.catalogue import Route
from manifests.jobs import Job
from manifests.lifecycle import Discarded, Refused, Rejected, Ticket
from tasks.providers import PROVIDERS
from tasks.providers.protocol import Finished, UnreadableError

KEY = "key-id:all-secret-that-is-long-enough-5160"
JOB = Job(image="i", prompt="pan", resolution="720p")
CLIP = "https://v.example/1.mp4"
URLS = {
    "status": "https://queue.fal.run/r/1/status",
    "result": "https://queue.fal.run/r/1",
}
RECEIPTS = {
    "302ai": lambda value: {"task_id": value},
    "atlas": lambda value: {"data": {"id": value}},
    "fal": lambda value: {
        "request_id": value,
        "status_url": URLS["status"],
        "response_url": URLS["result"],
    },
    "kling": lambda value: {"data": {"task_id": value}},
    "replicate": lambda value: {"id": value, "status": "starting"},
    "runway": lambda value: {"id": value},
    "wavespeed": lambda value: {"data": {"id": value}},
}
"""The answer to an accepted submit, by the task's id."""

READY = {
    "302ai": ("status", "completed"),
    "atlas": ("status", "completed"),
    "replicate": ("status", "succeeded"),
    "runway": ("status", "SUCCEEDED"),
    "wavespeed": ("status", "completed"),
}
"""The status of a finished task whose outputs are listed."""

WAITING = {
    "302ai": {"status": "processing"},
    "atlas": {"data": {"status": "processing"}},
    "fal": {"status": "IN_QUEUE"},
    "kling": {"data": {"task_status": "processing"}},
    "replicate": {"status": "processing"},
    "runway": {"status": "THROTTLED"},
    "wavespeed": {"data": {"status": "processing"}},
}


def adapter(name):
    route = Route(
        name=f"{name}/model", endpoints={"720p": "owner/model"}, prices_usd={}, fps=16
    )
    return PROVIDERS[name](route, KEY)


def submit(provider):
    return provider.submit(JOB, "https://i/1.jpg", 42, "ref-1")


def poll(provider):
    return provider.poll(Ticket(provider.name, "1", URLS))


@pytest.mark.parametrize("name", RECEIPTS)
def test_receipt_with_number_as_id(play, answer, name):
    """A task whose id is a number was accepted like any other."""
    provider = adapter(name)
    body = RECEIPTS[name](860012)

    ticket = play(provider, submit(provider), answer(200, body))[1]

    assert ticket.id == "860012"


@pytest.mark.parametrize("value", [True, 0, 1.5, [], {}, "", None])
@pytest.mark.parametrize("name", RECEIPTS)
def test_receipt_without_readable_id(play, answer, name, value):
    """A good answer whose id is no id leaves a doubt, and no ticket."""
    provider = adapter(name)

    with pytest.raises(UnreadableError):
        play(provider, submit(provider), answer(200, RECEIPTS[name](value)))


@pytest.mark.parametrize("name", sorted(RECEIPTS.keys() - {"fal"}))
def test_refusal_with_unreadable_id_proves_nothing(play, answer, name):
    """An answer that has an id is no refusal, whatever its status and its id are."""
    provider = adapter(name)
    refusal = {"message": "no", "detail": "no", "code": 400, "msg": "no"}

    with pytest.raises(UnreadableError):
        play(
            provider, submit(provider), answer(400, refusal | RECEIPTS[name]({"a": 1}))
        )


@pytest.mark.parametrize("change", [str.upper, str.lower, str.title])
@pytest.mark.parametrize("name", WAITING)
def test_status_word_in_any_case(play, answer, name, change):
    """A status word means the same in capitals and in small letters."""
    provider = adapter(name)

    def changed(body):
        return {
            key: changed(value) if isinstance(value, dict) else change(value)
            for key, value in body.items()
        }

    assert (
        play(provider, poll(provider), answer(200, changed(WAITING[name])))[1] is None
    )


@pytest.mark.parametrize(
    "outputs",
    [
        {"outputs": [CLIP, "https://v.example/2.mp4"]},
        {"outputs": [{"url": CLIP}]},
        {"outputs": [{"video": CLIP}]},
        {"output": CLIP},
        {"output": [CLIP]},
        {"output": {"output": CLIP}, "outputs": None},
        {"outputs": {"video": CLIP}},
        {"outputs": {"clip_1": {"video_url": CLIP}}},
        {"outputs": CLIP},
        {"video": CLIP},
        {"videos": [CLIP]},
        {"Videos": [{"URL": CLIP}]},
        {"outputs": ["https://v.example/first.jpg", CLIP]},
        {"task_result": {"videos": [{"id": "7", "url": CLIP}]}},
        {"outputs": [], "files": [{"mime": "video/mp4", "href": CLIP}]},
    ],
)
@pytest.mark.parametrize("name", READY)
def test_clip_link_in_any_shape(play, answer, name, outputs):
    """A clip is found in every shape in which a prediction API writes its outputs."""
    provider = adapter(name)
    status, word = READY[name]
    task = {status: word, **outputs}
    body = {"data": task} if provider.enveloped else task

    assert play(provider, poll(provider), answer(200, body))[1] == Finished(CLIP)


@pytest.mark.parametrize("word", ["Completed", "SUCCEEDED", "succeed", " success "])
@pytest.mark.parametrize("name", READY)
def test_other_providers_words_are_understood(play, answer, name, word):
    """A word for a finished task means the same at every provider."""
    provider = adapter(name)
    task = {READY[name][0]: word, "outputs": [CLIP]}
    body = {"data": task} if provider.enveloped else task

    assert play(provider, poll(provider), answer(200, body))[1] == Finished(CLIP)


@pytest.mark.parametrize("status", ["SNOOZED", "failed", None])
@pytest.mark.parametrize("name", READY)
def test_link_to_a_clip_is_never_passed_by(play, answer, name, status):
    """A clip is fetched, whatever the status of its task is called."""
    provider = adapter(name)
    task = {READY[name][0]: status, "outputs": [CLIP]}
    body = {"data": task} if provider.enveloped else task

    assert play(provider, poll(provider), answer(200, body))[1] == Finished(CLIP)


@pytest.mark.parametrize("link", ["https://x/help/errors", "https://x/poster.jpg"])
@pytest.mark.parametrize("name", READY)
def test_link_to_a_page_makes_no_failed_task_a_clip(play, answer, name, link):
    """A failed task may name a page or a picture; only a video says that there is a clip."""
    provider = adapter(name)
    task = {READY[name][0]: "failed", "url": link, "outputs": [link]}
    body = {"data": task} if provider.enveloped else task

    ended = play(provider, poll(provider), answer(200, body))[1]

    assert isinstance(ended, Refused | Discarded | Rejected)


@pytest.mark.parametrize(
    ("link", "path"),
    [("/files/1.mp4", "/files/1.mp4"), ("//v.example/1.mp4", None), ("1.mp4", None)],
)
@pytest.mark.parametrize("name", READY)
def test_relative_link_belongs_to_the_answers_address(play, answer, name, link, path):
    """A relative link is resolved against the address that the poll was sent to."""
    provider = adapter(name)
    task = {READY[name][0]: READY[name][1], "outputs": [link]}
    body = {"data": task} if provider.enveloped else task

    [polled], progress = play(provider, poll(provider), answer(200, body))

    assert progress.url == str(polled.url.join(link))
    assert path is None or progress.url == f"https://{polled.url.host}{path}"


@pytest.mark.parametrize("name", sorted(RECEIPTS.keys() - {"fal"}))
@pytest.mark.parametrize(
    "receipt",
    [{"id": 86}, {"task_id": "86"}, {"data": {"taskId": 86.0}}, {"data": {"id": "86"}}],
)
def test_receipt_in_the_shape_of_another_provider(play, answer, name, receipt):
    """An accepted submit is not lost because its id is in another provider's place."""
    provider = adapter(name)

    ticket = play(provider, submit(provider), answer(200, receipt))[1]

    assert ticket.id == "86"


@pytest.mark.parametrize("name", READY)
def test_poll_without_or_with_an_envelope(play, answer, name):
    """A task is read whether or not it is in `data`."""
    provider = adapter(name)
    task = {"Status": "COMPLETED", "outputs": [CLIP]}
    body = task if provider.enveloped else {"data": task}

    assert play(provider, poll(provider), answer(200, body))[1] == Finished(CLIP)


@pytest.mark.parametrize("link", ["", "done", "s3://b/1.mp4", "a b/c", None, 7])
@pytest.mark.parametrize("name", READY)
def test_ready_without_http_link(play, answer, name, link):
    """A finished task without a link that can be fetched is unreadable, not finished."""
    provider = adapter(name)
    status, word = READY[name]
    task = {status: word, "outputs": [link], "output": link}
    body = {"data": task} if provider.enveloped else task

    with pytest.raises(UnreadableError):
        play(provider, poll(provider), answer(200, body))


@pytest.mark.parametrize("body", [{"credits": False}, {"credits": "many"}, None, 7])
def test_runway_cost_that_is_no_number(play, answer, body):
    """A cost that is no number leaves the price unsaid, and the clip readable."""
    provider = adapter("runway")
    task = {"status": "SUCCEEDED", "output": [CLIP], "cost": body}

    progress = play(provider, poll(provider), answer(200, task))[1]

    assert progress == Finished(CLIP, usd=None)


@pytest.mark.parametrize("name", ["atlas", "wavespeed"])
def test_prices_are_asked_for_each_clip_of_a_route(play, answer, name):
    """A check asks for the price of each resolution and length, and skips the unsaid."""
    clips = {("480p", 5): Decimal(1), ("480p", 8): Decimal(2), ("720p", 5): Decimal(3)}
    route = Route(
        name=f"{name}/model",
        endpoints={"480p": "owner/model", "720p": "owner/model"},
        prices_usd=clips,
        fps=16,
    )
    provider = PROVIDERS[name](route, KEY)
    first = 3 if name == "atlas" else 2
    answers = [answer(200, {})] * first + [
        answer(200, {"code": 200, "data": {"price": price}}) for price in (0.1, None, 3)
    ]

    asked, checkup = play(provider, provider.check(), *answers)

    assert len(asked) == first + len(clips)
    assert checkup.prices_usd == {
        ("480p", 5): Decimal("0.1"),
        ("720p", 5): Decimal(3),
    }


def test_submit_is_built_by_its_sender():
    """A route that cannot be requested fails in the exchange, where the sender sees
    it."""
    route = Route(name="atlas/x", endpoints={}, prices_usd={}, fps=16)

    exchange = PROVIDERS["atlas"](route, KEY).submit(JOB, "https://i/1.jpg", 1, "r")

    with pytest.raises(KeyError):
        next(exchange)
