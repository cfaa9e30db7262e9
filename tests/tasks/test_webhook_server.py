"""The listener on real sockets: webhooks in, hints out, and no secrets out."""

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import repeat

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tasks.webhooks.hints import PAGE, Board, Hint, hints, pause
from tasks.webhooks.jwks import AGAIN_S, KEPT_S, Keyring, NoKeysError
from tasks.webhooks.server import LARGEST_BODY, listening
from tasks.webhooks.signatures import Atlas, Delivery, Fal, ForgedError

pytestmark = pytest.mark.anyio

TEXT = "mJb2zLk0aGVyZQ"
RAW = b"thirty-two bytes that are a key."
SHARED = {
    "wavespeed": f"whsec_{TEXT}",
    "replicate": f"whsec_{base64.b64encode(RAW).decode()}",
}
PRIVATE = Ed25519PrivateKey.from_private_bytes(b"1" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"2" * 32)


def wavespeed(remote="p-1", *, event="evt-1", off_s=0, secret=TEXT, body=None):
    body = body or json.dumps({"id": remote, "status": "completed"}).encode()
    at = str(int(time.time() + off_s))
    message = f"{event}.{at}.".encode() + body
    mac = hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
    headers = {
        "webhook-id": event,
        "webhook-timestamp": at,
        "webhook-signature": f"v3,{mac}",
    }
    return Delivery(headers, body)


def replicate():
    body = b'{"id": "p-2", "status": "succeeded"}'
    at = str(int(time.time()))
    mac = hmac.new(RAW, f"evt-2.{at}.".encode() + body, hashlib.sha256).digest()
    signature = f"v1,{base64.b64encode(mac).decode()}"
    headers = {
        "webhook-id": "evt-2",
        "webhook-timestamp": at,
        "webhook-signature": signature,
    }
    return Delivery(headers, body)


def fal(key=PRIVATE, *, off_s=0):
    body = b'{"request_id": "r-1", "status": "OK"}'
    at = str(int(time.time() + off_s))
    lines = ["r-1", "u-1", at, hashlib.sha256(body).hexdigest()]
    headers = {
        "x-fal-webhook-request-id": "r-1",
        "x-fal-webhook-user-id": "u-1",
        "x-fal-webhook-timestamp": at,
        "x-fal-webhook-signature": key.sign("\n".join(lines).encode()).hex(),
    }
    return Delivery(headers, body)


def atlas(key=PRIVATE, kid="k1", *, off_s=0):
    body = b'{"session_id": "s-1", "status": "OK"}'
    at = str(int(time.time() + off_s))
    signature = base64.urlsafe_b64encode(key.sign(f"{at}.".encode() + body)).decode()
    headers = {
        "x-atlascloud-webhook-timestamp": at,
        "x-atlascloud-webhook-key-id": kid,
        "x-atlascloud-webhook-signature-ed25519": signature,
    }
    return Delivery(headers, body)


def jwks(**private):
    listed = [
        {
            "kid": kid,
            "kty": "OKP",
            "crv": "Ed25519",
            "x": base64.urlsafe_b64encode(key.public_key().public_bytes_raw()).decode(),
        }
        for kid, key in private.items()
    ]
    return json.dumps({"keys": listed})


class Site:
    """An HTTP server that gives the answers it is set to and counts the requests."""

    def __init__(self, text="", status=200):
        self.text, self.status, self.asked = text, status, 0
        self.next: Iterator[tuple[int, str]] | None = None
        self.url = ""

    def answer(self):
        self.asked += 1
        if self.next is not None:
            return next(self.next)
        return self.status, self.text


@contextmanager
def serving(site):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, text = site.answer()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_port}/"
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def published():
    """The site on which fal and Atlas publish their keys."""
    with serving(Site(jwks(k1=PRIVATE))) as site:
        yield site


@pytest.fixture
def opened(published):
    """Opens a listener that knows every provider, on two ports or on the same one."""

    def listener(**options):
        both = {"fal": published.url, "atlas": published.url}
        return listening(SHARED, jwks=both, **{"port": 0, "hints_port": 0} | options)

    return listener


@pytest.fixture
async def client():
    async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
        yield client


async def post(client, at, provider, delivery):
    url = f"{at.webhooks}/webhooks/{provider}"
    return await client.post(url, headers=dict(delivery.headers), content=delivery.body)


async def told(client, at, **asked):
    response = await client.get(f"{at.hints}/hints", params=asked)
    return response.raise_for_status().json()


# From a webhook to a hint


