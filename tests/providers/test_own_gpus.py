"""Requests to engines on our own GPUs, and the meaning of their answers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from manifests.catalogue import Route, Sampling
from manifests.jobs import Job
from manifests.lifecycle import Discarded, Refused, Rejected, Ticket
from tasks.providers import OWN_GPUS, PROVIDERS
from tasks.providers.errors import (
    InDoubtError,
    MisconfiguredError,
    NotFoundError,
    NotSentError,
    RejectedError,
    ThrottledError,
)
from tasks.providers.protocol import Absent, Doubt, Finished, Unproven
from tasks.providers.self_hosted import NEGATIVE

WORKFLOW = str(Path(__file__).parents[2] / "examples/comfyui/wan-2.2-i2v-4-steps.json")
JOB = Job(image="i", prompt="slow dolly in", aspect_ratio="9:16")
STILL = "data:image/jpeg;base64,/9j/"
HERE = "https://own-gpu.invalid"
SUBMITTED_AT = 1795341600.0


def engine(name, key="", endpoint="wan", **sampling):
    endpoint = WORKFLOW if name == "comfyui" and endpoint == "wan" else endpoint
    route = Route(
        name=f"{name}/wan-2.2",
        endpoints={"480p": endpoint},
        prices_usd={},
        fps=16,
        sampling=Sampling(**sampling),
    )
    return PROVIDERS[name](route, key)


def fields(request):
    """The fields of a form, or of JSON."""
    kind = request.headers["content-type"]
    if kind == "application/json":
        return json.loads(request.content)
    boundary = kind.rpartition("boundary=")[2].encode()
    parts = request.content.split(b"--" + boundary)[1:-1]
    heads = (part.strip(b"\r\n").partition(b"\r\n\r\n") for part in parts)
    return {
        head.decode().partition('name="')[2].partition('"')[0]: body
        for head, _, body in heads
    }


SAID = {
    "prompt": b"slow dolly in",
    "negative_prompt": NEGATIVE.encode(),
    "size": b"480x832",
    "num_frames": b"81",
    "fps": b"16",
    "seed": b"42",
    "num_inference_steps": b"40",
    "guidance_scale": b"3.5",
    "guidance_scale_2": b"2.5",
    "input_reference": b"\xff\xd8\xff",
}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("nightreel", {"id": b"ref-1"}),
        ("sglang", {"model": b"ref-1", "flow_shift": b"5.0"}),
        ("vllm-omni", {"model": b"wan", "flow_shift": b"5.0"}),
    ],
)
def test_a_form_says_all_that_decides_about_the_clip(name, more):
    provider = engine(name, cfg_low=2.5)

    request = next(provider.submit(JOB, STILL, 42, "ref-1"))

    assert (request.method, str(request.url)) == ("POST", f"{HERE}/v1/videos")
    assert fields(request) == SAID | more
    assert "authorization" not in request.headers


def test_fastvideo_submit_is_json():
    """FastVideo gets JSON, since its form has no field for some parameters."""
    request = next(engine("fastvideo").submit(JOB, STILL, 42, "ref-1"))

    sent = fields(request)
    assert sent["reference_url"] == STILL
    assert (sent["num_frames"], sent["guidance_scale_2"]) == (81, 3.5)
    assert "input_reference" not in sent  # which would be a path on its own disk


def test_lightx2v_submit_has_every_parameter():
    """LightX2V gets every parameter, at the path that is not redirected."""
    request = next(engine("lightx2v").submit(JOB, STILL, 42, "ref-1"))

    assert str(request.url) == f"{HERE}/v1/tasks/video/"
    assert fields(request) == {
        "task_id": "ref-1",
        "prompt": "slow dolly in",
        "negative_prompt": NEGATIVE,
        "image_path": STILL,
        "seed": 42,
        "infer_steps": 40,
        "target_video_length": 81,
        "target_fps": 16,
        "target_shape": [832, 480],
        "resize_mode": "adaptive",
        "save_result_path": "ref-1.mp4",
    }


def test_the_shipped_workflow_has_a_row_in_each_of_its_slots():
    request = next(engine("comfyui").submit(JOB, "still.jpg", 42, "ref-1"))

    sent = fields(request)
    inputs = {name: node["inputs"] for name, node in sent["prompt"].items()}
    assert str(request.url) == f"{HERE}/prompt"
    assert inputs["2"]["text"] == "slow dolly in"
    assert inputs["5"]["image"] == "still.jpg"
    assert [inputs["6"][name] for name in ("width", "height", "length")] == [
        480,
        832,
        81,
    ]
    assert (inputs["13"]["noise_seed"], inputs["14"]["noise_seed"]) == (42, 0)
    assert inputs["16"]["fps"] == 16
    named = f"nightreel/{sent['prompt_id']}-"
    assert inputs["17"]["filename_prefix"].startswith(named)
    assert "{{" not in json.dumps(sent)


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        ("nothing", "No such file"),
        ("{", "not JSON"),
        ('{"nodes": []}', "not in the API format"),
        (
            '{"1": {"class_type": "A", "inputs": {"t": "{{prompt}}"}}}',
            "no slot {{frames}}",
        ),
    ],
)
def test_a_workflow_that_makes_no_clip_of_a_row_closes_the_lane(tmp_path, graph, why):
    path = tmp_path / "graph.json"
    if graph != "nothing":
        path.write_text(graph)

    with pytest.raises(MisconfiguredError) as refused:
        next(engine("comfyui", endpoint=str(path)).submit(JOB, "i.jpg", 1, "ref-1"))

    assert why in str(refused.value)


@pytest.mark.parametrize("name", sorted(OWN_GPUS - {"comfyui"}))
def test_a_link_to_a_still_is_sent_to_none_of_them(name):
    with pytest.raises(MisconfiguredError, match="never a link"):
        next(engine(name).submit(JOB, "https://i/1.jpg", 1, "ref-1"))


IDS = {"sglang": "a1b2c3", "fastvideo": "a1b2c3", "vllm-omni": "video_gen_a1b2c3"}
IDS |= {"comfyui": "11111111-2222-5333-8444-555555555555"}


def ticket(name):
    return Ticket(name, IDS.get(name, "ref-1"))


@pytest.mark.parametrize("name", sorted(OWN_GPUS))
def test_accepted_job_is_polled_and_fetched_with_the_key(name, play, recorded):
    """An accepted job is polled, and its clip fetched, with the key."""
    provider = engine(name, key="k-5160")
    image = "still.jpg" if name == "comfyui" else STILL

    exchange = provider.submit(JOB, image, 42, "ref-1")
    _, made = play(provider, exchange, recorded(name, "submitted"))
    done = recorded(name, "succeeded")
    [poll], ended = play(provider, provider.poll(made), done)

    assert made == ticket(name)
    assert poll.headers["authorization"] == "Bearer k-5160"
    assert isinstance(ended, Finished)
    clip = provider.fetch(ended.url)
    assert clip.url.host == "own-gpu.invalid"
    assert clip.headers["authorization"] == "Bearer k-5160"


def test_sglang_clip_in_a_store_is_fetched_without_the_key(play, recorded):
    """A clip that SGLang put into a store is fetched from there, without the key."""
    provider = engine("sglang", key="k-5160")

    exchange = provider.poll(ticket("sglang"))
    _, ended = play(provider, exchange, recorded("sglang", "in_a_store"))

    assert ended == Finished(
        "https://clips.s3.example/a1b2c3.mp4", stages={"all": 327.8}
    )
    assert "authorization" not in provider.fetch(ended.url).headers


@pytest.mark.parametrize(
    ("name", "answer", "meaning"),
    [
        ("nightreel", "running", None),
        ("nightreel", "out_of_memory", Refused),
        ("nightreel", "step_hung", Refused),
        ("nightreel", "nan_output", Discarded),
        ("nightreel", "invalid_image", Rejected),
        ("sglang", "running", None),
        ("sglang", "out_of_memory", Refused),
        ("sglang", "engine_dead", Refused),
        ("sglang", "black", Discarded),
        ("sglang", "no_image", Rejected),
        ("fastvideo", "queued", None),
        ("fastvideo", "out_of_memory", Refused),
        ("vllm-omni", "out_of_memory", Refused),
        ("vllm-omni", "no_image", Rejected),
        ("lightx2v", "pending", None),
        ("lightx2v", "running", None),
        ("lightx2v", "out_of_memory", Refused),
        ("lightx2v", "no_image", Rejected),
        ("lightx2v", "cancelled", Refused),
        ("comfyui", "pending", None),
        ("comfyui", "running", None),
        ("comfyui", "out_of_memory", Refused),
        ("comfyui", "no_image", Rejected),
        ("comfyui", "interrupted", Refused),
        ("comfyui", "succeeded_with_nothing", Refused),
    ],
)
def test_how_a_job_stands(name, answer, meaning, play, recorded):
    provider = engine(name)

    _, told = play(provider, provider.poll(ticket(name)), recorded(name, answer))

    assert told is None if meaning is None else isinstance(told, meaning)


def test_comfyui_video_is_found_under_any_key(play, recorded):
    """ComfyUI's video is found under each of the keys that its nodes use."""
    provider = engine("comfyui")
    named = {
        answer: play(
            provider, provider.poll(ticket("comfyui")), recorded("comfyui", answer)
        )
        for answer in ("succeeded", "succeeded_as_gif")
    }

    assert [ended.url.partition("?")[2] for _, ended in named.values()] == [
        "filename=a_00001_.mp4&subfolder=nightreel&type=output",
        "filename=b_00001.mp4&subfolder=&type=output",
    ]


