"""A worker over HTTP: the requests that it takes, and its answers."""

import socket
from io import BytesIO

import av
import httpx
import pytest
from PIL import Image

from storage.media.mp4 import check
from tests.worker.conftest import busy

pytestmark = [pytest.mark.worker, pytest.mark.timeout(900)]

CHUNKED = b"\r\n".join(
    (
        b"POST /v1/videos HTTP/1.1",
        b"Host: worker",
        b"Connection: close",
        b"Content-Type: multipart/form-data; boundary=q",
        b"Content-Length: 100",
        b"Transfer-Encoding: chunked",
        b"",
        b"",
    )
)


def test_same_seed_makes_the_same_bytes_under_load(shared, still):
    """The same seed makes the same bytes, whatever other clips run at the same time."""
    seeds = [3, 4, 5, 3]
    for place, seed in enumerate(seeds):
        shared.post(still, id=f"at-once-{place}", seed=seed)
    at_once = [shared.clip(f"at-once-{place}") for place in range(len(seeds))]

    alone = []
    for place, seed in enumerate(seeds):
        shared.post(still, id=f"alone-{place}", seed=seed)
        alone.append(shared.clip(f"alone-{place}"))

    assert at_once == alone
    assert at_once[0] == at_once[3]
    assert len(set(at_once)) == 3


def test_a_clip_is_what_was_asked_for_and_can_be_published(shared, still):
    shared.post(still, id="whole")

    clip = shared.clip("whole")

    probe = check(clip)
    assert (probe.width, probe.height, probe.frames, probe.fps) == (96, 64, 9, 8)
    assert probe.codec == "h264"
    assert clip.index(b"moov") < clip.index(b"mdat")
    with av.open(BytesIO(clip)) as opened:
        assert opened.streams.video[0].format.name == "yuv420p"
    job = shared.job("whole")
    assert (job["progress"], job["size"], job["seconds"]) == (100, "96x64", 1.125)
    assert {"denoise", "decode", "write"} <= job["stage_durations"].keys()
    assert job["peak_memory_mb"] > 0


def test_repeated_submit_returns_the_job(shared, still):
    """A repeated submit returns the job as it is; another body is refused with 409."""
    first = shared.post(still, id="twice", seed=1)
    shared.clip("twice")
    runs = shared.metric('stage_runs_total{stage="denoise"}')

    again = shared.post(still, id="twice", seed=1)
    other = shared.post(still, id="twice", seed=2)

    assert (first.json()["status"], again.status_code) == ("queued", 200)
    assert again.json()["status"] == "completed"
    assert (other.status_code, other.json()["error"]["code"]) == (409, "id_taken")
    assert shared.metric('stage_runs_total{stage="denoise"}') == runs


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "100x64"),
        ("num_frames", "10"),
        ("guidance_scale", "many"),
        ("seconds", "4"),
        ("id", "a/b"),
    ],
)
def test_invalid_field_is_refused_by_name(shared, still, field, value):
    """A request that cannot be made is refused with 422, and the field is named."""
    refused = shared.post(still, **{field: value})

    error = refused.json()["error"]
    assert (refused.status_code, error["code"]) == (422, "invalid_request")
    assert field in error["message"]


def test_still_that_is_no_picture_is_refused(shared):
    """A still that is no picture is refused before it is queued."""
    refused = shared.post(b"no picture")

    assert refused.status_code == 422
    assert "input_reference" in refused.json()["error"]["message"]


def test_cancel_between_steps_leaves_the_next_clip_intact(shared, still):
    """A clip is cancelled between two steps; later clips keep their exact bytes."""
    shared.post(still, id="before", seed=11)
    before = shared.clip("before")
    with busy(shared, still, "long"):
        deleted = shared.delete("long")

        ended = shared.ended("long")

    assert deleted.json() == {"id": "long", "object": "video.deleted", "deleted": True}
    assert ended["status"] == "cancelled"
    assert ended["progress"] < 100
    assert shared.get("/v1/videos/long/content").status_code == 404
    shared.post(still, id="after", seed=11)
    assert shared.clip("after") == before


