"""Emulated engines on own GPUs have the traps of the real ones."""

import base64
import json
import uuid
from pathlib import Path

import httpx
import pytest

from tasks.emulator import Emulator, Fault, running

GRAPH = Path(__file__).parents[2] / "examples/comfyui/wan-2.2-i2v-4-steps.json"
FORM = {
    "prompt": "pan",
    "size": "832x480",
    "seed": "1",
    "num_frames": "81",
    "fps": "16",
}


@pytest.fixture
def emulator(clock):
    return Emulator(latency_s=10.0, clip=b"a clip", clock=clock)


@pytest.fixture
def http(emulator):
    with running(emulator) as url, httpx.Client(base_url=url) as client:
        yield client


@pytest.fixture
def submit(http, still):
    """Posts a form to an engine; fields that are None are left out."""

    def post(engine, **fields):
        form = {name: value for name, value in (FORM | fields).items() if value}
        image = {"input_reference": ("still.jpg", still, "image/jpeg")}
        return http.post(f"/{engine}/v1/videos", data=form, files=image)

    return post


@pytest.mark.parametrize(("engine", "frames"), [("sglang", 96), ("fastvideo", 125)])
def test_fields_left_out_have_the_engines_default(emulator, submit, engine, frames):
    submit(engine, num_frames=None, fps=None).raise_for_status()

    [line] = emulator.bill
    assert line.duration_s == round(frames / 24)


def test_vllm_omni_answers_500_to_the_poll_of_a_failed_job(
    emulator, submit, http, clock
):
    """vLLM-Omni answers the poll of a failed job with 500 and the job as body."""
    emulator.faults["pan"] = [Fault.FAIL]
    remote = submit("vllm-omni").json()["id"]
    clock.now += 60

    answer = http.get(f"/vllm-omni/v1/videos/{remote}")

    assert (answer.status_code, answer.json()["status"]) == (500, "failed")
    assert http.get(f"/vllm-omni/v1/videos/{remote}/content").status_code == 422


def test_vllm_omni_accepts_only_a_form_for_its_model(submit, http):
    """vLLM-Omni accepts a form that names the model it serves, and nothing else."""
    assert http.post("/vllm-omni/v1/videos", json=FORM).status_code == 400
    assert "Model mismatch" in submit("vllm-omni", model="another").text


def test_fastvideo_never_reports_a_job_as_running(submit, http, clock):
    remote = submit("fastvideo").json()["id"]
    clock.now += 5

    assert http.get(f"/fastvideo/v1/videos/{remote}").json()["status"] == "queued"


def test_a_job_that_was_forgotten_is_neither_there_nor_listed(emulator, submit, http):
    emulator.faults["pan"] = [Fault.FORGET]
    remote = submit("sglang").json()["id"]

    assert http.get(f"/sglang/v1/videos/{remote}").status_code == 404
    assert http.get("/sglang/v1/videos").json()["data"] == []
    assert len(emulator.bill) == 1


def test_our_worker_starts_an_id_once_and_refuses_another_body(emulator, submit):
    """Our worker starts an id once and refuses the same id with another body."""
    first, again = submit("nightreel", id="a-1"), submit("nightreel", id="a-1")
    other = submit("nightreel", id="a-1", seed="2")

    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 409)
    assert other.json()["error"]["code"] == "id_taken"
    assert len(emulator.bill) == 1


@pytest.fixture
def task(still):
    image = base64.b64encode(still).decode()
    return {"task_id": "a-1", "prompt": "pan", "seed": 1, "image_path": image}


def test_lightx2v_redirects_a_url_without_the_slash(http, task):
    assert http.post("/lightx2v/v1/tasks/video", json=task).status_code == 307


def test_lightx2v_answers_503_to_a_full_queue_and_a_known_id(emulator, http, task):
    """LightX2V answers 503 both to a full queue and to an id that it already has."""
    for n in range(10):
        body = {**task, "task_id": f"a-{n}"}
        http.post("/lightx2v/v1/tasks/video/", json=body).raise_for_status()

    again = http.post("/lightx2v/v1/tasks/video/", json={**task, "task_id": "a-1"})
    more = http.post("/lightx2v/v1/tasks/video/", json={**task, "task_id": "a-10"})

    assert (again.status_code, more.status_code) == (503, 503)
    assert ["already exists" in each.text for each in (again, more)] == [True, False]
    assert len(emulator.bill) == 10


def test_lightx2v_checks_a_link_by_head_and_turns_400_into_500(http, task):
    """LightX2V checks a link by HEAD and answers 500 where it means 400."""
    signed = {**task, "image_path": f"{http.base_url}nowhere"}

    answer = http.post("/lightx2v/v1/tasks/video/", json=signed)

    assert answer.status_code == 500


@pytest.fixture
def graph(http, still):
    image = {"image": ("a.jpg", still, "image/jpeg")}
    kept = http.post("/comfyui/upload/image", files=image).json()
    values = {"prompt": "pan", "negative_prompt": "", "name": "a", "fps": 16}
    values |= {"width": 832, "height": 480, "frames": 81, "seed": 1}
    values |= {"image": f"{kept['subfolder']}/{kept['name']}"}
    text = GRAPH.read_text()
    for slot, value in values.items():
        text = text.replace(f'"{{{{{slot}}}}}"', json.dumps(value))
    return json.loads(text)


def test_comfyui_queues_one_id_as_often_as_it_is_posted(emulator, http, graph):
    body = {"prompt": graph, "prompt_id": str(uuid.uuid4())}
    for _ in range(2):
        http.post("/comfyui/prompt", json=body).raise_for_status()

    assert len(emulator.bill) == 2


def test_comfyui_puts_a_video_under_images(http, graph, clock):
    remote = http.post("/comfyui/prompt", json={"prompt": graph}).json()["prompt_id"]
    clock.now += 60

    [told] = http.get(f"/comfyui/api/jobs/{remote}").json()["outputs"].values()

    assert told["animated"] == [True]
    assert http.get("/comfyui/view", params=told["images"][0]).content == b"a clip"


def test_comfyui_refuses_a_graph_with_a_node_that_it_has_not_got(http, graph):
    graph["17"]["class_type"] = "SaveGif"

    answer = http.post("/comfyui/prompt", json={"prompt": graph})

    assert (answer.status_code, answer.json()["node_errors"]) == (400, {})
