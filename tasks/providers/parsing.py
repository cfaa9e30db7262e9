"""Reads provider answers: JSON, ids, amounts, links, and error text that is safe to keep."""

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

from manifests.catalogue.routes import Route

LONGEST_EXCERPT: Final = 500
"""Characters of a provider's error that the ledger keeps."""

# Every store signs its links in the query; JSON within JSON escapes a slash repeatedly.
_QUERY: Final = re.compile(r"""(https?:[\\/]{2,}[^\s"'<>?]*)\?[^\s"'<>]*""")
# A JSON Web Token: it opens what the key opens, for as long as it is good.
_TOKEN: Final = re.compile(r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+")
_SECONDS: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


def read_body(response: httpx.Response) -> Any:
    """The answer's JSON, or its text if it is not JSON."""
    try:
        return orjson.loads(response.content)
    except ValueError:
        # orjson refuses half an emoji, NaN and other encodings; the slower parser may not.
        try:
            return response.json()
        except (ValueError, RecursionError):
            return response.text


def error_text(body: Any) -> Any:
    """The sentence in an error answer, wherever the provider puts it, or else the whole body."""
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


def redact(body: Any, key: str) -> str:
    """A provider's words as one short line without the key, a token or a signature."""
    text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
    # Half an emoji, where a message was cut, cannot be written to the ledger.
    text = " ".join(text.split()).encode("utf-8", "replace").decode()
    if secret := key.rpartition(":")[2]:
        text = text.replace(secret, "***")
    return _TOKEN.sub("***", _QUERY.sub(r"\1?***", text))[:LONGEST_EXCERPT]


def end_reason(task: Mapping[str, Any], key: str) -> str:
    """Why a task made no clip: its status and its error."""
    status, error = task["status"], task.get("error")
    return f"{status}: {redact(error, key)}" if error else str(status)


def remote_id(value: Any) -> str:
    """A task's id, which providers write as text or as a number; "" if there is none."""
    match value:
        case str():
            return value
        case int() if value and not isinstance(value, bool):
            return str(value)
        case _:
            return ""


def path_segment(text: str) -> str:
    """An id as one segment of a URL path, whatever characters it has."""
    return quote(text, safe="")


def clip_link(outputs: Any) -> str | None:
    """The URL of the first output: text, an object with a URL, or a list of either."""
    match outputs:
        case [first, *_]:
            output = first
        case other:
            output = other
    match output:
        case str(url) | {"url": str(url)} | {"video": str(url)} | {"output": str(url)}:
            return url if url.startswith(("https://", "http://")) else None
        case _:
            return None


Meaning = Literal["waiting", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class StatusWords:
    """A provider's status words by meaning, read without regard to case."""

    meanings: Mapping[str, Meaning]

    def meaning(self, status: object) -> Meaning | None:
        """None for a word that the provider does not document."""
        return self.meanings.get(str(status).lower())


def status_words(*, waiting: str, ready: str, failed: str) -> StatusWords:
    """Status words, each argument a list with spaces between."""
    lists: dict[Meaning, str] = {"waiting": waiting, "ready": ready, "failed": failed}
    return StatusWords(
        {word: meaning for meaning, words in lists.items() for word in words.split()}
    )


def retry_after(response: httpx.Response) -> float | None:
    """The seconds in Retry-After; None if it is a date or missing."""
    value = response.headers.get("retry-after", "").strip()
    return float(value) if _SECONDS.fullmatch(value) else None


def digest(value: object) -> str:
    """32 hex digits of a value's JSON, whatever the order of its keys."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(canonical.encode(), digest_size=16).hexdigest()


def amount(value: object) -> Decimal | None:
    """An amount as providers write one: a number, or a number in a string."""
    # Some send 0.30000000000000004 for 0.3.
    text = f"{value:.10g}" if isinstance(value, float) else str(value)
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


def has_model(route: Route, body: Any, field: str) -> bool | None:
    """Whether a listing in `data` names every model of a route; None if it lists nothing."""
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
