"""`plan` shows the cost, duration and end of a batch, also for each lane alone."""

import re
from datetime import datetime, timedelta

import pytest


def soon(**away):
    return (datetime.now().astimezone() + timedelta(**away)).isoformat("T", "seconds")


def test_a_plan_by_a_deadline_is_the_least_money_that_is_in_time(bench):
    bench.manifest(100)
    bench.config("spicy", "atlas", slots=10)

    free = bench.nightreel("plan", "m.parquet", "--json")
    pressed, patient = bench.each(
        ["plan", "m.parquet", "--json", "--finish-by", soon(minutes=7)],
        ["plan", "m.parquet", "--json", "--finish-by", soon(hours=7)],
    )

    assert (free.reply["policy"], pressed.reply["policy"]) == ("balanced", "cheapest")
    assert free.reply["seconds"] == 300
    assert [lane["jobs"] for lane in patient.reply["lanes"]] == [100, 0]
    assert patient.reply["cost_usd"] == pytest.approx(100 * 0.15)
    assert [lane["jobs"] for lane in pressed.reply["lanes"]] == [60, 40]
    assert pressed.reply["cost_usd"] == pytest.approx(60 * 0.15 + 40 * 0.17)
    assert (pressed.reply["late"], patient.reply["late"]) == (0, 0)


@pytest.mark.slow
def test_plan_names_late_work_and_each_lanes_time_alone(bench):
    """A plan says what cannot be done in time, and what each lane would do alone."""
    rows = [{"prompt": f"pan {n}"} for n in range(20)]
    bench.manifest([*rows, {"prompt": "long", "duration_s": 10, "model": "wan-2.2"}])
    bench.config("spicy", "fal", slots=1)
    by = soon(minutes=5, seconds=30)

    shown = bench.nightreel("plan", "m.parquet", "--finish-by", by)
    told = bench.nightreel("plan", "m.parquet", "--json", "--finish-by", by).reply

    spicy, fal = told["alone"]
    assert (spicy["jobs"], spicy["unable"], spicy["seconds"]) == (20, 1, 1200)
    assert (fal["jobs"], fal["unable"], fal["seconds"]) == (21, 0, 1260)
    assert fal["cost_usd"] == pytest.approx(20 * 0.2025 + 0.4025)
    assert told["late"] > 0
    assert f"{told['late']} of 21 clips cannot be done by" in shown.out
    assert "The same batch on one lane alone" in shown.out
    assert "the stills were not looked at" in shown.out
    assert re.search(r"^spicy +20 +3\.00 +20 min .* 1$", shown.out, re.MULTILINE)


@pytest.mark.slow
def test_plan_for_a_root_skips_its_clips_and_knows_its_lanes(bench):
    """A plan for a root leaves out its clips and uses what it learned of lanes."""
    bench.manifest(3, "first")
    bench.manifest(5)

    bench.run(manifest="first.parquet")
    told = bench.nightreel("plan", "m.parquet", "--root", "root", "--json").reply
    nowhere = bench.nightreel("plan", "m.parquet", "--root", "nowhere")

    assert (told["jobs"], told["owned"], told["unserved"]) == (5, 3, 0)
    assert told["cost_usd"] == pytest.approx(2 * 0.15)
    assert told["seconds"] < 30
    assert (nowhere.code, nowhere.out) == (2, "")
    assert "nowhere: no such folder" in nowhere.err


def test_a_time_that_means_nothing_or_is_past_is_refused(bench):
    bench.manifest(1)

    odd, late = bench.each(
        ["plan", "m.parquet", "--finish-by", "soon"],
        ["plan", "m.parquet", "--finish-by", "2020-01-01T00:00"],
    )

    assert (odd.code, late.code) == (2, 2)
    assert "'soon' is neither HH:MM" in odd.err
    assert "is past" in late.err
