"""`nightreel listen`: its settings, its start, its hints and its stop."""

import hashlib
import hmac
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from flows.config import SettingsError
from flows.config.settings import listen

SECRET = "whsec_5d41402abc4b2a76"


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "nightreel.toml"
        path.write_text(text)
        return path

    return write


def test_webhooks_need_no_lanes_and_no_settings(written):
    options = listen(written(""))

    assert options.public_url is None
    assert options.hints_url == "http://127.0.0.1:8501"
    assert options.hook("fal") == ""


def test_only_verifiable_providers_get_a_webhook_url(written):
    options = listen(
        written(
            '[listen]\npublic_url = "https://hooks.example/"\n'
            '[listen.secrets]\nwavespeed = "env:WAVESPEED_WEBHOOK_SECRET"\n'
        )
    )

    hooks = [options.hook(name) for name in ("wavespeed", "fal", "replicate", "kling")]

    assert hooks == [
        "https://hooks.example/webhooks/wavespeed",
        "https://hooks.example/webhooks/fal",
        "",
        "",
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[listen]\npublic = "https://x"', ["[listen]", "'public_url'"]),
        ('[listen]\npublic_url = "hooks.example"', ["[listen] public_url", "http"]),
        ('[listen.secrets]\nfal = "env:A"', ["[listen.secrets] fal", "'replicate'"]),
        (f'[listen.secrets]\nreplicate = "{SECRET}"', ["replicate", "env:NAME"]),
        (f'[listen]\nsecrets = "{SECRET}"', ["[listen] secrets", "a table"]),
        (f'[listen]\npublic_url = "https://me:{SECRET}@x"', ["public_url", "password"]),
    ],
)
def test_mistake_is_named_by_place_without_repeating_a_secret(written, text, words):
    """A mistake is named by its place, and no secret is repeated."""
    with pytest.raises(SettingsError) as caught:
        listen(written(text))

    assert [word for word in words if word not in str(caught.value)] == []
    assert SECRET not in str(caught.value)


def started(config, **variables):
    return subprocess.Popen(
        [
            Path(sys.executable).with_name("nightreel"),
            *("listen", "--config", config, "--port", "0", "--hints-port", "0"),
        ],
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_listen_prints_its_urls_accepts_posts_and_stops(written):
    config = written('[listen.secrets]\nwavespeed = "env:WAVESPEED_WEBHOOK_SECRET"\n')
    body = b'{"id": "p-1", "status": "completed"}'
    at = str(int(time.time()))
    message = f"evt-1.{at}.".encode() + body
    mac = hmac.new(SECRET[6:].encode(), message, hashlib.sha256).hexdigest()

    with started(config, WAVESPEED_WEBHOOK_SECRET=SECRET) as process:
        lines = [process.stderr.readline() for _ in range(5)]
        hints, hook = (re.search(r"http://\S+", line)[0] for line in lines[:2])
        answer = httpx.post(
            hook,
            content=body,
            headers={
                "webhook-id": "evt-1",
                "webhook-timestamp": at,
                "webhook-signature": f"v3,{mac}",
            },
        )
        page = httpx.get(f"{hints}/hints").json()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=100)

    assert answer.status_code == 204
    assert page["hints"] == [{"provider": "wavespeed", "id": "p-1"}]
    assert lines[2] == (
        "replicate: not listened to: no 'replicate' in [listen.secrets]\n"
    )
    assert process.returncode == 0, err
    line = "webhook.taken provider=wavespeed id=p-1 the batch polls its job\n"
    assert err.endswith(f" INFO tasks.webhooks.server: {line}")
    assert out == ""
    assert SECRET[6:] not in "".join(lines)


def test_named_secret_that_is_absent_fails_at_once(written):
    """`listen` ends at once if a secret that its settings name is not there."""
    config = written('[listen.secrets]\nreplicate = "env:NO_SUCH_SECRET"\n')

    with started(config) as process:
        _, err = process.communicate(timeout=180)

    assert process.returncode == 2
    assert "[listen.secrets] replicate: environment variable NO_SUCH_SECRET" in err
