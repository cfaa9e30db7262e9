"""Verifies that a provider sent a webhook, and reads which job it is about.

Each provider signs in its own way, and always the exact bytes of the body. Nothing here
parses a body before its signature is verified, and nothing here does any I/O.
"""

import base64
import binascii
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, ClassVar, Final, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tasks.webhooks.hints import Hint

TOLERANCE_S: Final = 300
"""The largest difference between a delivery's time and ours: all four providers recommend
it."""

REMEMBERED: Final = 10_000
"""The number of deliveries remembered, to detect repeats."""

LONGEST_ID: Final = 200

_SECONDS: Final = re.compile(r"[0-9]{1,12}")
_PREFIX: Final = "whsec_"


class WebhookError(Exception):
    """Base class: a delivery without a hint. No message repeats a signature or secret."""


class ForgedError(WebhookError):
    """Nothing proves that the provider sent it, or that it was sent just now."""


class UnknownKeyError(ForgedError):
    """None of our keys fits the signature; the provider may have new keys."""


class ShapelessError(WebhookError):
    """The provider sent it, but it cannot be read."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A post: its headers with names in lower case, and the exact bytes of its body."""

    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def header(self, name: str) -> str:
        """Return the value of a header.

        Raises:
            ForgedError: it is missing, or has a character that no header may have: a line
                end would change the signed message.
        """
        value = self.headers.get(name, "")
        if not (value and value.isascii() and value.isprintable()):
            raise ForgedError(f"no readable {name} header")
        return value

    def sent(self, name: str, now: float) -> str:
        """Return the time in a header, as written, if it is close to `now`.

        Raises:
            ForgedError: it is no time, or too far from `now`, in Unix seconds.
        """
        stamp = self.header(name)
        if not _SECONDS.fullmatch(stamp):
            raise ForgedError(f"{name} is not in seconds")
        if abs(off_s := now - int(stamp)) > TOLERANCE_S:
            side = "behind" if off_s > 0 else "ahead of"
            raise ForgedError(f"{name} is {abs(off_s):.0f} s {side} our clock")
        return stamp


@dataclass(frozen=True, slots=True)
class Told:
    """The content of a verified delivery."""

    hint: Hint
    delivery: str
    """An id that is the same when the delivery is repeated."""


class Scheme(Protocol):
    """The way in which one provider signs."""

    def read(self, delivery: Delivery, now: float) -> Told:
        """Verify and read a delivery; `now` is in Unix seconds.

        Raises:
            ForgedError: it is not from the provider, or not recent.
            ShapelessError: it is from the provider, but cannot be read.
        """
        ...


@dataclass(frozen=True, slots=True)
class WaveSpeed:
    """HMAC in hex, after `v3,` (WaveSpeed's "Verifying Webhooks", read 2026-11)."""

    name: ClassVar[str] = "wavespeed"
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self._key:
            raise ValueError(f"{self.name}: its webhook secret is empty")

    @property
    def _key(self) -> bytes:
        # As the page says: without its prefix, and not base64-decoded.
        return self.secret.removeprefix(_PREFIX).encode()

    def read(self, delivery: Delivery, now: float) -> Told:
        mac = _mac(self._key, delivery, now)
        _fits(delivery, f"v3,{mac.hex()}")
        return _prediction(self.name, delivery)


@dataclass(frozen=True, slots=True)
class Replicate:
    """HMAC in base64, after `v1,`, once for each secret.

    Replicate's "Verify webhooks", and `webhook.py` of its client 1.0.7, read 2026-11.
    """

    name: ClassVar[str] = "replicate"
    secret: str = field(repr=False)

    def __post_init__(self) -> None:
        try:
            empty = not self._key
        except ValueError:
            empty = True
        if empty:
            raise ValueError(
                f"{self.name}: its webhook secret is not whsec_ and base64 after it"
            ) from None

    @property
    def _key(self) -> bytes:
        return base64.b64decode(self.secret.removeprefix(_PREFIX), validate=True)

    def read(self, delivery: Delivery, now: float) -> Told:
        mac = _mac(self._key, delivery, now)
        _fits(delivery, f"v1,{base64.b64encode(mac).decode()}")
        return _prediction(self.name, delivery)


def _mac(key: bytes, delivery: Delivery, now: float) -> bytes:
    """The HMAC of WaveSpeed and Replicate, over the same two headers and the body."""
    sent = delivery.sent("webhook-timestamp", now)
    message = f"{delivery.header('webhook-id')}.{sent}.".encode() + delivery.body
    return hmac.digest(key, message, "sha256")


def _fits(delivery: Delivery, wanted: str) -> None:
    offered = delivery.header("webhook-signature").split()
    if not any([hmac.compare_digest(one, wanted) for one in offered]):  # noqa: C419 - all of them, for the time it takes
        raise ForgedError("webhook-signature does not fit")


def _prediction(provider: str, delivery: Delivery) -> Told:
    match _parsed(provider, delivery):
        case {"id": str(remote), "status": str()}:
            return Told(_hint(provider, remote), delivery.header("webhook-id"))
        case _:
            raise ShapelessError(f"{provider}: no prediction")