@pytest.mark.parametrize(
    ("provider", "sign", "remote"),
    [
        ("wavespeed", wavespeed, "p-1"),
        ("replicate", replicate, "p-2"),
        ("fal", fal, "r-1"),
        ("atlas", atlas, "s-1"),
    ],
)
async def test_signed_post_is_a_hint_for_every_waiting_engine(
    opened, client, provider, sign, remote
):
    async with opened() as at:
        first = await told(client, at)
        waiting = asyncio.create_task(told(client, at, after=0, wait=30))
        answer = await post(client, at, provider, sign())

        page = await waiting

    assert answer.status_code == 204
    assert answer.content == b""
    assert page == {
        "last": 1,
        "run": first["run"],
        "hints": [{"provider": provider, "id": remote}],
    }


async def test_wait_without_a_hint_gets_an_empty_answer(opened, client):
    async with opened() as at:
        page = await told(client, at, after=0, wait=0.05)

    assert (page["last"], page["hints"]) == (0, [])


async def test_each_engine_gets_a_hint_once_by_its_number(opened, client):
    async with opened() as at:
        for n in range(3):
            await post(client, at, "wavespeed", wavespeed(f"p-{n}", event=f"evt-{n}"))

        everything = await told(client, at)
        rest = await told(client, at, after=2)
        nothing = await told(client, at, after=3)

    assert [hint["id"] for hint in everything["hints"]] == ["p-0", "p-1", "p-2"]
    assert [hint["id"] for hint in rest["hints"]] == ["p-2"]
    assert (nothing["last"], nothing["hints"]) == (3, [])


async def test_repeated_delivery_is_accepted_and_forwarded_once(opened, client):
    async with opened() as at:
        answers = [
            await post(client, at, provider, delivery)
            for provider, delivery in [
                ("wavespeed", wavespeed()),
                ("wavespeed", wavespeed()),
                ("atlas", atlas(off_s=-9)),
                ("atlas", atlas()),
            ]
        ]
        page = await told(client, at)

    assert {answer.status_code for answer in answers} == {204}
    assert [hint["id"] for hint in page["hints"]] == ["p-1", "s-1"]


# Refused webhooks


@pytest.mark.parametrize(
    ("provider", "sign", "status"),
    [
        ("wavespeed", partial(wavespeed, secret="another"), 401),
        ("wavespeed", partial(wavespeed, off_s=-1000), 401),
        ("wavespeed", partial(wavespeed, off_s=1000), 401),
        ("wavespeed", partial(Delivery, {}, b"{}"), 401),
        ("wavespeed", partial(wavespeed, body=b"not JSON"), 400),
        ("wavespeed", partial(wavespeed, body=b"{}"), 400),
        ("wavespeed", partial(wavespeed, body=b" " * (LARGEST_BODY + 1)), 413),
        ("replicate", wavespeed, 401),
        ("fal", partial(fal, OTHER), 401),
        ("fal", atlas, 401),
        ("atlas", partial(atlas, OTHER), 401),
        ("atlas", partial(atlas, kid="k2"), 401),
        ("kling", wavespeed, 404),
    ],
    ids=[
        "another secret",
        "old",
        "of the future",
        "unsigned",
        "no JSON",
        "no job",
        "too large",
        "another's",
        "another key",
        "another's keys",
        "another's key",
        "an unknown key",
        "nobody's",
    ],
)
async def test_refused_webhook_becomes_no_hint(
    opened, client, *, provider, sign, status
):
    async with opened() as at:
        answer = await post(client, at, provider, sign())
        page = await told(client, at)

    assert (answer.status_code, answer.content) == (status, b"")
    assert page["last"] == 0


async def test_a_provider_without_its_secret_is_not_there(client):
    async with listening({}, port=0, hints_port=0) as at:
        answer = await post(client, at, "wavespeed", wavespeed(secret=""))

    assert answer.status_code == 404


async def test_the_largest_body_is_taken(opened, client):
    body = json.dumps({"id": "p-1", "status": "completed", "logs": ""}).encode()
    body = body.replace(b'""', b'"' + b"x" * (LARGEST_BODY - len(body)) + b'"')

    async with opened() as at:
        answer = await post(client, at, "wavespeed", wavespeed(body=body))

    assert len(body) == LARGEST_BODY
    assert answer.status_code == 204


async def test_public_port_has_no_hints_and_hints_port_no_posts(opened, client):
    async with opened() as at:
        world = await client.get(f"{at.webhooks}/hints")
        looked = await client.get(f"{at.webhooks}/webhooks/wavespeed")
        engine = await client.post(f"{at.hints}/webhooks/wavespeed")

    statuses = (world.status_code, looked.status_code, engine.status_code)
    assert statuses == (404, 405, 404)


