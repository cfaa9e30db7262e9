"""Rules that hold for every provider."""

import email
import email.policy
import json
from pathlib import Path

import httpx
import jwt
import pytest

from manifests.catalogue import Route
from manifests.jobs import Job
from manifests.lifecycle import Ticket
from tasks.providers import OWN_GPUS, PROVIDERS
from tasks.providers.errors import InDoubtError, ProviderError, ThrottledError
from tasks.providers.protocol import Finished, UnreadableError

KEY = "key-id:all-secret-that-is-long-enough-5160"
JOB = Job(image="https://i/1.jpg", prompt="pan")
URLS = {"status": "https://queue.fal.run/r/1/status"}
# The final status of a failed job, where it is not fal's COMPLETED.
ENDED_BADLY = {"302ai": "failed", "replicate": "failed", "runway": "FAILED"}
ENDED_BADLY |= dict.fromkeys(OWN_GPUS, "failed")
WORKFLOW = str(Path(__file__).parents[2] / "examples/comfyui/wan-2.2-i2v-4-steps.json")
STILL = "data:image/jpeg;base64,/9j/"
# A provider's message about a failed fetch: with our still's signed link, and our key.
TALKATIVE = f"cannot fetch https:\\/\\/i\\/1.jpg?X-Amz-Signature=77&a=b with {KEY}"


@pytest.fixture(params=sorted(PROVIDERS))
def provider(request):
    route = Route(
        name=f"{request.param}/model",
        endpoints={"480p": WORKFLOW if request.param == "comfyui" else "owner/model"},
        prices_usd={},
        fps=16,
    )
    return PROVIDERS[request.param](route, KEY)


@pytest.fixture
def ticket(provider):
    return Ticket(provider.name, "1", URLS | {"result": "https://queue.fal.run/r/1"})


def test_a_route_finds_its_provider_by_name(provider):
    assert type(provider) is PROVIDERS[provider.name]


def test_an_adapter_does_not_show_its_key(provider):
    assert "5160" not in repr(provider)


def proves(authorization):
    """Whether it contains the key, or a token that only the key's owner can make."""
    shown = authorization.rpartition(" ")[2]
    access, _, secret = KEY.partition(":")
    return shown == KEY or jwt.decode(shown, secret, ["HS256"])["iss"] == access


def submitted(provider, job=JOB, seed=1):
    """The request that costs; an engine on our own GPUs gets the still itself."""
    image = STILL if provider.name in OWN_GPUS else "https://i/1.jpg"
    return next(provider.submit(job, image, seed, "ref-1"))


def fields(request):
    """The fields of a request's body, by name."""
    kind = request.headers["content-type"]
    if kind.startswith("multipart/form-data"):
        whole = f"content-type: {kind}\r\n\r\n".encode() + request.content
        parts = email.message_from_bytes(whole, policy=email.policy.HTTP).iter_parts()
        names = "content-disposition"
        return {
            (part[names].params["name"],): part.get_payload(decode=True).decode(
                "utf-8", "replace"
            )
            for part in parts
        }
    return dict(leaves(json.loads(request.content)))


def leaves(body, path=()):
    if isinstance(body, dict):
        for name, value in body.items():
            yield from leaves(value, (*path, name))
    elif isinstance(body, list):
        for n, value in enumerate(body):
            yield from leaves(value, (*path, n))
    else:
        yield path, body


def test_the_key_goes_to_the_providers_own_hosts_over_tls(provider, ticket, still):
    requests = [
        submitted(provider),
        next(provider.upload(still), None),  # some take the still with the submit
        next(provider.poll(ticket)),
    ]

    for request in filter(None, requests):
        assert request.url.scheme == "https"
        assert request.url.host in provider.hosts
        assert proves(request.headers["authorization"])


def test_seed_of_zero_is_sent(provider, monkeypatch):
    """A seed of 0 is sent in every place where another seed is."""
    monkeypatch.setattr("secrets.token_hex", lambda size: "5a" * size)
    one, nought = (
        fields(submitted(provider, seed=1)),
        fields(submitted(provider, seed=0)),
    )

    assert one.keys() == nought.keys()
    differ = [place for place in one if one[place] != nought[place]]
    assert all("seed" in place[-1] for place in differ)
    assert {str(nought[place]) for place in differ} <= {"0"}