@dataclass(frozen=True, slots=True)
class Key:
    """A public key that a provider signs with."""

    id: str
    public: Ed25519PublicKey

    def signed(self, message: bytes, signature: bytes) -> bool:
        try:
            self.public.verify(signature, message)
        except InvalidSignature:
            return False
        return True


def keys(payload: Any) -> tuple[Key, ...]:
    """The Ed25519 keys of a JSON Web Key Set; keys of other kinds are skipped.

    Raises:
        ShapelessError: it is no JSON Web Key Set.
    """
    match payload:
        case {"keys": [*listed]}:
            return tuple(key for one in listed if (key := _key(one)))
        case _:
            raise ShapelessError("no JSON Web Key Set")


def _key(payload: Any) -> Key | None:
    match payload:
        case {"kty": "OKP", "crv": "Ed25519", "x": str(x)}:
            named = payload.get("kid")
        case {"kty": str()}:
            return None
        case _:
            raise ShapelessError("no JSON Web Key")
    try:
        public = Ed25519PublicKey.from_public_bytes(_base64url(x))
    except ValueError:
        raise ShapelessError("no Ed25519 key") from None
    return Key(named if isinstance(named, str) else "", public)


@dataclass(frozen=True, slots=True)
class Fal:
    """Ed25519 in hex, with any of its keys (fal's webhooks page, read 2026-11)."""

    name: ClassVar[str] = "fal"
    keys: Sequence[Key]

    def read(self, delivery: Delivery, now: float) -> Told:
        message = "\n".join(
            (
                delivery.header("x-fal-webhook-request-id"),
                delivery.header("x-fal-webhook-user-id"),
                delivery.sent("x-fal-webhook-timestamp", now),
                sha256(delivery.body).hexdigest(),
            )
        ).encode()
        try:
            signature = binascii.unhexlify(delivery.header("x-fal-webhook-signature"))
        except ValueError:
            raise ForgedError("x-fal-webhook-signature is not hex") from None
        if not any(key.signed(message, signature) for key in self.keys):
            raise UnknownKeyError("x-fal-webhook-signature fits none of its keys")
        match _parsed(self.name, delivery):
            # After a retry by fal, gateway_request_id differs; the ticket has request_id.
            case {"request_id": str(remote), "status": str(status)}:
                return Told(_hint(self.name, remote), f"{remote} {status}")
            case _:
                raise ShapelessError(f"{self.name}: no end of a request")


@dataclass(frozen=True, slots=True)
class Atlas:
    """Ed25519 in base64url, with the key that a header names.

    Atlas Cloud's webhooks page, read 2026-11. Its older HMAC is not accepted: an
    attacker who may choose between two signatures chooses the weaker.
    """

    name: ClassVar[str] = "atlas"
    keys: Sequence[Key]

    def read(self, delivery: Delivery, now: float) -> Told:
        sent = delivery.sent("x-atlascloud-webhook-timestamp", now)
        signature = self._signature(delivery)
        named = delivery.header("x-atlascloud-webhook-key-id")
        key = next((key for key in self.keys if key.id == named), None)
        if key is None:
            raise UnknownKeyError("x-atlascloud-webhook-key-id is none of its keys")
        if not key.signed(f"{sent}.".encode() + delivery.body, signature):
            raise ForgedError("x-atlascloud-webhook-signature does not fit")
        match _parsed(self.name, delivery):
            # The delivery's id is not signed, so these two identify a repeat.
            case {"session_id": str(remote), "status": str(status)}:
                return Told(_hint(self.name, remote), f"{remote} {status}")
            case _:
                raise ShapelessError(f"{self.name}: no end of a task")

    def _signature(self, delivery: Delivery) -> bytes:
        # The shorter name will be Ed25519's alone once the older HMAC is removed.
        name = "x-atlascloud-webhook-signature"
        longer = f"{name}-ed25519"
        text = delivery.header(longer if longer in delivery.headers else name)
        try:
            return _base64url(text)
        except ValueError:
            raise ForgedError(f"{name} is not base64url") from None


class Seen:
    """The latest deliveries, at most `most` of them."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._told: dict[tuple[str, str], None] = {}

    def is_new(self, told: Told) -> bool:
        """Whether the delivery is new; remember it."""
        mark = told.hint.provider, told.delivery
        if mark in self._told:
            return False
        self._told[mark] = None
        if len(self._told) > self._most:
            del self._told[next(iter(self._told))]
        return True


def _parsed(provider: str, delivery: Delivery) -> Any:
    try:
        return json.loads(delivery.body)
    except (ValueError, RecursionError):
        raise ShapelessError(f"{provider}: not JSON") from None


def _hint(provider: str, remote: str) -> Hint:
    plain = remote.isascii() and remote.isprintable()
    if not (plain and 0 < len(remote) <= LONGEST_ID):
        problem = f"{provider}: an id of {len(remote):,} characters, or of odd ones"
        raise ShapelessError(problem)
    return Hint(provider, remote)


def _base64url(text: str) -> bytes:
    """Decode base64url with padding, as in fal's keys, or without it."""
    bare = text.rstrip("=")
    padded = bare + "=" * (-len(bare) % 4)
    return base64.b64decode(padded, altchars=b"-_", validate=True)
