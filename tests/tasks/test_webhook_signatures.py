"""Signatures that prove a provider sent a webhook, computed here by its rules."""

import base64
import hashlib
import hmac
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from replicate.webhook import Webhooks, WebhookSigningSecret

from tasks.webhooks.hints import Hint
from tasks.webhooks.signatures import (
    Atlas,
    Delivery,
    Fal,
    ForgedError,
    Key,
    Replicate,
    Seen,
    ShapelessError,
    Told,
    UnknownKeyError,
    WaveSpeed,
    keys,
)

NOW = 1_795_000_000
TEXT = b"mJb2zLk0aGVyZQ"
SECRET = f"whsec_{TEXT.decode()}"
RAW = b"thirty-two bytes that are a key."
SECRET_OF_RAW = f"whsec_{base64.b64encode(RAW).decode()}"
PRIVATE = Ed25519PrivateKey.from_private_bytes(b"1" * 32)
OTHER = Ed25519PrivateKey.from_private_bytes(b"2" * 32)
KEYS = (Key("k1", PRIVATE.public_key()),)

PREDICTION = b'{"id": "p-1", "status": "completed", "outputs": ["https://x/y.mp4"]}'
FAL_END = b'{"request_id": "r-1", "gateway_request_id": "r-9", "status": "OK"}'
ATLAS_END = b'{"session_id": "s-1", "status": "OK", "payload": {"status": "failed"}}'


def wavespeed(body=PREDICTION, *, at=NOW, key=TEXT, prefix="v3,"):
    message = b"evt-1." + str(at).encode() + b"." + body
    mac = hmac.new(key, message, hashlib.sha256).hexdigest()
    return delivery(body, at, f"{prefix}{mac}")


def replicate(body=PREDICTION, *, at=NOW, key=RAW, prefix="v1,"):
    message = b"evt-1." + str(at).encode() + b"." + body
    mac = hmac.new(key, message, hashlib.sha256).digest()
    return delivery(body, at, prefix + base64.b64encode(mac).decode())


def delivery(body, at, signature):
    headers = {
        "webhook-id": "evt-1",
        "webhook-timestamp": str(at),
        "webhook-signature": signature,
    }
    return Delivery(headers, body)


def fal(body=FAL_END, *, at=NOW, key=PRIVATE):
    lines = ["r-1", "github|7", str(at), hashlib.sha256(body).hexdigest()]
    headers = {
        "x-fal-webhook-request-id": "r-1",
        "x-fal-webhook-user-id": "github|7",
        "x-fal-webhook-timestamp": str(at),
        "x-fal-webhook-signature": key.sign("\n".join(lines).encode()).hex(),
    }
    return Delivery(headers, body)


def atlas(body=ATLAS_END, *, at=NOW, key=PRIVATE, kid="k1", name="-ed25519"):
    signature = key.sign(str(at).encode() + b"." + body)
    text = base64.urlsafe_b64encode(signature).decode().rstrip("=")
    headers = {
        "x-atlascloud-webhook-id": "unsigned",
        "x-atlascloud-webhook-timestamp": str(at),
        "x-atlascloud-webhook-key-id": kid,
        f"x-atlascloud-webhook-signature{name}": text,
    }
    return Delivery(headers, body)


SCHEMES = {
    "wavespeed": (WaveSpeed(SECRET), wavespeed),
    "replicate": (Replicate(SECRET_OF_RAW), replicate),
    "fal": (Fal(KEYS), fal),
    "atlas": (Atlas(KEYS), atlas),
}


@pytest.fixture(params=SCHEMES)
def signed(request):
    """Each scheme in turn, with the function that signs for it."""
    return SCHEMES[request.param]


# Good signatures


@pytest.mark.parametrize(
    ("provider", "told"),
    [
        ("wavespeed", Told(Hint("wavespeed", "p-1"), "evt-1")),
        ("replicate", Told(Hint("replicate", "p-1"), "evt-1")),
        ("fal", Told(Hint("fal", "r-1"), "r-1 OK")),
        ("atlas", Told(Hint("atlas", "s-1"), "s-1 OK")),
    ],
)
def test_good_delivery_yields_its_job(provider, told):
    scheme, sign = SCHEMES[provider]

    assert scheme.read(sign(), NOW) == told


