"""The valid contents of nightreel.toml, and the messages about invalid ones."""

import math
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from flows.config import SettingsError, budget, lanes
from flows.config.settings import listen, load, resolve_key

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
SECRET = "sk-live-5d41402abc4b2a76"
LANE = '[lanes.spicy]\nroute = "wavespeed/wan-2.2-spicy"\nkey = "env:WAVESPEED_KEY"\n'


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.delenv("NIGHTREEL_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


def written(text):
    path = Path("nightreel.toml")
    path.write_text(text)
    return path


def complaint(text, lanes=None):
    with pytest.raises(SettingsError) as caught:
        load(written(text), lanes=lanes)
    return str(caught.value)


def test_a_lane_is_read_as_it_was_written():
    path = written(
        LANE
        + 'base_url = "http://127.0.0.1:8400/wavespeed"\nslots = 100\n'
        + 'submits_per_minute = 500\nstills = "upload"\n'
    )

    lane = load(path).lanes["spicy"]

    assert lane.route == "wavespeed/wan-2.2-spicy"
    assert lane.key == "env:WAVESPEED_KEY"
    assert lane.base_url == "http://127.0.0.1:8400/wavespeed"
    assert (lane.slots, lane.submits_per_minute, lane.stills) == (100, 500, "upload")


def test_misspelt_policy_is_told_the_nearest():
    path = written(LANE + '[engine]\npolicy = "cheepest"\n')

    with pytest.raises(
        SettingsError, match=r"policy = 'cheepest': must be .*'cheapest'\?"
    ):
        load(path)


def test_settings_missing_in_a_lane_come_from_its_route():
    lane = load(written(LANE)).lanes["spicy"]

    assert (lane.base_url, lane.slots, lane.submits_per_minute) == (None, None, None)
    assert lane.stills is None


def test_the_engine_has_defaults_and_each_can_be_changed():
    plain = load(written(LANE)).engine
    changed = load(
        written(LANE + "[engine]\nshard_rows = 1000\ndeadline_s = 90")
    ).engine

    assert (plain.shard_rows, plain.attempts, plain.deadline_s) == (500, 3, 3600)
    assert (plain.downloads, plain.decode) == (16, True)
    assert (changed.shard_rows, changed.deadline_s) == (1000, 90)
    assert changed.attempts == 3


@pytest.mark.parametrize("written_as", ["0.12", '"0.12"'])
def test_money_is_read_exactly_as_written(written_as):
    lane = load(
        written(LANE + f"risk_usd = {written_as}\nusd_per_day = {written_as}")
    ).lanes["spicy"]

    assert lane.risk_usd == lane.usd_per_day == Decimal("0.12")


@pytest.mark.parametrize("usd", [math.inf, math.nan, -1.0, Decimal("inf")])
def test_budget_that_is_no_amount_is_refused_with_its_cure(usd):
    """`inf`, `nan` and amounts below 0 are no budgets."""
    with pytest.raises(SettingsError, match=f"budget_usd = {usd}: must be US dollars"):
        budget(usd)


def test_dearer_bills_are_told_or_close_the_lane():
    plain = load(written(LANE)).lanes["spicy"]
    closes = load(written(LANE + 'on_dearer = "close"')).lanes["spicy"]

    assert (plain.on_dearer, closes.on_dearer) == ("tell", "close")


def test_lane_may_name_itself_to_its_host():
    """A lane's `user_agent` goes to its requests; without one Nightreel names itself."""
    text = LANE + 'user_agent = "curl/8.5.0"'
    [named] = lanes.keyless(load(written(text)))
    [plain] = lanes.keyless(load(written(LANE)))

    assert named.endpoint.user_agent == "curl/8.5.0"
    assert plain.endpoint.user_agent.startswith("nightreel/")


@pytest.mark.parametrize("agent", ["", " x", "a\\nb", "größe", "x" * 201])
def test_user_agent_that_no_header_can_carry_is_refused(agent):
    """A `user_agent` that httpx or a proxy would refuse is refused in the file."""
    with pytest.raises(
        SettingsError, match=r"\[lanes.spicy\] user_agent = .*printable"
    ):
        load(written(LANE + f'user_agent = "{agent}"'))


def test_nothing_is_risked_or_capped_by_default():
    settings = load(written(LANE))

    lane, engine = settings.lanes["spicy"], settings.engine
    assert (lane.risk_usd, lane.usd_per_day, lane.submits_per_day) == (0, None, None)
    assert (engine.policy, engine.max_failure_rate) == ("balanced", 0.3)
    assert engine.settle_s == 60
    assert settings.listen.public_url is None


def test_settle_time_covers_the_sends_of_a_fenced_run():
    """`settle_s` is at least 30 s: until then a fenced run may still send."""
    with pytest.raises(SettingsError, match=r"settle_s.*must be at least 30"):
        load(written(LANE + "[engine]\nsettle_s = 5\n"))


@pytest.mark.parametrize(
    "address", ["", "https://api-beijing.klingai.com", "http://8.8.8.8:80/kling"]
)
def test_real_provider_is_never_asked_at_once(address):
    """`settle_s = 0` is for emulators: elsewhere a late submit would be paid twice."""
    base_url = f'base_url = "{address}"\n' if address else ""

    with pytest.raises(SettingsError, match=r"settle_s = 0: \[lanes.spicy\].*leave"):
        load(written(LANE + base_url + "[engine]\nsettle_s = 0\n"))


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/x", "http://[::1]:1", "http://emulator:8080"]
)
def test_emulator_may_be_asked_at_once(address):
    """`settle_s = 0` is accepted for a lane on this machine or network."""
    path = written(LANE + f'base_url = "{address}"\n[engine]\nsettle_s = 0\n')

    assert load(path).engine.settle_s == 0