VIDEO = {"filename": "a.MP4", "subfolder": "", "type": "output"}


@pytest.mark.parametrize(
    "outputs",
    [
        {"9": {"clips": [VIDEO]}},
        {"9": {"video": VIDEO}},
        {"8": None, "9": ["x", {"files": [{**VIDEO, "type": "temp"}, VIDEO]}]},
    ],
)
def test_comfyui_output_video_is_found_wherever_it_is(outputs, play, answer):
    """A temporary video, another key or another shape does not hide the output video."""
    provider = engine("comfyui")
    job = {"id": "1", "status": "completed", "outputs": outputs}

    _, ended = play(provider, provider.poll(ticket("comfyui")), answer(200, job))

    assert ended.url.endswith("/view?filename=a.MP4&subfolder=&type=output")


@pytest.mark.parametrize(
    ("outputs", "there"),
    [
        ({}, "nothing"),
        (None, "nothing"),
        ({"9": {"images": [{**VIDEO, "type": "temp"}]}}, "a.MP4 (temp)"),
        ({"9": {"images": [{"filename": "b.png"}, 7]}}, "b.png (output)"),
    ],
)
def test_comfyui_reason_says_what_was_there_instead(outputs, there, play, answer):
    """A job without an output video fails, and its reason names what there was."""
    provider = engine("comfyui")
    job = {"id": "1", "status": "completed", "outputs": outputs}

    _, ended = play(provider, provider.poll(ticket("comfyui")), answer(200, job))

    assert ended == Refused(
        f"failed: no output video is among its outputs, but {there}"
    )


