"""Decisions of the GPU worker that need no GPU: the next job, hung steps, kept jobs."""

from dataclasses import replace

import httpx
import pytest

from tasks.engine.submit import LONGEST_WAIT_S
from tasks.worker.app import Api
from tasks.worker.job_spec import (
    JobSpec,
    JobSpecError,
    Model,
    Shape,
    parse_form,
    shape_of,
)
from tasks.worker.job_store import (
    MOST_DEATHS,
    ROWS_S,
    FullError,
    JobStore,
    JobStoreError,
    TakenError,
)
from tasks.worker.metrics import Metrics
from tasks.worker.model_protocol import Plan
from tasks.worker.prompt_cache import Prompts
from tasks.worker.scheduler import MOST_IN_A_ROW, Scheduler
from tasks.worker.watchdog import Patience, Watchdog
from tasks.worker.worker import Worker

MODEL = Model(
    name="wan",
    multiple=16,
    stride=4,
    experts=2,
    shape=Shape(width=832, height=480, frames=81),
    fps=16,
    steps=40,
    guidance=3.5,
)
SPEC = JobSpec(
    id="one",
    prompt="pan",
    negative_prompt="",
    shape=MODEL.shape,
    fps=16,
    seed=1,
    steps=4,
    cfg_high=1.0,
    cfg_low=1.0,
    still="",
)

RULES = {"at_most": 1, "hang_after_s": 1.0, "load_within_s": 1.0}


@pytest.fixture
def open_store(tmp_path):
    """Opens the store; a second call finds it as a killed process leaves it."""
    stores = []

    def opened(build="wan", boot="one"):
        for store in stores:
            store.close()
        stores[:] = [JobStore(tmp_path, build, 100.0, boot=boot)]
        return stores[0]

    yield opened
    for store in stores:
        store.close()


def put(store, *names, **more):
    specs = [replace(SPEC, id=name, **more) for name in names]
    return [store.add(spec, b"still", now=1.0, at_most=99) for spec in specs]


def test_wide_and_tall_clips_of_one_size_are_one_kind(open_store):
    """Wide and tall clips of one size are one kind with one latency."""
    tall = shape_of("480x832x81", MODEL)

    assert MODEL.tokens(tall) == MODEL.tokens(MODEL.shape) == 32_760


def test_alike_clips_run_in_a_row_and_nothing_starves(open_store):
    """Clips that are alike run one after the other, and no other job starves."""
    store, scheduler = open_store(), Scheduler(MODEL)
    put(store, "first")
    put(store, "odd", steps=40)
    put(store, *(f"like-{place:02}" for place in range(2 * MOST_IN_A_ROW)))
    waiting, order = store.waiting(), []

    while job := scheduler.next(waiting, []):
        waiting.remove(job)
        order.append(job.id)

    assert order[:2] == ["first", "like-00"]
    assert order.index("odd") == MOST_IN_A_ROW + 1
    assert len(order) == 2 * MOST_IN_A_ROW + 2


def in_pipeline(store, *names):
    """Starts these jobs: the first is denoised, the others are prepared."""
    for name in names:
        store.hold(store.job(name))
    assert store.begin(store.job(names[0]), 2.0)


def test_interrupted_job_is_queued_again_but_not_for_ever(open_store):
    store = open_store()
    put(store, "one")

    seen = []
    for _ in range(MOST_DEATHS):
        in_pipeline(store, "one")
        store = open_store()
        seen.append(store.job("one").status)

    assert seen == ["queued"] * (MOST_DEATHS - 1) + ["failed"]
    assert store.job("one").error[0] == "worker_error"


def test_jobs_under_way_at_a_death_are_retried_alone_unblamed(open_store):
    """No one of several jobs under way at a death is blamed; each is retried alone."""
    store, scheduler, order = open_store(), Scheduler(MODEL), []
    put(store, "one", "two", "after")
    for _ in range(MOST_DEATHS + 1):
        in_pipeline(store, "one", "two")
        store = open_store()

    while job := scheduler.next(store.waiting(), []):
        order.append((job.id, scheduler.next(store.waiting(), [job])))
        store.cancel(job.id, 3.0)

    assert order[:2] == [("one", None), ("two", None)]
    assert order[2][0] == "after"
    assert order[2][1] is not None