def test_permissions_in_the_file_reach_lanes_and_engine():
    path = written(
        LANE
        + 'base_url = "http://127.0.0.1:8480/wavespeed"\n'
        + "risk_usd = 2\nusd_per_day = 7.5\nsubmits_per_day = 40\n[engine]\n"
        + 'policy = "fastest"\nmax_failure_rate = 0.5\nsettle_s = 0\n'
    )

    settings = load(path)
    [lane], rules = lanes.keyless(settings), lanes.rules(settings)

    assert (lane.risk_usd, lane.usd_per_day) == (2, Decimal("7.5"))
    assert lane.limits.submits_per_day == 40
    assert (rules.max_failure_rate, rules.settle_s) == (0.5, 0)
    assert settings.engine.policy == "fastest"


def test_the_catalogues_tables_are_passed_on_untouched():
    path = written(
        LANE
        + '[routes."wavespeed/wan-2.2-spicy"]\nslots = 7\n[models.mine]\nfps = 24\n'
    )

    settings = load(path)

    assert settings.routes == {"wavespeed/wan-2.2-spicy": {"slots": 7}}
    assert settings.models == {"mine": {"fps": 24}}


def test_the_example_is_a_good_file():
    settings = load(ROOT / "examples" / "nightreel.toml")

    providers = {lane.route.partition("/")[0] for lane in settings.lanes.values()}
    assert providers == {"wavespeed", "atlas", "fal"}
    assert settings.engine == type(settings.engine)()


# Location of the file


def test_the_file_is_found_beside_the_person():
    written(LANE)

    assert list(load().lanes) == ["spicy"]


def test_argument_for_the_file_precedes_the_environment(tmp_path, monkeypatch):
    """The environment may name the settings file, and an argument precedes it."""
    written(LANE)
    other = tmp_path / "other.toml"
    other.write_text(LANE.replace("spicy]", "other]"))
    monkeypatch.setenv("NIGHTREEL_CONFIG", str(other))

    assert list(load().lanes) == ["other"]
    assert list(load(Path("nightreel.toml")).lanes) == ["spicy"]


def test_missing_file_is_named_in_full_with_advice(tmp_path):
    with pytest.raises(SettingsError) as caught:
        load()

    assert str(tmp_path / "nightreel.toml") in str(caught.value)
    assert "NIGHTREEL_CONFIG" in str(caught.value)


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(SettingsError, match="directory"):
        load(tmp_path)


def test_bad_toml_is_shown_by_its_line():
    assert "line 2" in complaint("[lanes.spicy]\nroute = ,\n")


def test_file_that_is_not_text_is_reported_as_such(tmp_path):
    path = tmp_path / "nightreel.toml"
    path.write_bytes(b"\xff\xfe\x00")

    with pytest.raises(SettingsError, match="not UTF-8"):
        load(path)