def test_delivery_that_replicates_client_accepts_is_accepted():
    sent = replicate()

    Webhooks.validate(
        headers=dict(sent.headers),
        body=sent.body.decode(),
        secret=WebhookSigningSecret(key=SECRET_OF_RAW),
    )
    assert Replicate(SECRET_OF_RAW).read(sent, NOW)


def test_one_good_signature_suffices_while_a_secret_changes():
    """While a secret is rotated, one good signature among several suffices."""
    old, new = replicate(key=b"the old key"), replicate()
    both = " ".join(one.headers["webhook-signature"] for one in (old, new))

    assert Replicate(SECRET_OF_RAW).read(delivery(PREDICTION, NOW, both), NOW)


def test_any_of_fals_keys_will_do():
    pair = (Key("", OTHER.public_key()), *KEYS)

    assert Fal(pair).read(fal(), NOW)


def test_atlas_may_move_its_signature_to_the_shorter_name():
    assert Atlas(KEYS).read(atlas(name=""), NOW)


@pytest.mark.parametrize("off_s", [-300, 300])
def test_five_minutes_are_allowed_either_way(signed, off_s):
    scheme, sign = signed

    assert scheme.read(sign(at=NOW - off_s), NOW)


# Forgeries


def test_a_body_that_was_changed_is_refused(signed):
    scheme, sign = signed
    sent = sign()

    with pytest.raises(ForgedError):
        scheme.read(replace(sent, body=sent.body.replace(b"-1", b"-2")), NOW)


@pytest.mark.parametrize("provider", SCHEMES)
@given(data=st.data())
def test_change_of_any_signed_byte_is_detected(provider, data):
    scheme, sign = SCHEMES[provider]
    sent = sign()
    at = data.draw(st.integers(0, len(sent.body) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda one: one != sent.body[at]))
    changed = sent.body[:at] + bytes([byte]) + sent.body[at + 1 :]

    with pytest.raises(ForgedError):
        scheme.read(replace(sent, body=changed), NOW)


@given(body=st.binary(max_size=300), signature=st.text(max_size=120))
@pytest.mark.parametrize("provider", SCHEMES)
def test_any_post_of_a_stranger_raises_only_forged_error(provider, body, signature):
    scheme, sign = SCHEMES[provider]
    headers = {
        name: signature if "signature" in name else value
        for name, value in sign().headers.items()
    }

    with pytest.raises(ForgedError):
        scheme.read(Delivery(headers, body), NOW)


SIGNED_HEADERS = [
    ("wavespeed", "webhook-id"),
    ("wavespeed", "webhook-timestamp"),
    ("replicate", "webhook-id"),
    ("replicate", "webhook-timestamp"),
    ("fal", "x-fal-webhook-request-id"),
    ("fal", "x-fal-webhook-user-id"),
    ("fal", "x-fal-webhook-timestamp"),
    ("atlas", "x-atlascloud-webhook-timestamp"),
]


@pytest.mark.parametrize(("provider", "name"), SIGNED_HEADERS)
def test_a_signed_header_cannot_be_changed(provider, name):
    scheme, sign = SCHEMES[provider]
    sent = sign()
    other = str(NOW + 1) if name.endswith("timestamp") else "other"

    with pytest.raises(ForgedError):
        scheme.read(replace(sent, headers={**sent.headers, name: other}), NOW)


def test_no_line_end_makes_another_message_of_the_same_bytes():
    sent = fal()
    moved = {
        **sent.headers,
        "x-fal-webhook-request-id": "r-1\ngithub|7",
        "x-fal-webhook-user-id": str(NOW),
    }

    with pytest.raises(ForgedError, match="request-id"):
        Fal(KEYS).read(replace(sent, headers=moved), NOW)


@pytest.mark.parametrize("provider", ["wavespeed", "replicate"])
def test_the_same_bytes_parted_elsewhere_make_no_hint(provider):
    scheme, sign = SCHEMES[provider]
    sent = sign(b'{"id": "p-1", "status": "completed", "took": 1.5, "of": "7.5.{}"}')
    pieces = [b"evt-1", str(NOW).encode(), *sent.body.split(b".")]

    for end in range(2, len(pieces)):
        moved = {
            **sent.headers,
            "webhook-id": b".".join(pieces[: end - 1]).decode(),
            "webhook-timestamp": pieces[end - 1].decode(),
        }
        there = replace(sent, headers=moved, body=b".".join(pieces[end:]))
        if there == sent:
            continue
        with pytest.raises((ForgedError, ShapelessError)):
            scheme.read(there, NOW)


