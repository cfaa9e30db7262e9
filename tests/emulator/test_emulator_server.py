"""The emulator starts, stops and reads its options correctly."""

import signal
import socket
import subprocess
import sys

import httpx
import pytest

from tasks.emulator import (
    Emulator,
    Fault,
    parse_faults,
    parse_latency,
    run,
    running,
)


@pytest.mark.parametrize(
    ("text", "seconds"), [("60s", 60), ("500ms", 0.5), ("2m", 120), (" 1.5 s", 1.5)]
)
def test_a_latency_is_a_number_with_a_unit(text, seconds):
    assert parse_latency(text) == seconds


@pytest.mark.parametrize("text", ["60", "fast", "-1s", "", "1h"])
def test_a_latency_that_is_none_is_named(text):
    with pytest.raises(ValueError, match=f"latency {text!r}"):
        parse_latency(text)


def test_faults_are_chances_by_name():
    assert parse_faults("lose_answer=0.02, throttle=0.1,") == {
        Fault.LOSE_ANSWER: 0.02,
        Fault.THROTTLE: 0.1,
    }
    assert parse_faults("") == {}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lose_anwser=0.1", "no fault 'lose_anwser'; there are throttle, "),
        ("throttle", "'throttle' needs a chance, such as throttle=0.02"),
        ("throttle=often", "'throttle=often' needs a chance"),
        ("throttle=1.5", "'throttle=1.5' is not a chance between 0 and 1"),
        ("throttle=nan", "'throttle=nan' is not a chance between 0 and 1"),
        ("throttle=0.6,fail=0.6", "add up to 1.2, over 1"),
    ],
)
def test_faults_that_are_none_are_named(text, complaint):
    with pytest.raises(ValueError, match=f"faults: .*{complaint}"):
        parse_faults(text)


def test_two_emulators_have_nothing_in_common():
    with running(Emulator()) as one, running(Emulator()) as other:
        assert one != other
        assert httpx.get(f"{one}/bill").json() == {"total_usd": "0", "charges": []}


def test_a_stopped_emulator_leaves_its_port():
    with running(Emulator()) as base:
        port = int(base.rpartition(":")[2])

    with running(Emulator(), port=port) as again:
        assert again == base
        assert httpx.get(f"{again}/stats").status_code == 200


def test_a_port_that_is_taken_is_an_error_and_not_a_wait():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(OSError, match="in use"):
            run(port=port)


def test_it_runs_until_it_is_interrupted(tmp_path):
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(b"a clip")
    program = (
        "import pathlib, sys; from tasks.emulator import run;"
        "run(port=0, latency=1, clip=pathlib.Path(sys.argv[1]),"
        "    started=lambda url: print(url, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(clip)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/bill").status_code == 200
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)

    assert (process.returncode, out, err) == (0, "", "")