# Contents of the file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LANE + "slot = 3", ["[lanes.spicy]", "no key 'slot'", "'slots'"]),
        ("[lane.spicy]", ["no key 'lane'", "did you mean 'lanes'"]),
        (LANE + "[engine]\nshards = 9", ["[engine]", "'shards'", "shard_rows"]),
        (LANE + "slots = 0", ["[lanes.spicy]", "slots = 0", "equal to 1"]),
        (LANE + "slots = true", ["slots = True", "must be a valid integer"]),
        (LANE + 'slots = "9"', ["slots = '9'", "must be a valid integer"]),
        (LANE + 'stills = "post"', ["stills = 'post'", "'presign' or 'link'"]),
        (LANE + "[engine]\nshard_rows = 1001", ["shard_rows = 1001", "equal to 1000"]),
        (LANE + "[engine]\ndeadline_s = inf", ["deadline_s = inf", "finite"]),
        (LANE + "[routes]\nslots = 9", ["[routes] slots", "must be a table"]),
        ("lanes = 3", ["lanes", "must be a table"]),
        ('[lanes.spicy]\nkey = "env:A"', ["[lanes.spicy]", "no 'route'"]),
        (LANE.replace("wavespeed/", ""), ["route = 'wan-2.2-spicy'", "provider/model"]),
        (LANE.replace("spicy]", '"a,b"]'), ["a,b", "letters, digits"]),
        (LANE + 'base_url = "127.0.0.1:8400"', ["[lanes.spicy] base_url", "http(s)"]),
        (LANE + "risk_usd = -1", ["[lanes.spicy]", "risk_usd = -1", "US dollars"]),
        (LANE + "risk_usd = nan", ["risk_usd = nan", "US dollars"]),
        (LANE + "risk_usd = true", ["risk_usd = True", "US dollars"]),
        (LANE + 'usd_per_day = "$5"', ["usd_per_day = '$5'", "such as 2.50"]),
        (LANE + 'usd_per_day = "5,00"', ["usd_per_day = '5,00'", "such as 2.50"]),
        (LANE + 'usd_per_day = ""', ["usd_per_day = ''", "such as 2.50"]),
        (LANE + "submits_per_day = 0", ["submits_per_day = 0", "equal to 1"]),
        (LANE + '[engine]\npolicy = "cheap"', ["policy = 'cheap'", "'cheapest'"]),
        (LANE + '[engine]\ndecode = "yes"', ["[engine] decode = 'yes'", "boolean"]),
        (LANE + "[engine]\nmax_failure_rate = 30", ["max_failure_rate = 30", "to 1"]),
        (LANE + "[engine]\nsettle_s = -1", ["settle_s = -1", "equal to 0"]),
        (LANE + "[listen]\nport = 1", ["[listen]", "no key 'port'", "hints_url"]),
        (LANE + '[listen]\npublic_url = "h"', ["[listen] public_url", "http(s)"]),
        (LANE + '[listen.secrets]\nfal = "env:A"', ["[listen.secrets] fal", "'wave"]),
        ("", ["no lanes", "[lanes.NAME]"]),
    ],
)
def test_mistake_is_named_by_place_value_and_what_is_allowed(text, words):
    """A mistake is named by its place and value, with what is allowed."""
    message = complaint(text)

    assert message.startswith("nightreel.toml: ")
    assert [word for word in words if word not in message] == []


def test_all_mistakes_are_reported_at_once():
    message = complaint(LANE + "slots = 0\nsubmits_per_minute = 0\nslow = 1")

    assert len(message.splitlines()) == 3


@pytest.mark.parametrize(
    "line",
    [
        f'key = "{SECRET}"',
        f'key = "env:{SECRET}"',
        f'key = "block:{SECRET}!"',
        f'key = ["{SECRET}"]',
        f'key = "env:A"\napi_key = "{SECRET}"',
        f'key = "env:A"\nbase_url = "https://me:{SECRET}@example.com"',
        f'key = "env:A"\nbase_url = "https://example.com/?token={SECRET}"',
        f'key = "env:A"\nbase_url = "https://[{SECRET}"',
        f'key = "env:A"\n[listen.secrets]\nwavespeed = "{SECRET}"',
    ],
)
def test_a_key_in_the_file_is_refused_and_never_repeated(line):
    path = written(f'[lanes.spicy]\nroute = "wavespeed/wan-2.2-spicy"\n{line}\n')

    with pytest.raises(SettingsError) as caught:
        load(path)

    assert str(caught.value).startswith("nightreel.toml: [l")
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


def test_key_in_place_of_a_lane_is_not_repeated():
    assert SECRET not in complaint(f'[lanes]\nspicy = "{SECRET}"')


# Selection of lanes


