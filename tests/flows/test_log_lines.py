"""Log lines: the masking of secrets and the form of each record."""

import json
import logging
import sys

import pytest

from flows.dashboard.log_relay import Relay
from flows.logs.lines import JsonLines, Lines
from flows.logs.masking import conceal, masked

KEY = "sk-live-0f8e7d6c5b4a"


def record(template, *args, level=logging.WARNING, exc_info=None):
    made = logging.LogRecord("tasks.a", level, "", 0, template, args, exc_info)
    made.created = 1_796_000_000.25
    return made


def failure(text):
    def fail():
        raise ValueError(text)

    try:
        fail()
    except ValueError:
        return sys.exc_info()


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://h/a.jpg?v=1&X-Amz-Signature=5ec: 403", "https://h/a.jpg?v=1: 403"),
        ("GET https://me:pass@h/a.jpg failed", "GET https://h/a.jpg failed"),
        ("zip://a::https://h/z?sv=1&sig=5ec", "zip://a::https://h/z"),
        ("cut off: X-Amz-Signature=5ec&b=1", "cut off: X-Amz-Signature=***&b=1"),
        ("Authorization: Bearer 5ec.ret", "Authorization: Bearer ***"),
        ("{'Authorization': 'Key 5ec:ret'}", "{'Authorization': 'Key ***'}"),
        ("token eyJhbGciOiJI.eyJpc3MiOiJh.5ec-ret", "token ***"),
    ],
)
def test_masked_removes_credentials(text, left):
    """A signature, password or token is masked; the rest stays."""
    assert masked(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "lane.closed lane=fal nothing more is submitted to it: HTTP 401",
        "s3://bucket/a@2x.jpg?x-oss-process=crop",
        "https://h/still.jpg?token=~0123456789ab&Expires=7",
        "ledger.write_delayed key=ledger/000001/s-1 signature mismatch",
        "batch 000003-portraits: 5 published",
    ],
)
def test_masked_keeps_all_else(text):
    """No name of a still, key of an object or plain word is lost."""
    assert masked(text) == text


def test_masked_removes_known_keys_wherever_they_stand():
    """A key is masked whole, in its parts, and as a URL spells it."""
    conceal("ACCESS-0123:SECRET/0123 456")

    text = masked(
        "a=ACCESS-0123:SECRET/0123 456 b=SECRET/0123 456 c=SECRET%2F0123%20456"
    )

    assert text == "a=*** b=*** c=***"


def test_short_secrets_are_not_masked():
    """A placeholder such as `x` or `demo` would blank out ordinary text."""
    conceal("demo")

    assert masked("the demo runs") == "the demo runs"


def test_lines_mask_the_traceback_as_well():
    """The text of an exception is masked like the message."""
    conceal(KEY)
    form = Lines("%(asctime)s %(levelname)s %(name)s: %(message)s")
    broken = record(
        "job.broken job=%s it", "1f", exc_info=failure(f"key {KEY} refused")
    )

    first, *more = form.format(broken).splitlines()

    assert first == "2026-11-30T00:53:20.250Z WARNING tasks.a: job.broken job=1f it"
    assert more[-1] == "  ValueError: key *** refused"
    assert all(line.startswith("  ") for line in more)


def test_lines_hold_no_control_characters():
    """A provider's answer can neither move the cursor nor forge a line."""
    text = Lines("%(message)s").format(record("a.b %s", "x\x1b[2J\r\ny\u2028z"))

    assert text == "a.b x\\x1b[2J\\x0d\n  y\\x2028z"


def test_json_has_fields_as_the_call_has_them():
    """A value with spaces, or with `=`, is one value; numbers stay numbers."""
    conceal(KEY)
    call = "ledger.spilled file=%s entries=%d usd=%.2f at root %s: %r"
    made = record(call, "/a b=c.jsonl", 3, 0.5, "s3://b", ValueError(KEY))

    read = json.loads(JsonLines().format(made))

    assert read == {
        "time": "2026-11-30T00:53:20.250Z",
        "level": "warning",
        "logger": "tasks.a",
        "event": "ledger.spilled",
        "message": "at root s3://b: ValueError('***')",
        "fields": {"file": "/a b=c.jsonl", "entries": 3, "usd": 0.5},
        "exception": None,
    }


def test_json_is_one_line_whatever_a_record_holds():
    """Line ends, surrogates, objects and NaN are all escaped."""
    made = record("a.b at=%s of=%.1f %s", object, float("nan"), "é\ud800\n\u2028")
    made.exc_info = failure("two\nlines")

    text = JsonLines().format(made)
    read = json.loads(text, parse_constant=pytest.fail)

    assert text.isascii()
    assert "\n" not in text
    assert read["message"] == "é\ud800\n\u2028"
    assert read["exception"].endswith("ValueError: two\nlines")


def test_json_without_an_event_has_the_whole_message():
    """A line of another library has no event name."""
    read = json.loads(JsonLines().format(record("Unclosed session %s", "x")))

    assert (read["event"], read["message"]) == ("", "Unclosed session x")


def test_the_log_of_a_run_in_prefect_is_masked_as_well(caplog):
    """The Prefect server stores the lines that it receives."""
    conceal(KEY)
    log = logging.getLogger("tests.run")
    log.addHandler(caplog.handler)

    Relay(logging.LoggerAdapter(log, {})).handle(
        record("lane.closed lane=%s %s", "a", KEY)
    )
    log.removeHandler(caplog.handler)

    assert caplog.messages == ["lane.closed lane=a ***"]
