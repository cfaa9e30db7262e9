"""The same batch in this process, on Ray and on Dask: one bill, and no quota exceeded."""

from importlib.util import find_spec

import pytest

from tasks.emulator import Emulator
from tests.flows.test_pool import KLING, rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SLOTS, JOBS = 6, 24


def needs(module):
    absent = find_spec(module) is None
    return pytest.mark.skipif(absent, reason=f"no {module}: `make test-runners` has it")


@pytest.mark.parametrize(
    "runner",
    [
        "here",
        pytest.param("ray", marks=needs("prefect_ray")),
        pytest.param("dask", marks=needs("prefect_dask")),
    ],
)
def test_every_runner_has_one_bill_and_one_quota(make_bench, prefect, clip, runner):
    emulator = Emulator(
        latency_s=1.0, slots=SLOTS, submits_per_minute=100000, clip=clip
    )
    with make_bench(emulator) as bench:
        prefect.wait()
        bench.manifest(rows(bench, JOBS))
        bench.config(
            "kling",
            key="env:KLING_KEY",
            slots=SLOTS,
            more=f"engine.runner = '{runner}'\nengine.workers = 2\n"
            "engine.shard_rows = 8",
        )

        words = ("run", "m.parquet", "--root", "root", "--json")
        ended = bench.start(*words, KLING_KEY=KLING).ended(within_s=600)

        [account] = emulator.stats()["accounts"]
        assert (ended.reply["published"], ended.reply["bought"]) == (JOBS, JOBS), ended
        assert ended.reply["spent_usd"] == pytest.approx(bench.owed)
        assert set(bench.bought.values()) == {1}
        assert (account["running"], account["throttled"]) == (SLOTS, 0)
