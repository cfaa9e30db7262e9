"""Promises of the command line to people and to the programs that run it."""

import asyncio
import http.server
import re
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import polars as pl
import pytest
import zstandard

from storage.ledger import KnownRoots, Ledger
from storage.media import mp4
from tasks.emulator import Emulator, Fault, running
from tests.storage.lives import made

ROOT = Path(__file__).parents[2]
PROMISED = {
    *("batch", "rows", "jobs", "published", "rejected", "in_doubt", "pending"),
    *("bought", "spent_usd", "wall_s"),
}
STATES = ("published", "rejected", "in_doubt", "pending")


def files(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file below a folder as text, decompressed."""
    for path in filter(Path.is_file, folder.rglob("*")):
        match path.suffix:
            case ".zst":
                yield path.name, zstandard.decompress(path.read_bytes()).decode()
            case ".parquet":
                yield path.name, str(pl.read_parquet(path).to_dicts())
            case _:
                yield path.name, path.read_bytes().decode("latin-1")


@contextmanager
def signed_host(still: bytes) -> Iterator[str]:
    """A host that serves a still to each request with a signature."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = "X-Amz-Signature=" in self.path and "gone" not in self.path
            self.send_response(200 if good else 403)
            self.end_headers()
            self.wfile.write(still if good else self.path.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.core
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_demo_without_a_server_buys_nothing_twice(bench, tmp_path):
    """The demo makes every example; Prefect starts a temporary server and database.

    A root of the demo that was deleted is not away: emulated clips cost nothing.
    """
    KnownRoots().remember((bench.folder / "reel").as_uri(), "deleted since")
    manifest = pl.read_parquet(ROOT / "examples" / "manifest.parquet")
    alone = {"PREFECT_HOME": str(tmp_path / "home"), "PREFECT_API_URL": ""}

    first = bench.start("demo", "--root", "reel", **alone).ended(within_s=540)
    again = bench.nightreel("demo", "--root", "reel")

    clips = bench.table(root="reel")
    pair = clips.filter(pl.col("id").is_in(["espresso", "espresso-for-winter"]))
    probes = [
        mp4.check(path.read_bytes())
        for path in (bench.folder / "reel" / "clips").rglob("*.mp4")
    ]
    assert (first.code, again.code) == (0, 0), first.err + again.err
    assert "bought 0 in this run" in again.err
    assert clips["id"].to_list() == manifest["id"].to_list()
    assert set(clips["state"]) == {"published"}
    assert (pair.height, pair["uri"].n_unique()) == (2, 1)
    assert len(probes) == clips["job"].n_unique()
    assert {probe.codec for probe in probes} == {"h264"}
    assert sorted({round(probe.seconds) for probe in probes}) == [5, 8]
    assert "Traceback" not in first.err + again.err


def test_run_prints_one_json_object_with_the_providers_money(bench):
    """A run prints one JSON object, and its money is the provider's own bill."""
    rows = [{"prompt": f"pan {n}"} for n in range(5)]
    bench.manifest([*rows, {"prompt": "pan 0"}, {"prompt": " "}])
    bench.config("spicy", "atlas", "fal", slots=2)

    ran = bench.run()

    assert ran.reply.keys() >= PROMISED
    assert sum(ran.reply[state] for state in STATES) == ran.reply["rows"] == 7
    assert (ran.code, ran.reply["jobs"], ran.reply["bought"]) == (0, 5, 5)
    assert (ran.reply["published"], ran.reply["rejected"]) == (6, 1)
    assert ran.reply["spent_usd"] == pytest.approx(bench.owed)
    assert set(bench.bought.values()) == {1}
    assert bench.table()["state"].to_list() == ["published"] * 6 + ["invalid"]
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("prompts", "share", "code"),
    [
        (["pan 0", "pan 1", " "], 0.33, 5),
        pytest.param(["pan 0", "pan 1", " "], 0.34, 0, marks=pytest.mark.slow),
        ([" ", ""], 1.0, 5),
    ],
)
def test_many_rejected_rows_end_with_5(bench, prompts, share, code):
    """More rejected rows than the owner's share fail a run, and so does a run of them only."""
    bench.manifest([{"prompt": prompt} for prompt in prompts])
    bench.config(more=f"engine.max_rejected = {share}")

    ran = bench.run()

    rejected = sum(not prompt.strip() for prompt in prompts)
    assert (ran.code, ran.reply["rejected"]) == (code, rejected), ran.err
    assert ran.reply["too_many_rejected"] is (code == 5)
    assert set(bench.bought.values()) <= {1}


@pytest.mark.slow
def test_lost_answer_ends_with_1_and_status_names_the_job(bench):
    """A lost answer ends the run with exit code 1, and `status` names the job."""
    bench.manifest(3)
    bench.config("atlas")
    bench.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]

    ran = bench.run()
    status = bench.nightreel("status", "root", "--json")
    shown = bench.nightreel("status", "root")

    [doubt] = status.reply["doubts"]
    assert (ran.code, ran.reply["in_doubt"], ran.reply["published"]) == (1, 1, 2)
    assert (doubt["lane"], doubt["price_usd"]) == ("atlas", 0.17)
    assert doubt["job"] in shown.out
    assert (status.reply["in_doubt_usd"], doubt["lost"]) == (0.17, "broken")
    assert "nightreel reconcile root" in shown.out
    assert (
        "`nightreel reconcile root` asks"
        in bench.nightreel(*("run", "m.parquet", "--root", "root")).err
    )
    assert (status.code, status.reply["published"], status.reply["jobs"]) == (0, 2, 3)
    assert status.reply["spent_usd"] == pytest.approx(bench.owed)