def test_only_the_lanes_that_were_named_are_used_in_that_order():
    path = written("".join(LANE.replace("spicy]", f"{name}]") for name in "abc"))

    assert list(load(path, lanes=["c", "a"]).lanes) == ["c", "a"]


def test_a_lane_that_is_not_there_is_named_with_those_that_are():
    message = complaint(LANE, lanes=["spicey"])

    assert "no lane 'spicey' (did you mean 'spicy'?)" in message


def test_naming_no_lane_is_having_none():
    assert "no lanes" in complaint(LANE, lanes=[])


# Accounts and hooks


def two(first="", second="", routes=("wavespeed/wan-2.2-spicy", "wavespeed/wan-2.2")):
    """Two lanes with one key."""
    lines = [
        f'[lanes.{name}]\nroute = "{route}"\nkey = "env:SHARED_KEY"\n{more}\n'
        for name, route, more in zip("ab", routes, (first, second), strict=True)
    ]
    return lanes.keyless(load(written("".join(lines))))


def test_two_lanes_of_one_account_share_one_limiter():
    a, b = two()

    assert a.limiter is b.limiter
    assert a.account == b.account


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("slots = 3", ""),
        ("slots = 3", "slots = 3"),
        ("submits_per_minute = 5", ""),
        ('base_url = "http://127.0.0.1:1/wavespeed"', ""),
    ],
)
def test_lane_with_a_separate_share_has_a_separate_limiter(first, second):
    """A lane with a separate share or place has a separate limiter."""
    a, b = two(first, second)

    assert a.limiter is not b.limiter
    assert a.account != b.account


def test_lanes_of_models_with_separate_limits_have_separate_ones():
    a, b = two(routes=("replicate/wan-2.2", "wavespeed/wan-2.2"))
    kling, runway = two(routes=("kling/kling-2.5-turbo", "runway/gen4-turbo"))

    assert a.limiter is not b.limiter
    assert "kling-2.5-turbo" in kling.account
    assert "gen4-turbo" in runway.account


async def test_account_is_named_by_the_place_of_its_key(monkeypatch):
    monkeypatch.setenv("WAVESPEED_KEY", SECRET)

    [lane] = await lanes.opened(load(written(LANE)))

    assert lane.account == "wavespeed env:WAVESPEED_KEY"
    assert SECRET not in repr(lane)


@pytest.mark.parametrize(
    ("route", "successor"),
    [
        ("runway/gen3a-turbo", "gen4-turbo"),
        ("kling/kling-1.6", "kling-2.5-turbo"),
        ("fal/kling-1.6", "kling-2.5-turbo"),
    ],
)
def test_retired_route_is_refused_with_successor(route, successor):
    """A lane on a retired route buys nothing, and the message says what to write."""
    text = LANE.replace("wavespeed/wan-2.2-spicy", route)

    with pytest.raises(SettingsError) as caught:
        lanes.keyless(load(written(text)))

    assert f"[lanes.spicy] {route} is withdrawn" in str(caught.value)
    assert f"use {successor}" in str(caught.value)
    assert "clips accepted on it are fetched" in str(caught.value)


def test_webhook_url_is_sent_only_if_signatures_can_be_verified():
    """A provider gets our webhook URL only if we can verify its signatures."""
    public = '[listen]\npublic_url = "https://reel.example/hooks/"\n'
    proved = public + '[listen.secrets]\nwavespeed = "env:HOOK_SECRET"\n'
    kling = LANE.replace("wavespeed/wan-2.2-spicy", "kling/kling-2.5-turbo")

    [plain] = lanes.keyless(load(written(LANE)))
    [unproved] = lanes.keyless(load(written(LANE + public)))
    [hooked] = lanes.keyless(load(written(LANE + proved)))
    [unsigned] = lanes.keyless(load(written(kling + proved)))

    assert [lane.endpoint.provider.hook for lane in (plain, unproved, unsigned)] == [
        ""
    ] * 3
    assert (
        hooked.endpoint.provider.hook == "https://reel.example/hooks/webhooks/wavespeed"
    )
    assert listen().secrets == {"wavespeed": "env:HOOK_SECRET"}


# Keys


async def test_a_key_is_read_from_the_variable_that_the_lane_names(monkeypatch):
    monkeypatch.setenv("WAVESPEED_KEY", f"{SECRET}\n")

    assert await resolve_key("env:WAVESPEED_KEY", lane="spicy") == SECRET