def test_ordered_end_or_lost_machine_blames_no_job(open_store):
    """A process that is ordered to end, or loses its machine, blames no job."""
    store = open_store()
    put(store, "one")
    for _ in range(MOST_DEATHS):
        in_pipeline(store, "one")
        store.ends()
        store = open_store()
    for boot in range(MOST_DEATHS):
        in_pipeline(store, "one")
        store = open_store(boot=str(boot))

    job = store.job("one")

    assert (job.status, job.alone) == ("queued", False)


def test_finished_job_is_known_for_a_week_then_forgotten(open_store):
    """A finished job is kept for a week and then forgotten."""
    store = open_store()
    put(store, "fetched", "failed", "cancelled", "never")
    for name in ("fetched", "never"):
        store.begin(store.job(name), 2.0)
        store.complete(store.job(name), {}, 1.0, 3.0)
    store.fetched("fetched", 3.0)
    store.fail(store.job("failed"), "worker_error", "no", 3.0)
    store.cancel("cancelled", 3.0)

    store.let_go(3.0 + ROWS_S)
    before = [job.id for job in store.jobs(limit=9, after=None, newest_first=False)]
    store.let_go(3.1 + ROWS_S)
    after = [job.id for job in store.jobs(limit=9, after=None, newest_first=False)]

    assert before == ["fetched", "failed", "cancelled", "never"]
    assert after == ["never"]


def test_a_clip_that_was_in_place_is_not_made_again(open_store):
    store = open_store()
    put(store, "one", "cancelled")
    for job in store.waiting():
        store.begin(job, 2.0)
        store.clip(job.id).write_bytes(b"whole")
    store.cancel("cancelled", 3.0)

    store = open_store()

    assert store.job("one").status == "completed"
    assert store.job("cancelled").status == "cancelled"
    assert not store.clip("cancelled").exists()


def test_another_model_does_not_run_the_jobs_of_this_one(open_store):
    put(open_store("wan"), "one")

    with pytest.raises(JobStoreError, match="1 jobs wait there for 'wan'"):
        open_store("wan+a-lora")


def test_an_id_is_one_ask_and_the_queue_has_an_end(open_store):
    store = open_store()
    [first] = put(store, "one")

    assert put(store, "one") == [first]
    with pytest.raises(TakenError):
        put(store, "one", seed=2)
    with pytest.raises(FullError):
        store.add(replace(SPEC, id="two"), b"", now=1.0, at_most=1)


def test_a_clip_is_kept_until_it_was_fetched_and_a_while_longer(open_store):
    store = open_store()
    for job in put(store, "fetched", "never"):
        store.begin(job, 2.0)
        store.clip(job.id).write_bytes(b"clip")
        store.complete(job, {}, 1.0, 3.0)
    store.fetched("fetched", 10.0)

    store.let_go(10.0)
    kept = store.job("fetched").gone
    store.let_go(11.0)

    assert not kept
    assert store.job("fetched").gone
    assert not store.clip("fetched").exists()
    assert store.clip("never").exists()


@pytest.mark.anyio
async def test_who_only_looks_at_a_clip_does_not_have_it(open_store):
    store = open_store()
    [job] = put(store, "one")
    store.begin(job, 2.0)
    store.clip("one").write_bytes(b"clip")
    store.complete(job, {}, 1.0, 3.0)
    app = Api(Worker(Plan(model="wan"), store, **RULES)).app(None)

    seen = []
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        for method in ("HEAD", "GET"):
            url = "http://worker/v1/videos/one/content"
            assert (await client.request(method, url)).status_code == 200
            seen.append(store.job("one").fetched_at is not None)

    assert seen == [False, True]