def test_full_queue_says_when_to_retry(shared, still):
    """A full queue answers 503 with a Retry-After, and still knows its jobs."""
    with busy(shared, still, "in-front"):
        for place in range(4):
            assert shared.post(still, id=f"waits-{place}").status_code == 200

        full = shared.post(still, id="one-too-many")
        known = shared.post(still, id="waits-0")

        for place in range(4):
            shared.delete(f"waits-{place}")
    assert (full.status_code, full.json()["error"]["code"]) == (503, "queue_full")
    assert int(full.headers["retry-after"]) >= 1
    assert known.status_code == 200
    assert shared.get("/v1/videos/one-too-many").status_code == 404


def test_a_clip_that_does_not_fit_fails_and_the_next_is_made(shared, still):
    shared.post(still, id="vast", size="2048x2048", num_frames=257)

    vast = shared.ended("vast")

    assert (vast["status"], vast["error"]["code"]) == ("failed", "out_of_memory")
    assert shared.get("/v1/videos/vast/content").status_code == 422
    shared.post(still, id="modest")
    assert shared.clip("modest")


def test_jobs_are_listed_page_by_page_and_forgotten_on_demand(shared, still):
    for place in range(3):
        shared.post(still, id=f"listed-{place}")
        shared.ended(f"listed-{place}")

    first = shared.get("/v1/videos", limit=2).json()
    second = shared.get("/v1/videos", limit=1, after="listed-1").json()

    assert [job["id"] for job in first["data"]] == ["listed-2", "listed-1"]
    assert first["has_more"]
    assert [job["id"] for job in second["data"]] == ["listed-0"]
    assert shared.delete("listed-0").status_code == 200
    assert shared.get("/v1/videos/listed-0").status_code == 404
    assert shared.delete("listed-0").status_code == 404


def test_its_metrics_add_up(shared, still):
    before = shared.metric("clips_completed_total")
    shared.post(still, id="measured")
    shared.clip("measured")

    busy_s, up_s = (
        shared.metric("gpu_busy_seconds_total"),
        shared.metric("uptime_seconds_total"),
    )
    idle_s = shared.metric("gpu_idle_seconds_with_work_total")

    assert shared.metric("clips_completed_total") == before + 1
    assert 0 < busy_s < busy_s + idle_s <= up_s
    assert shared.metric("gpu_busy_share") == pytest.approx(busy_s / up_s, rel=0.2)
    assert shared.metric("jobs_queued") == 0
    took = shared.job("measured")["stage_durations"]
    assert shared.metric('stage_seconds_total{stage="denoise"}') >= took["denoise"]


def test_a_black_clip_is_no_clip_and_a_key_is_asked_for(start, checkpoint, still):
    def blacken(pipe):
        last = pipe.vae.decoder.conv_out
        last.weight.data.zero_()
        last.bias.data.fill_(-1.0)

    worker = start(
        checkpoint("a14b", blacken), NIGHTREEL_WORKER_KEY="the-key-of-this-test"
    ).ready()
    refused = worker.post(still, id="black")
    worker.client.headers["Authorization"] = "Bearer the-key-of-this-test"
    worker.post(still, id="black")

    ended = worker.ended("black")

    assert (refused.status_code, refused.json()["error"]["code"]) == (
        401,
        "unauthorized",
    )
    assert (ended["status"], ended["error"]["code"]) == ("failed", "black_output")
    assert "the-key-of-this-test" not in worker.output()
    assert worker.stop() == 0


def test_a_still_of_any_aspect_is_cropped_and_never_stretched(shared):
    out = BytesIO()
    Image.effect_noise((60, 200), 90).convert("RGB").save(out, format="JPEG")
    shared.post(out.getvalue(), id="tall")

    assert check(shared.clip("tall")).width == 96


def test_chunked_upload_is_refused_unread(shared):
    """A chunked upload is refused before it is read."""
    url = httpx.URL(shared.url)
    with socket.create_connection((url.host, url.port)) as chunks:
        chunks.sendall(CHUNKED)
        refused = chunks.makefile("rb").read().decode()

    assert refused.startswith("HTTP/1.1 422 ")
    assert "Content-Length is not 1 to" in refused