@pytest.mark.parametrize(("off_s", "side"), [(301, "behind"), (-301, "ahead of")])
def test_timestamp_over_five_minutes_off_is_refused(signed, off_s, side):
    scheme, sign = signed

    with pytest.raises(ForgedError, match=f"301 s {side} our clock"):
        scheme.read(sign(at=NOW - off_s), NOW)


@pytest.mark.parametrize("at", ["", "soon", "-1", "1e9", "1795000000.5", "٣", "9" * 40])
def test_a_time_that_is_none_is_refused(signed, at):
    scheme, sign = signed

    with pytest.raises(ForgedError, match="timestamp"):
        scheme.read(sign(at=at), NOW)


def test_every_header_is_needed(signed):
    scheme, sign = signed
    sent = sign()

    for name in sent.headers:
        if name == "x-atlascloud-webhook-id":  # it proves nothing
            continue
        rest = {key: value for key, value in sent.headers.items() if key != name}
        with pytest.raises(ForgedError):
            scheme.read(replace(sent, headers=rest), NOW)


@pytest.mark.parametrize(
    ("scheme", "sent"),
    [
        (WaveSpeed(SECRET), wavespeed(key=b"another")),
        (WaveSpeed(SECRET), wavespeed(key=SECRET.encode())),
        (WaveSpeed(SECRET), wavespeed(key=base64.b64decode(TEXT + b"=="))),
        (Replicate(SECRET_OF_RAW), replicate(key=b"another")),
        (Replicate(SECRET_OF_RAW), replicate(key=SECRET_OF_RAW[6:].encode())),
        (Fal(KEYS), fal(key=OTHER)),
        (Atlas(KEYS), atlas(key=OTHER)),
        (Atlas((*KEYS, Key("k2", OTHER.public_key()))), atlas(kid="k2")),
    ],
    ids=[
        "wavespeed: another secret",
        "wavespeed: its prefix and all",
        "wavespeed: base64-decoded",
        "replicate: another secret",
        "replicate: not base64-decoded",
        "fal: another key",
        "atlas: another key",
        "atlas: another key's name",
    ],
)
def test_signature_with_another_key_is_refused(scheme, sent):
    with pytest.raises(ForgedError):
        scheme.read(sent, NOW)


@pytest.mark.parametrize("prefix", ["v1,", "v2,", "v3", "V3,", ""])
def test_wavespeeds_signature_is_its_third_and_no_other(prefix):
    with pytest.raises(ForgedError):
        WaveSpeed(SECRET).read(wavespeed(prefix=prefix), NOW)


@pytest.mark.parametrize("prefix", ["v1a,", "v2,", "v3,", ""])
def test_replicates_signature_is_its_first_and_no_other(prefix):
    with pytest.raises(ForgedError):
        Replicate(SECRET_OF_RAW).read(replicate(prefix=prefix), NOW)


def test_one_providers_delivery_proves_nothing_at_anothers_door():
    for provider, (scheme, _) in SCHEMES.items():
        for other, (_, sign) in SCHEMES.items():
            if other == provider:
                continue
            with pytest.raises(ForgedError):
                scheme.read(sign(), NOW)


def test_the_older_hmac_of_atlas_is_not_taken():
    sent = atlas(name="")
    mac = hmac.new(b"k", sent.body, hashlib.sha256).hexdigest()
    headers = {**sent.headers, "x-atlascloud-webhook-signature": mac}

    with pytest.raises(ForgedError):
        Atlas(KEYS).read(replace(sent, headers=headers), NOW)


def test_unknown_key_is_distinguished_from_a_forgery():
    with pytest.raises(UnknownKeyError):
        Atlas(KEYS).read(atlas(kid="k2"), NOW)
    with pytest.raises(UnknownKeyError):
        Fal(()).read(fal(), NOW)
    with pytest.raises(ForgedError) as caught:
        Atlas(KEYS).read(atlas(key=OTHER), NOW)
    assert not isinstance(caught.value, UnknownKeyError)