def test_comfyui_nodes_that_it_left_out_are_in_the_reason(play, answer):
    """The reason of a job without a video has the errors of its acceptance."""
    provider = engine("comfyui")
    errors = {"17": {"class_type": "SaveVideo", "errors": [{"message": "bad codec"}]}}
    accepted = answer(200, {"prompt_id": "p-1", "node_errors": errors})
    _, made = play(provider, provider.submit(JOB, "i.jpg", 1, "ref-1"), accepted)
    job = {"id": "p-1", "status": "completed", "outputs": {}}

    _, ended = play(provider, provider.poll(made), answer(200, job))

    assert made.id == "p-1"
    assert "it left out nodes" in ended.reason
    assert "bad codec" in ended.reason


def test_comfyui_attempts_differ_also_without_a_name_slot(tmp_path):
    """Each attempt saves under its own name, so that no cache answers it with nothing."""
    graph = json.loads(Path(WORKFLOW).read_text())
    graph["17"]["inputs"]["filename_prefix"] = "video/mine"
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graph))
    provider = engine("comfyui", endpoint=str(path))

    first, second = (
        fields(next(provider.submit(JOB, "i.jpg", 1, "ref-1"))) for _ in range(2)
    )

    names = [x["prompt"]["17"]["inputs"]["filename_prefix"] for x in (first, second)]
    assert names[0] != names[1]
    assert all(name.startswith("video/mine-") for name in names)
    assert first["client_id"] == first["prompt_id"]