def test_a_prompt_in_any_script_goes_out_whole(provider):
    job = Job(image="i", prompt='夜の列車 "slow" 🎞')

    assert job.prompt in fields(submitted(provider, job)).values()


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("7", 7.0),
        (" 0.5 ", 0.5),
        ("0", 0.0),
        (None, None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("nan", None),
        ("1e999", None),
        ("9" * 400, None),
        ("Sun, 22 Nov 2026 10:00:00 GMT", None),
    ],
)
def test_retry_after_is_heeded_when_it_is_seconds(provider, answer, told, seconds):
    # The codes of Kling and 302.AI mean throttling where HTTP does not.
    body = {"code": 1302, "message": "slow", "msg": "slow", "detail": "slow"}
    body |= {"error": {"err_code": -10012, "message": "slow"}}
    headers = {} if told is None else {"retry-after": told}
    response = answer(429, body, headers)
    response.request = submitted(provider)

    verdict = provider.judge(response)

    assert isinstance(verdict, ThrottledError)
    assert verdict.retry_after == seconds


def failed(provider, why):
    """A poll's answer for a failed job, with the reason in every provider's field."""
    data = {"status": "failed", "error": why}
    data |= {"task_status": "failed", "task_status_msg": why}
    runner = {"error": why, "error_type": "runner_server_error"}
    runner |= {"execution_error": {"exception_message": why}}
    ended = ENDED_BADLY.get(provider.name, "COMPLETED")
    body = {"data": data, "status": ended, "failure": why} | runner
    # All non-ASCII text is escaped: half an emoji has no other form.
    return httpx.Response(200, content=json.dumps(body).encode())


def test_recorded_failure_has_no_secrets(provider, play, ticket):
    """The recorded reason of a failure contains no key and no signature."""
    _, progress = play(provider, provider.poll(ticket), failed(provider, TALKATIVE))

    assert "cannot fetch" in progress.reason
    assert "5160" not in progress.reason
    assert "X-Amz" not in progress.reason


def test_reason_cut_within_an_emoji_can_be_recorded(provider, play, ticket):
    """A reason that the provider cut within an emoji can still be encoded as UTF-8."""
    cut = failed(provider, "cannot animate \ud83c")

    _, progress = play(provider, provider.poll(ticket), cut)

    assert progress.reason.encode().endswith(b"cannot animate ?")


@pytest.mark.parametrize("raw", [False, True])
def test_unreadable_answer_is_quoted_without_secrets(
    provider, play, answer, ticket, raw
):
    """A quote from an unreadable answer contains no key and no signature."""
    body = {"data": {"status": "snoozed"}, "status": "SNOOZED", "error": TALKATIVE}
    body = TALKATIVE.encode() if raw else body

    with pytest.raises(UnreadableError) as caught:
        play(provider, provider.poll(ticket), answer(200, body))

    assert "5160" not in str(caught.value)
    assert "X-Amz" not in str(caught.value)


ANY_WORDS = (
    "created pending queued in_queue submitted starting processing running throttled "
    "in_progress completed succeeded success failed error cancelled canceled aborted "
    "timeout deleted snoozed"
).split()


@pytest.mark.parametrize("word", ANY_WORDS)
def test_any_status_word_is_read_or_unreadable(provider, play, answer, ticket, word):
    """A status word of any provider is understood, or the poll is unreadable."""
    body = {"id": "1", "status": word, "error": "out of luck"}
    body |= {"data": {**body, "task_status": word}}

    try:
        _, progress = play(provider, provider.poll(ticket), answer(200, body))
    except (UnreadableError, ProviderError):
        return

    is_open = progress is None or progress is ...  # fal asks for the result as well
    assert is_open or isinstance(progress, Finished) or progress.reason


def test_a_poll_is_never_an_end_by_its_http_status_alone(provider, ticket, answer):
    polling = next(provider.poll(ticket))
    ends = {"RejectedError"}

    for status in range(300, 600):
        response = answer(status, b"<html></html>")
        response.request = polling
        assert type(provider.judge(response)).__name__ not in ends


def test_submit_answered_by_a_page_is_in_doubt(provider, answer):
    """A submit that an HTML page answers is in doubt, whatever the status."""
    submit = submitted(provider)

    for status in range(300, 600):
        response = answer(status, b"<html></html>")
        response.request = submit
        assert type(provider.judge(response)).__name__ == "InDoubtError"


@pytest.mark.parametrize("step", ["submit", "poll"])
def test_gateways_page_is_not_the_providers_own(provider, ticket, answer, step):
    """A page with a 5xx status has a shape, so that the lane rests after a few alike."""
    polling = next(provider.poll(ticket))
    request = submitted(provider) if step == "submit" else polling

    for status in range(500, 600):
        response = answer(status, b"<html><h1>Bad Gateway</h1></html>")
        response.request = request
        told = provider.judge(response)
        lost = "gateway" if status in {502, 503} else "unclear"
        assert isinstance(told, InDoubtError)
        assert (told.shape, told.lost) == ("5xx ", lost)
        assert "Bad Gateway" in str(told)