@pytest.mark.parametrize("asked", ["after=-1", "after=x", "wait=x", "wait=nan"])
async def test_a_question_without_meaning_is_refused(opened, client, asked):
    async with opened() as at:
        answer = await client.get(f"{at.hints}/hints?{asked}")

    assert answer.status_code == 400


async def test_nothing_secret_is_answered_or_logged(opened, client, caplog):
    caplog.set_level(logging.DEBUG)
    sent = [
        ("wavespeed", wavespeed()),
        ("wavespeed", wavespeed(secret="another")),
        ("wavespeed", wavespeed(body=b"what nobody may read")),
        ("replicate", replicate()),
        ("fal", fal()),
        ("fal", fal(OTHER)),
        ("atlas", atlas()),
        ("atlas", atlas(kid="k2")),
        ("kling", wavespeed()),
    ]

    async with opened() as at:
        answers = [await post(client, at, *one) for one in sent]
        page = await client.get(f"{at.hints}/hints")

    kept = [TEXT, *SHARED.values()]
    kept += [delivery.body.decode() for _, delivery in sent]
    kept += [
        part
        for _, delivery in sent
        for name, value in delivery.headers.items()
        if "signature" in name
        for part in (value, value.partition(",")[2] or value)
    ]
    public = [
        page.text,
        *(f"{answer.headers} {answer.text}" for answer in answers),
        *(record.getMessage() for record in caplog.records),
    ]
    assert "webhook.taken provider=fal id=r-1" in caplog.text
    assert "webhook.refused provider=atlas" in caplog.text
    assert [one for one in kept for line in public if one in line] == []


async def test_a_port_that_is_taken_is_complained_of(opened):
    async with opened() as at:
        port = httpx.URL(at.webhooks).port

        with pytest.raises(OSError, match="in use"):
            async with opened(port=port):
                pass


# The board


async def test_only_the_last_hints_are_kept():
    board = Board(most=3)
    for n in range(5):
        board.post(Hint("fal", str(n)))

    everything = await board.after(0, 0)
    newest = await board.after(4, 0)

    assert [hint.id for hint in everything.hints] == ["2", "3", "4"]
    assert everything.last == 5
    assert [hint.id for hint in newest.hints] == ["4"]


async def test_many_hints_are_served_in_pages():
    board = Board()
    for n in range(PAGE + 2):
        board.post(Hint("fal", str(n)))

    first = await board.after(0, 0)
    second = await board.after(first.last, 0)

    assert (len(first.hints), first.last) == (PAGE, PAGE)
    assert [hint.id for hint in second.hints] == [str(PAGE), str(PAGE + 1)]
    assert second.last == PAGE + 2


async def test_number_from_an_earlier_process_gets_every_hint():
    """A hint number from an earlier process is answered with every hint."""
    board = Board()
    board.post(Hint("fal", "r-1"))

    page = await board.after(700, 60)

    assert (page.last, page.hints) == (1, (Hint("fal", "r-1"),))


async def test_closed_board_ends_every_wait():
    board = Board()
    waiting = asyncio.create_task(board.after(0, 60))
    await asyncio.sleep(0)

    board.close()

    assert (await waiting).hints == ()
    assert (await board.after(0, 60)).hints == ()


# The engine's side


async def collected(url, until, **options):
    found = []
    async with aclosing(hints(url, pauses=lambda _: 0.01, **options)) as stream:
        async for hint in stream:
            found.append(hint)
            if until(found):
                return found
    raise AssertionError("hints do not end by themselves")


async def test_engine_receives_hints_from_before_and_after_it_connects(opened, client):
    """An engine receives the hints from before it connected and those that follow."""
    async with opened() as at:
        await post(client, at, "fal", fal())
        stream = hints(at.hints)
        async with aclosing(stream):
            before = await anext(stream)
            later = asyncio.ensure_future(anext(stream))
            await post(client, at, "atlas", atlas())
            after = await later

    assert (before, after) == (Hint("fal", "r-1"), Hint("atlas", "s-1"))


async def test_an_engine_outlives_its_listener(opened, client):
    async with opened() as at:
        port = httpx.URL(at.hints).port
        stream = hints(at.hints, pauses=lambda _: 0.01)
        for n in range(3):
            await post(client, at, "wavespeed", wavespeed(f"a-{n}", event=f"{n}"))
        first = [(await anext(stream)).id for _ in range(3)]
        waiting = asyncio.ensure_future(anext(stream))

    async with opened(hints_port=port) as at:
        await post(client, at, "wavespeed", wavespeed("b-0", event="9"))
        second = (await waiting).id
        await post(client, at, "wavespeed", wavespeed("b-1", event="10"))
        third = (await anext(stream)).id
    await stream.aclose()

    assert first == ["a-0", "a-1", "a-2"]
    assert (second, third) == ("b-0", "b-1")