@pytest.mark.parametrize("name", sorted(OWN_GPUS))
def test_engine_without_the_polled_path_forgets_no_job(name, play, answer):
    """A 404 of the engine's web server to a poll is not the answer that a job is gone."""
    provider = engine(name)
    routers = {"comfyui": b"404: Not Found", "nightreel": b"Not Found"}
    page = answer(404, routers.get(name, {"detail": "Not Found"}))

    with pytest.raises(InDoubtError, match="may lack this path") as told:
        play(provider, provider.poll(ticket(name)), page)

    assert told.value.shape


def test_comfyui_without_the_jobs_api_fails_its_check(play, answer):
    """A ComfyUI that is too old to be polled is refused before a clip is made."""
    provider = engine("comfyui")
    up, page = answer(200, {"system": {}}), answer(404, b"404: Not Found")

    with pytest.raises(
        InDoubtError, match="check the lane's base_url, and its version"
    ):
        play(provider, provider.check(), up, page)


@pytest.mark.parametrize(
    "url",
    [
        "/v1/videos/a1b2c3/content",
        "outputs/a.mp4",
        "http://0.0.0.0:30010/a.mp4",
        "http://[::]:30010/a.mp4",
    ],
)
def test_link_that_leads_nowhere_from_here_is_not_followed(url, play, answer):
    """A file or 0.0.0.0 is a place on the engine's machine: its own address is asked."""
    provider = engine("sglang")
    job = {"id": "a1b2c3", "status": "completed", "url": url}

    _, ended = play(provider, provider.poll(ticket("sglang")), answer(200, job))

    assert ended.url == f"{HERE}/v1/videos/a1b2c3/content"


@pytest.mark.parametrize(
    ("name", "answer", "meaning"),
    [
        ("nightreel", "unauthorized", MisconfiguredError),
        ("nightreel", "invalid_request", RejectedError),
        ("nightreel", "not_made", MisconfiguredError),
        ("nightreel", "queue_full", ThrottledError),
        ("nightreel", "draining", NotSentError),
        ("nightreel", "warming_up", NotSentError),
        ("nightreel", "id_taken", NotSentError),
        ("sglang", "invalid_image", RejectedError),
        ("fastvideo", "invalid_image", RejectedError),
        ("vllm-omni", "mismatch", MisconfiguredError),
        ("lightx2v", "full", ThrottledError),
        ("comfyui", "no_such_model", MisconfiguredError),
        ("comfyui", "still_not_there", NotSentError),
    ],
)
def test_refused_submit_has_its_meaning(name, answer, meaning, play, recorded):
    """Each engine's refusal of a submit is read with its own meaning."""
    provider = engine(name)
    image = "still.jpg" if name == "comfyui" else STILL

    with pytest.raises(meaning):
        play(provider, provider.submit(JOB, image, 1, "ref-1"), recorded(name, answer))


def test_a_clip_has_a_size_that_its_model_makes():
    engine = PROVIDERS["nightreel"](
        Route(
            name="nightreel/wan-2.2-ti2v-5b",
            endpoints={"720p": "wan"},
            prices_usd={},
            fps=24,
            sides_of=32,
        ),
        "",
    )

    wide = replace(JOB, resolution="720p", aspect_ratio="16:9")
    sent = fields(next(engine.submit(wide, STILL, 42, "ref-1")))

    assert (sent["size"], sent["num_frames"]) == (b"1280x704", b"121")