def test_refused_key_ends_the_run_with_3_and_advice(tmp_path, clip, bench):
    bench.manifest(3)
    with running(Emulator(keys=["another"], clip=clip)) as bench.url:
        bench.config()

        ran = bench.nightreel("run", "m.parquet", "--root", "root")

    assert (ran.code, ran.out) == (3, "")
    assert "lane spicy closed: " in ran.err
    assert "no lane is left" in ran.err


def test_a_spent_budget_ends_the_run_with_3(bench):
    bench.manifest(4)

    ran = bench.run("--budget", "0.31")

    assert (ran.code, ran.reply["published"], ran.reply["pending"]) == (3, 2, 2)
    assert ran.reply["spent_usd"] == pytest.approx(bench.owed) == pytest.approx(0.30)


@pytest.mark.slow
def test_invalid_start_ends_with_2_and_one_message(bench):
    """A run that cannot start sends nothing and ends with code 2 and one message."""
    bench.manifest([{"prompt": "good"}, {"prompt": " "}])
    (bench.folder / "page.parquet").write_text("<html>")
    (bench.folder / "bad.toml").write_text("[lanes.spicy\n")
    bench.config(name="zero.toml", slots=0)
    pl.DataFrame({"prompt": ["pan"]}).write_parquet(bench.folder / "bare.parquet")
    refusals = {
        "page.parquet: not readable as Parquet": ["page.parquet"],
        "bare.parquet: no column 'image'": ["bare.parquet"],
        "none.parquet: no such file": ["none.parquet"],
        "stills/: no *.parquet file in": ["stills"],
        "row 1: prompt ' ' is blank": ["m.parquet", "--strict"],
        "kept in clear text": ["https://me:secret@h.example/m.parquet"],
        "root = '' is blank": ["m.parquet", "--root", ""],
        "root = '  ' is blank": ["m.parquet", "--root", "  "],
        "root = ' s3://b/r': remove the space": ["m.parquet", "--root", " s3://b/r"],
        "manifest = '' is blank": [""],
        "no store for 'ftps'": ["m.parquet", "--root", "ftps://here"],
        "no lane 'spciy' (did you mean 'spicy'?)": ["m.parquet", "--lanes", "spciy"],
        "bad.toml: not TOML": ["m.parquet", "--config", "bad.toml"],
        "[lanes.spicy] slots = 0": ["m.parquet", "--config", "zero.toml"],
        "'soon' is neither HH:MM": ["m.parquet", "--finish-by", "soon"],
        "'2020-01-01T00:00' is past": [
            *("m.parquet", "--finish-by", "2020-01-01T00:00"),
        ],
        "budget_usd = inf: must be": ["m.parquet", "--budget", "inf"],
        "budget_usd = nan: must be": ["m.parquet", "--budget", "nan"],
        "balanced (did you mean 'cheapest'?)": ["m.parquet", "--policy", "cheepest"],
    }

    ran = bench.each(
        *(["run", "--root", "root", "--json", *words] for words in refusals.values())
    )
    keyless = bench.nightreel("run", "m.parquet", "--root", "root", LANE_KEY="")

    refusals["LANE_KEY is not set, or empty"] = []
    for message, refused in zip(refusals, [*ran, keyless], strict=True):
        assert refused.err.count(message) == 1, refused.err
        assert (refused.code, refused.out) == (2, "")
        assert "Traceback" not in refused.err
        assert "secret" not in refused.err
    assert not bench.emulator.stats()["accounts"]
    assert not (bench.folder / "root").exists()