async def test_an_engine_waits_for_a_listener_that_is_not_there_yet(opened, client):
    async with opened() as at:
        port = httpx.URL(at.hints).port
    tried = asyncio.Event()

    def paused(failures):
        if failures == 3:
            tried.set()
        return 0.01

    stream = hints(at.hints, pauses=paused)
    waiting = asyncio.ensure_future(anext(stream))
    await tried.wait()
    async with opened(hints_port=port) as at:
        await post(client, at, "fal", fal())
        hint = await waiting
    await stream.aclose()

    assert hint == Hint("fal", "r-1")


async def test_engine_ignores_answers_that_are_not_a_listeners(caplog):
    """Answers from something that is not a listener cause one log line and no error."""
    page = {"last": 1, "run": "r", "hints": [{"provider": "fal", "id": "r-1"}]}
    bad = [
        (502, "<html>"),
        (200, "<html>"),
        (200, "[]"),
        (200, '{"last": "1", "run": "r", "hints": []}'),
        (200, '{"last": 1, "run": "r", "hints": ["r-1"]}'),
        (404, ""),
    ]
    site = Site()
    site.next = iter([*bad, *repeat((200, json.dumps(page)), 2)])

    with serving(site):
        found = await collected(site.url, lambda found: len(found) == 1)

    assert found == [Hint("fal", "r-1")]
    assert [record.message for record in caplog.records] == [
        f"hints.unavailable url={site.url} error=HTTPStatusError providers are polled as often as without webhooks"
    ]


def test_pauses_grow_to_half_a_minute_and_no_further():
    pauses = [pause(n) for n in range(1, 100)]

    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30.0


# The providers' keys


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


async def test_keys_are_fetched_once_a_day(published, client, clock):
    ring = Keyring(published.url, client, Fal, clock)

    for _ in range(5):
        await ring.read(fal(), time.time())
    clock.now += KEPT_S - 1
    await ring.read(fal(), time.time())
    before = published.asked
    clock.now += 1
    await ring.read(fal(), time.time())

    assert (before, published.asked) == (1, 2)


@pytest.mark.parametrize(
    ("scheme", "old", "new"),
    [(Fal, fal, partial(fal, OTHER)), (Atlas, atlas, partial(atlas, OTHER, "k2"))],
)
async def test_a_new_key_is_learned_when_it_is_first_used(
    published, client, clock, *, scheme, old, new
):
    ring = Keyring(published.url, client, scheme, clock)
    await ring.read(old(), time.time())
    published.text = jwks(k2=OTHER)
    clock.now += AGAIN_S

    read = await ring.read(new(), time.time())

    assert read.hint.id in {"r-1", "s-1"}
    assert published.asked == 2
    with pytest.raises(ForgedError):  # it was withdrawn
        await ring.read(old(), time.time())


async def test_strangers_cause_one_fetch_of_keys_a_minute_at_most(
    published, client, clock
):
    """Forged webhooks cause at most one fetch of a provider's keys a minute."""
    ring = Keyring(published.url, client, Atlas, clock)
    await ring.read(atlas(), time.time())
    clock.now += AGAIN_S

    forged = [ring.read(atlas(OTHER, f"k{n}"), time.time()) for n in range(2, 50)]
    refused = await asyncio.gather(*forged, return_exceptions=True)

    assert {type(one).__base__ for one in refused} == {ForgedError}
    assert published.asked == 2


@pytest.mark.parametrize(
    ("status", "text"),
    [(500, ""), (200, "<html>"), (200, "{}"), (200, "[" * 100_000), (302, "")],
    ids=["broken", "a page", "no keys", "deep", "elsewhere"],
)
async def test_webhook_without_known_keys_is_not_called_forged(
    published, client, clock, *, status, text
):
    ring = Keyring(published.url, client, Fal, clock)
    good = published.text
    published.status, published.text = status, text

    for _ in range(3):
        with pytest.raises(NoKeysError):
            await ring.read(fal(), time.time())
    asked = published.asked
    published.status, published.text = 200, good
    clock.now += AGAIN_S
    read = await ring.read(fal(), time.time())

    assert asked == 1
    assert read.hint == Hint("fal", "r-1")


async def test_webhook_is_answered_503_while_keys_cannot_be_fetched(
    opened, client, published
):
    """If a provider's keys cannot be fetched, its webhook is answered with 503."""
    published.status = 500

    async with opened() as at:
        answer = await post(client, at, "fal", fal())

    assert answer.status_code == 503