def test_wait_hint_for_long_clips_never_closes_the_lane(open_store):
    """The wait hint for long clips stays below the limit that closes a lane."""
    store = open_store()
    [job] = put(store, "one")
    store.begin(job, 0.0)
    store.complete(job, {}, 1.0, 2000.0)
    worker = Worker(Plan(model="wan"), store, **RULES)

    assert worker.a_clip_s() < LONGEST_WAIT_S


def test_step_hangs_at_five_times_its_usual_duration():
    """A step counts as hung after five times the duration of similar steps."""
    now, barked = [0.0], []
    dog = Watchdog(Patience(900.0), lambda job, _: barked.append(job), lambda: now[0])
    for _ in range(6):
        dog.step("denoise", "one", "480p")
        now[0] += 20.0
    now[0] += 80.0
    dog.look()
    quiet = list(barked)

    now[0] += 0.1
    dog.look()
    dog.rest("denoise")
    dog.step("denoise", "new", "720p")
    now[0] += 899.0
    dog.look()

    assert (quiet, barked) == ([], ["one"])


def test_a_process_that_stood_still_has_no_step_that_hangs():
    now, barked = [0.0], []
    dog = Watchdog(Patience(900.0), lambda job, _: barked.append(job), lambda: now[0])
    dog.step("denoise", "one", "480p")
    dog.look()
    now[0] += 3600.0

    dog.overslept()
    dog.look()
    stood = list(barked)
    for _ in range(1801):
        now[0] += 0.5
        dog.overslept()
        dog.look()

    assert (stood, barked) == ([], ["one"])


def test_id_of_a_forgotten_job_can_be_used_before_it_leaves_line(open_store):
    """The id of a forgotten job is free before the old job leaves the line."""
    store = open_store()
    [first] = put(store, "one")
    store.cancel("one", 2.0)
    store.forget("one")
    [second] = put(store, "one", seed=2)

    store.end_cancelled(first, 3.0)
    store.fail(first, "worker_error", "it was cancelled by then", 3.0)
    store.requeue(first)

    assert store.job("one") == second


def test_cancelled_job_is_not_restarted_after_a_lost_gpu(open_store):
    """A cancelled job is not restarted when its GPU is lost."""
    store = open_store()
    queued, begun = put(store, "queued", "begun")
    store.begin(begun, 2.0)
    for job in (queued, begun):
        store.cancel(job.id, 3.0)
        store.requeue(job)

    store = open_store()

    assert [store.job(job.id).status for job in (queued, begun)] == ["cancelled"] * 2


def test_time_is_busy_or_idle_with_work_or_neither():
    now = [0.0]
    metrics = Metrics(lambda: now[0], lambda: 0)
    now[0] = 10.0
    metrics.wanted("one")
    now[0] = 13.0
    with metrics.busy():
        now[0] = 33.0
        metrics.settled("one")
    metrics.done()
    now[0] = 40.0

    metrics = dict(line.rsplit(" ", 1) for line in metrics.text().decode().splitlines())

    assert metrics["nightreel_worker_gpu_busy_share"] == "0.5"
    assert metrics["nightreel_worker_gpu_busy_seconds_total"] == "20.0"
    assert metrics["nightreel_worker_gpu_idle_seconds_with_work_total"] == "3.0"
    assert metrics["nightreel_worker_clips_per_hour"] == "90.0"


def test_each_text_is_encoded_once_and_the_least_used_goes_first():
    class Embedding(bytes):
        nbytes = 4

    encoded = []
    prompts = Prompts(lambda text: encoded.append(text) or Embedding(), most_bytes=8)
    for text in ("bad", "a", "bad", "b", "bad", "a"):
        prompts.embedded(text)

    assert encoded == ["bad", "a", "b", "a"]


def test_guidance_that_the_pipeline_would_leave_out_is_refused():
    form = {"prompt": "pan", "guidance_scale": "1", "guidance_scale_2": "3"}

    with pytest.raises(JobSpecError, match="guidance_scale_2 3 goes unheeded"):
        parse_form(form, None, MODEL, "one")