def test_lightx2vs_refusal_of_an_id_that_it_has_is_our_receipt(play, recorded):
    provider = engine("lightx2v")

    exchange = provider.submit(JOB, STILL, 1, "ref-1")
    _, made = play(provider, exchange, recorded("lightx2v", "taken"))

    assert made == Ticket("lightx2v", "ref-1")


@pytest.mark.parametrize("name", sorted(OWN_GPUS))
def test_missing_job_raises_in_poll_and_is_absent_in_find(name, play, recorded):
    """A missing job raises in a poll, and proves a doubtful submit absent."""
    provider = engine(name)
    mark = provider.mark(JOB, STILL, 1, "ref-1")
    doubt = Doubt(mark=mark, submitted_at=SUBMITTED_AT, known=frozenset())
    lists = name in {"sglang", "fastvideo", "vllm-omni"}
    gone = recorded(name, "listed_nothing" if lists else "gone")

    with pytest.raises(NotFoundError):
        play(provider, provider.poll(ticket(name)), recorded(name, "gone"))
    _, told = play(provider, provider.find(doubt), gone)

    assert isinstance(told, Absent)


@pytest.mark.parametrize(
    ("name", "answer", "found"),
    [
        ("nightreel", "running", "ref-1"),
        ("sglang", "listed", "a1b2c3"),
        ("fastvideo", "listed", "a1b2c3"),
        ("lightx2v", "running", "ref-1"),
        ("vllm-omni", "listed", None),
    ],
)
def test_a_lost_answers_job_is_found_by_our_own_name_for_it(
    name, answer, found, play, recorded
):
    provider = engine(name)
    mark = provider.mark(JOB, STILL, 1, "ref-1")
    # vLLM-Omni lists only the prompt and the size, so a match may be another row's job.
    wide = provider.mark(Job(image="i", prompt=JOB.prompt), STILL, 1, "ref-1")
    mark = wide if name == "vllm-omni" else mark
    doubt = Doubt(mark=mark, submitted_at=SUBMITTED_AT, known=frozenset())

    _, told = play(provider, provider.find(doubt), recorded(name, answer))

    assert told == (Ticket(name, found) if found else None)


@pytest.mark.parametrize("name", ["sglang", "fastvideo", "vllm-omni"])
def test_listing_without_one_of_our_submits_proves_nothing(name, play, recorded):
    """An engine that no longer lists an accepted job may also have left out the doubt."""
    ids = frozenset({"a1b2c3", "gone"})
    doubt = Doubt(mark="other", submitted_at=SUBMITTED_AT, known=ids, near=ids)
    provider = engine(name)

    _, told = play(provider, provider.find(doubt), recorded(name, "listed"))

    assert isinstance(told, Unproven)
    assert "accepted submits near that time" in told.reason


def test_listing_without_end_proves_nothing(play, answer):
    """A listing that is longer than Nightreel reads does not make a submit absent."""
    provider = PROVIDERS["sglang"](
        Route(name="sglang/x", endpoints={"480p": "m"}, prices_usd={}, fps=16), ""
    )
    doubt = Doubt(mark="ref-1", submitted_at=0.0, known=frozenset())
    page = {"data": [{"id": f"{n}", "status": "queued"} for n in range(100)]}

    asked, found = play(provider, provider.find(doubt), *[answer(200, page)] * 100)

    assert len(asked) == 100
    assert found is None


@pytest.mark.parametrize("name", ["nightreel", "sglang", "vllm-omni", "fastvideo"])
def test_engines_words_and_ids_in_other_shapes(play, answer, name):
    """An id that is a number, a word in capitals and a relative link are understood."""
    known = engine(name)
    submit = known.submit(JOB, STILL, 1, "ref-1")
    ready = {"id": 7, "status": "COMPLETED", "url": "/files/7.mp4"}
    failed = {"id": 7, "status": "Failed", "error": "out of memory"}

    ticket = play(known, submit, answer(200, {"id": 7, "status": "Queued"}))[1]
    made = play(known, known.poll(ticket), answer(200, ready))[1]
    lost = play(known, known.poll(ticket), answer(200, failed))[1]

    assert ticket.id == "7"
    assert made.url == f"{HERE}/files/7.mp4"
    assert isinstance(lost, Refused)