@pytest.mark.parametrize("value", [None, "", " \n"])
async def test_a_variable_without_a_key_is_named_with_its_lane(monkeypatch, value):
    monkeypatch.delenv("WAVESPEED_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("WAVESPEED_KEY", value)

    with pytest.raises(SettingsError) as caught:
        await resolve_key("env:WAVESPEED_KEY", lane="spicy")

    assert "lane 'spicy'" in str(caught.value)
    assert "WAVESPEED_KEY" in str(caught.value)


async def test_key_that_is_no_reference_is_refused_and_not_repeated():
    with pytest.raises(SettingsError) as caught:
        await resolve_key(SECRET)

    assert SECRET not in str(caught.value)


@pytest.mark.slow
def test_a_key_is_read_from_a_prefect_secret_block(tmp_path):
    program = """
import asyncio
from prefect.blocks.system import Secret
from flows.config.settings import SettingsError, resolve_key

async def main():
    await Secret(value="a key").asave("wavespeed")
    print(await resolve_key("block:wavespeed", lane="spicy"))
    try:
        await resolve_key("block:nowhere", lane="spicy")
    except SettingsError as exc:
        print(exc)

asyncio.run(main())
"""
    prefect = {
        "PREFECT_HOME": str(tmp_path),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "90",
    }
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}

    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=inherited | prefect,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    found, missing = done.stdout.splitlines()[-2:] or [done.stderr, ""]
    assert found == "a key"
    assert "lane 'spicy'" in missing
    assert "'nowhere' does not exist" in missing


def test_settings_are_read_without_waiting_for_prefect():
    program = "import sys, flows.config.settings; sys.exit('prefect' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False)

    assert done.returncode == 0


@pytest.mark.parametrize("value", ["sk-…", "sk-1\nsk-2"])
async def test_key_unfit_for_a_header_is_refused_and_not_repeated(monkeypatch, value):
    monkeypatch.setenv("WAVESPEED_KEY", value)

    with pytest.raises(SettingsError, match="env:WAVESPEED_KEY holds what is no key"):
        await resolve_key("env:WAVESPEED_KEY", lane="spicy")


@pytest.mark.parametrize(
    "base_url",
    ["", 'base_url = "https://api.example.com"\n', 'base_url = "http://9.9.9.9"\n'],
)
async def test_short_key_of_a_real_provider_is_refused(monkeypatch, base_url):
    """A key of a few letters cannot be masked, and no provider gives one out."""
    monkeypatch.setenv("WAVESPEED_KEY", "any")

    with pytest.raises(SettingsError, match=r"lane 'spicy': .* holds 3 characters"):
        await lanes.opened(load(written(LANE + base_url)))


async def test_emulator_takes_a_short_key(monkeypatch):
    """On this machine any key will do, as in the tutorial."""
    monkeypatch.setenv("WAVESPEED_KEY", "any")
    path = written(LANE + 'base_url = "http://127.0.0.1:8400/wavespeed"\n')

    [lane] = await lanes.opened(load(path))

    assert lane.endpoint.provider.key == "any"


# Own GPUs


def own(*lines, route="sglang/wan-2.2"):
    text = "\n".join(lines)
    return load(written(f'[lanes.gpu]\nroute = "{route}"\n{text}\n'))


HERE = 'base_url = "http://10.0.0.5:30010"'


async def test_own_gpu_needs_no_key_and_is_sent_stills_themselves():
    """A GPU of the user needs no key and receives the stills themselves."""
    [gpu] = await lanes.opened(own(HERE, "paid = false"))

    assert (gpu.paid, gpu.hands_over, gpu.endpoint.provider.key) == (
        False,
        "upload",
        "",
    )
    assert gpu.risk.affords(Decimal(1_000_000))


@pytest.mark.parametrize(
    ("lines", "route", "message"),
    [
        ([HERE], "sglang/wan-2.2", "no 'key': it must be given"),
        (["paid = false"], "sglang/wan-2.2", 'base_url = "http://HOST:PORT"'),
        (
            ["paid = false", HERE, 'stills = "link"'],
            "sglang/wan-2.2",
            "the still itself",
        ),
        (["paid = false"], "wavespeed/wan-2.2", "wavespeed sends a bill"),
    ],
)
def test_a_lane_that_does_not_go_with_its_route_is_refused(lines, route, message):
    with pytest.raises(SettingsError) as refused:
        lanes.keyless(own(*lines, route=route))

    assert message in str(refused.value)
