"""Reads providers' answers: JSON, ids, amounts, words, and error text without secrets."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final, Literal
from urllib.parse import quote

import httpx
import orjson

from manifests.catalogue import Route
from manifests.uris import SHORTEST_SECRET

LONGEST_EXCERPT: Final = 500
"""The most characters of a provider's error that the ledger keeps."""

# Stores sign links in the query. JSON within JSON escapes a slash repeatedly.
_QUERY: Final = re.compile(r"""(https?:[\\/]{2,}[^\s"'<>?]*)\?[^\s"'<>]*""")
# A JSON Web Token, which gives the same access as the key until it expires.
_TOKEN: Final = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def read_body(response: httpx.Response) -> Any:
    """Return the answer's JSON, or its text if it is not JSON."""
    try:
        return orjson.loads(response.content)
    except ValueError:
        # The slower parser also takes half an emoji, NaN and other encodings.
        try:
            return response.json()
        except (ValueError, RecursionError):
            return response.text


def error_text(body: Any) -> Any:
    """Return the sentence in an error, wherever the provider puts it, or the whole body."""
    match body:
        case {"detail": [{"type": str(kind), "msg": str(text)}, *_]}:
            return f"{kind}: {text}"
        case (
            {"detail": str(text)}
            | {"message": str(text)}
            | {"msg": str(text)}
            | {"error": str(text)}
            | {"error": {"message": str(text)}}
        ) if text:
            return text
        case _:
            return body


_HIDDEN: Final = re.compile(r"(?is)<(script|style|head)\b.*?(</\1>|$)")
_TAG: Final = re.compile(r"<[^>]*>")
_FIRST_WORDS: Final = 120


def is_page(body: Any) -> bool:
    """Whether the body of an answer is a web page."""
    return isinstance(body, str) and body.lstrip("\ufeff \r\n\t").startswith("<")


def first_words(body: Any) -> str:
    """Return the first words of an answer; of a web page, those that a person sees."""
    if not isinstance(body, str):
        return json.dumps(body, ensure_ascii=False)[:_FIRST_WORDS]
    text = body
    if is_page(body):
        # A page may have all its text in the title, such as "Just a moment...".
        text = _TAG.sub(" ", _HIDDEN.sub(" ", body))
        text = text if text.strip() else _TAG.sub(" ", body)
    return " ".join(text.split())[:_FIRST_WORDS]


def redact(body: Any, key: str) -> str:
    """Return a provider's words as one short line without key, token and signature."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    # The ledger cannot store half an emoji, which remains where a message was cut.
    text = " ".join(text.split()).encode("utf-8", "replace").decode()
    for secret in (key, *key.split(":")):
        if len(secret) >= SHORTEST_SECRET:
            text = text.replace(secret, "***")
    return _TOKEN.sub("***", _QUERY.sub(r"\1?***", text))[:LONGEST_EXCERPT]


def end_reason(task: Mapping[str, Any], key: str) -> str:
    """Return why a task made no clip: its status and its error."""
    status, error = task.get("status"), task.get("error")
    return f"{status}: {redact(error, key)}" if error else str(status)


def value_at(body: Any, *names: str) -> Any:
    """Return the value at a path of fields; None if there is none."""
    for name in names:
        match body:
            case {**fields}:
                body = fields.get(name)
            case _:
                return None
    return body


def remote_id(value: Any) -> str:
    """Return a task's id, which is text or a number; "" if there is none."""
    match value:
        case str():
            return value.strip()
        case float() if value.is_integer():
            return str(int(value))
        case int() if value and not isinstance(value, bool):
            return str(value)
        case _:
            return ""


def path_segment(text: str) -> str:
    """Return an id as one segment of a URL path, with its special characters escaped."""
    return quote(text, safe="")


Meaning = Literal["waiting", "ready", "failed"]

_ANYWHERE: Final[Mapping[str, Meaning]] = {
    **dict.fromkeys(
        "created pending queued in_queue submitted starting processing running "
        "in_progress throttled".split(),
        "waiting",
    ),
    **dict.fromkeys("completed succeeded succeed success".split(), "ready"),
    **dict.fromkeys("failed error cancelled canceled aborted".split(), "failed"),
}
"""The words that mean the same wherever they are used. `timeout` and `deleted` do not."""


@dataclass(frozen=True, slots=True)
class StatusWords:
    """A provider's status words, and those of all others; capitals make no difference."""

    meanings: Mapping[str, Meaning]

    def meaning(self, status: object) -> Meaning | None:
        """Return a word's meaning; None if no provider documents the word."""
        word = str(status).strip().lower().replace("-", "_").replace(" ", "_")
        return self.meanings.get(word) or _ANYWHERE.get(word)


def status_words(*, waiting: str, ready: str, failed: str) -> StatusWords:
    """Return status words; each argument is a list of words with spaces between them."""
    lists: dict[Meaning, str] = {"waiting": waiting, "ready": ready, "failed": failed}
    return StatusWords(
        {word: meaning for meaning, words in lists.items() for word in words.split()}
    )


def retry_after(response: httpx.Response) -> float | None:
    """Return the seconds of Retry-After; None if it is a date or missing."""
    value = response.headers.get("retry-after", "").strip()
    return float(value) if _SECONDS.fullmatch(value) else None


def digest(value: object) -> str:
    """Return 32 hex digits of a value's JSON; the order of keys makes no difference."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def amount(value: object) -> Decimal | None:
    """Return an amount that a provider writes as a number or as text; None if it is neither."""
    # Some send 0.30000000000000004 for 0.3.
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def has_model(route: Route, body: Any, field: str) -> bool | None:
    """Whether the listing in `data` has every model of a route; None if it is empty."""
    match body:
        case {"data": [_, *_] as models}:
            return {*route.endpoints.values()} <= {
                _text(each, field) for each in models
            }
        case _:
            return None


def _text(model: Any, field: str) -> str | None:
    match model:
        case {**fields} if isinstance(fields.get(field), str):
            return fields[field]
        case _:
            return None