@pytest.mark.slow
def test_check_finds_bad_rows_and_sends_nothing(bench):
    bench.manifest([{"prompt": "pan"}, {"prompt": "pan"}], "good")
    bench.manifest([{"prompt": "pan"}, {"prompt": "pan", "duration_s": 7}], "bad")

    good = bench.nightreel("check", "good.parquet", "--json")
    bad = bench.nightreel("check", "bad.parquet", "--json")
    shown = bench.nightreel("check", "bad.parquet")

    assert (good.code, bad.code, shown.code) == (0, 2, 2)
    assert (good.reply["rows"], good.reply["jobs"], good.reply["duplicates"]) == (
        2,
        1,
        1,
    )
    [complaint] = bad.reply["complaints"]
    assert (complaint["row"], complaint["column"], complaint["value"]) == (
        *(1, "duration_s"),
        "7",
    )
    assert "row 1: duration_s '7'" in shown.err
    assert not bench.emulator.stats()["accounts"]


def test_plan_shows_the_cost_of_a_run_and_sends_nothing(bench):
    bench.manifest([{"prompt": "a"}, {"prompt": "b", "resolution": "720p"}])

    planned = bench.nightreel("plan", "m.parquet", "--json", LANE_KEY="")
    shown = bench.nightreel("plan", "m.parquet", LANE_KEY="")

    [lane] = planned.reply["lanes"]
    assert (planned.code, shown.code) == (0, 0)
    assert (lane["lane"], lane["jobs"]) == ("spicy", 2)
    assert planned.reply["cost_usd"] == pytest.approx(0.15 + 0.30)
    assert "0.45" in shown.out
    assert not bench.emulator.stats()["accounts"]


def test_asking_about_a_root_that_is_not_there_makes_none(bench):
    asked = bench.nightreel("status", "nowhere", "--json")

    assert (asked.code, asked.out) == (2, "")
    assert "nowhere" in asked.err
    assert "Traceback" not in asked.err
    assert not (bench.folder / "nowhere").exists()


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_emulator_prints_its_url_and_stops_on_request(bench, sign):
    serving = bench.start("emulate", "--port", "0", "--latency", "100ms")
    lines = [serving.process.stderr.readline() for _ in range(14)]

    urls = re.findall(
        r"^base_url = '(http://127.0.0.1:\d+/[\w-]+)'$", "".join(lines), re.MULTILINE
    )
    [bill] = re.findall(r"bill: (\S+/bill),", lines[-1])
    owed = httpx.get(bill).json()
    serving.signal(sign)
    ended = serving.ended(within_s=100)

    assert [url.rpartition("/")[2] for url in urls] == [
        *("wavespeed", "302ai", "atlas", "fal", "kling", "runway", "replicate"),
        *("nightreel", "sglang", "vllm-omni", "fastvideo", "lightx2v", "comfyui"),
    ]
    assert owed == {"total_usd": "0", "charges": []}
    assert (ended.out, ended.err) == ("", "")


@pytest.mark.slow
def test_paths_are_the_shells_and_not_uris(bench):
    name, root = "20%20 off #1?.parquet", "a root [#1]"
    bench.manifest([{"prompt": "pan", "image": bench.still("a b.jpg")}])
    (bench.folder / "m.parquet").rename(bench.folder / name)

    ran = bench.run(manifest=name, root=root)
    status = bench.nightreel("status", root, "--json")

    assert (ran.code, ran.reply["published"]) == (0, 1)
    assert ran.reply["batch"] == "000001-20-20-off-1"
    assert status.reply["published"] == 1