# Genuine webhooks that cannot be read


def named(remote):
    """A body in the forms of all providers: the end of the job with this id."""
    fields = dict.fromkeys(["id", "request_id", "session_id"], remote)
    return json.dumps(fields | {"status": "OK"}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe",
        b"<html>",
        b"[]",
        b'"p-1"',
        b'{"status": "completed"}',
        b"[" * 100_000,
        named(7),
        named(""),
        named("x" * 201),
        named("a\nb"),
    ],
    ids=range(11),
)
def test_a_signed_body_without_a_job_is_no_forgery_and_no_hint(signed, body):
    scheme, sign = signed

    with pytest.raises(ShapelessError):
        scheme.read(sign(body), NOW)


# Secrets in messages


def test_no_complaint_repeats_a_signature_a_secret_or_a_body(signed):
    scheme, sign = signed
    good = sign()
    kept = [SECRET, TEXT.decode(), SECRET_OF_RAW, good.body.decode()]
    kept += [value for name, value in good.headers.items() if "signature" in name]
    bad = [
        replace(good, body=good.body + b" "),
        sign(at=1),
        sign(b"[]"),
        replace(good, headers={}),
    ]

    shown = [repr(scheme), repr(scheme).lower()]
    for one in bad:
        with pytest.raises((ForgedError, ShapelessError)) as caught:
            scheme.read(one, NOW)
        shown.append(f"{caught.value!r} {caught.value}")

    assert [secret for secret in kept for line in shown if secret in line] == []


@pytest.mark.parametrize("secret", ["", "whsec_"])
def test_an_empty_secret_that_anybody_could_sign_with_is_refused(secret):
    for scheme in (WaveSpeed, Replicate):
        with pytest.raises(ValueError, match=f"{scheme.name}: its webhook secret"):
            scheme(secret)


def test_a_secret_that_is_no_base64_is_refused_and_not_repeated():
    with pytest.raises(ValueError, match="whsec_") as caught:
        Replicate("whsec_not*base64")

    assert "not*base64" not in str(caught.value)


# Keys


def jwk(private, **more):
    x = base64.urlsafe_b64encode(private.public_key().public_bytes_raw()).decode()
    return {"kty": "OKP", "crv": "Ed25519", "x": x, **more}


def test_keys_are_read_with_and_without_padding_and_name():
    bare = {**jwk(OTHER, kid="k2"), "x": jwk(OTHER)["x"].rstrip("=")}

    first, second = keys({"keys": [jwk(PRIVATE), bare]})

    assert (first.id, second.id) == ("", "k2")
    assert Fal((first,)).read(fal(), NOW)
    assert Atlas((second,)).read(atlas(key=OTHER, kid="k2"), NOW)


def test_keys_of_other_kinds_are_passed_over():
    others = [
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "OKP", "crv": "X25519", "x": "AA"},
    ]

    assert [key.id for key in keys({"keys": [*others, jwk(PRIVATE, kid="k1")]})] == [
        "k1"
    ]


@pytest.mark.parametrize(
    "document",
    [
        None,
        [],
        {},
        {"keys": {}},
        {"keys": ["k1"]},
        {"keys": [{**jwk(PRIVATE), "x": "AA"}]},
        {"keys": [{**jwk(PRIVATE), "x": "*"}]},
    ],
)
def test_document_that_is_no_key_set_is_refused(document):
    with pytest.raises(ShapelessError):
        keys(document)


# Repeats


def test_repeated_delivery_is_recognized():
    seen = Seen()
    told = Told(Hint("fal", "r-1"), "r-1 OK")

    assert seen.is_new(told)
    assert not seen.is_new(told)
    assert seen.is_new(Told(Hint("atlas", "r-1"), "r-1 OK"))
    assert seen.is_new(Told(Hint("fal", "r-1"), "r-1 ERROR"))


def test_only_so_many_deliveries_are_remembered():
    seen = Seen(most=2)
    first, second, third = (Told(Hint("fal", "r"), str(n)) for n in range(3))

    for told in (first, second, third):
        seen.is_new(told)

    assert not seen.is_new(third)
    assert not seen.is_new(second)
    assert seen.is_new(first)