def test_no_key_or_signature_is_printed_or_kept(bench):
    secrets = ("5ba1f00d" * 8, bench.prefect.env["LANE_KEY"], "X-Amz-Signature")
    signed = f"?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature={secrets[0]}&w=9"
    still = (bench.folder / bench.still("one.jpg")).read_bytes()
    with signed_host(still) as host:
        images = ["one", "gone", "bad name \x01"]
        rows = [{"image": f"{host}/{name}.jpg{signed}"} for name in images]
        bench.manifest([{"prompt": f"pan {n}", **row} for n, row in enumerate(rows)])

        ran = bench.run("--trust-manifest")
        shown = bench.nightreel("check", "m.parquet", "--trust-manifest")

    printed = [
        ("stdout", ran.out),
        ("stderr", ran.err),
        ("check", shown.out + shown.err),
    ]
    kept = [*files(bench.folder / "root")]
    leaks = [
        (name, secret)
        for name, text in [*printed, *kept]
        for secret in secrets
        if secret in text
    ]
    assert leaks == []
    assert (ran.reply["published"], ran.reply["rejected"]) == (1, 2)
    assert {".zst", ".parquet", ".json"} <= {Path(name).suffix for name, _ in kept}
    assert "one.jpg?w=9" in str(kept)
    assert bench.seen("upload") > 0


@pytest.mark.slow
def test_check_that_finds_a_bad_key_buys_nothing_and_names_it(bench, clip):
    """A check that finds a bad key buys nothing and says what is wrong."""
    bench.manifest(2)
    with running(
        Emulator(keys=[bench.prefect.env["LANE_KEY"]], clip=clip)
    ) as bench.url:
        names = [
            bench.config("spicy", name="good.toml"),
            bench.config("atlas", name="bad.toml", key="env:OLD_KEY"),
        ]
        texts = [(bench.folder / name).read_text() for name in names]
        (bench.folder / "nightreel.toml").write_text("\n".join(texts))
        words = "run", "m.parquet", "--root", "root", "--json", "--check"

        refused = bench.start(*words, OLD_KEY="sk-live-of-nobody").ended()
        no_root = not (bench.folder / "root").exists()
        good = bench.run("--check", "--config", "good.toml")

    assert (refused.code, refused.out, no_root) == (2, "", True)
    assert "lane atlas: the key is refused" in refused.err
    assert "lane spicy" not in refused.err
    assert "sk-live" not in refused.err
    assert (good.code, good.reply["published"]) == (0, 2)


def test_batch_that_must_be_late_warns_at_its_start_and_runs(bench):
    """A batch that cannot meet its deadline warns at its start and runs on."""
    bench.manifest(3)
    bench.config("spicy", "atlas", slots=1)
    by = datetime.now().astimezone() + timedelta(seconds=40)

    ran = bench.run("--finish-by", by.isoformat("T", "seconds"))

    warning = f"3 of 3 clips cannot be done by {by:%H:%M}, reckoned at the start"
    assert warning in ran.err
    assert (ran.code, ran.reply["published"]) == (0, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("policy", "lanes"), [("cheapest", 1), ("balanced", 2)])
def test_the_policy_decides_which_lanes_are_used(bench, policy, lanes):
    bench.manifest(8)
    bench.config("spicy", "atlas", slots=2)

    ran = bench.run("--policy", policy)

    assert (ran.code, ran.reply["published"]) == (0, 8)
    assert bench.table()["lane"].n_unique() == lanes


@pytest.mark.slow
def test_risk_that_the_owner_allows_is_taken_and_billed(bench):
    """A risk that the owner allows is taken, reported and counted in the bill."""
    bench.manifest(2)
    bench.config("atlas", risk_usd=0.2)
    bench.emulator.faults["pan 1"] = [Fault.LOSE_ANSWER]

    ran = bench.run()
    status = bench.nightreel("status", "root")

    assert (ran.code, ran.reply["published"]) == (0, 2)
    assert "0.17 USD risked on doubts" in ran.err
    assert bench.bought == {"pan 0": 1, "pan 1": 2}
    assert ran.reply["spent_usd"] == pytest.approx(bench.owed) == pytest.approx(0.51)
    assert "1 risk taken" in status.out
    assert re.search(r"^atlas +2 +2 +0\.51$", status.out, re.MULTILINE)


@pytest.mark.parametrize(
    "words", [["status", "root"], ["plan", "m.parquet", "--root=root"]]
)
def test_missing_claim_ends_with_words(bench, words):
    """A root that lost its claim is refused with exit code 1 and without a traceback."""
    bench.manifest(1)
    root = (bench.folder / "root").as_uri()
    asyncio.run(_lived(root))
    (bench.folder / "root/ledger/epochs/000001.json").unlink()

    ran = bench.nightreel(*words)

    assert (ran.code, ran.out) == (1, "")
    assert "epochs/000001.json: missing, but ledger/000001-m is there" in ran.err
    assert "Traceback" not in ran.err


async def _lived(root: str) -> None:
    await (await Ledger.open(made(root), name="m")).close()
