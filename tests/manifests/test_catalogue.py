"""The catalogue: what is shipped can be trusted, and people's own figures win."""

import re
from decimal import Decimal

import pytest

from manifests.catalogue import CatalogueError, load
from manifests.jobs import Job

SPICY = "wavespeed/wan-2.2-spicy"


def priced(**prices):
    return {"routes": {SPICY: {"prices_usd": prices}}}


def hours(span, kind="off_peak"):
    return {"routes": {SPICY: {"kind": kind, "hours_utc": span}}}


def test_these_routes_are_shipped():
    routes = load().routes

    assert set(routes) == {
        "wavespeed/wan-2.2-spicy",
        "wavespeed/wan-2.2",
        "wavespeed/wan-2.1",
        "atlas/wan-2.2-spicy",
        "fal/wan-2.2",
        "fal/wan-2.1",
        "fal/kling-2.5-turbo",
        "fal/kling-1.6",
        "302ai/wan-2.2-spicy",
        "302ai/unified",
        "kling/kling-2.5-turbo",
        "kling/kling-1.6",
        "runway/gen4-turbo",
        "runway/gen3a-turbo",
        "replicate/wan-2.2",
        "nightreel/wan-2.2",
        "sglang/wan-2.2",
        "vllm-omni/wan-2.2",
        "fastvideo/wan-2.2",
        "lightx2v/wan-2.2",
        "comfyui/wan-2.2",
    }


def test_wavespeed_charges_thirty_cents_for_five_seconds_of_720p():
    job = Job(image="i", prompt="p", resolution="720p")

    assert load().route("wavespeed/wan-2.2").price_usd(job) == Decimal("0.30")


def test_fal_charges_for_81_frames_at_16_a_second():
    job = Job(image="i", prompt="p")

    assert load().route("fal/wan-2.2").price_usd(job) == Decimal("0.04") * 81 / 16


def test_a_route_knows_its_provider_its_model_and_what_it_shows():
    route = load().route("atlas/wan-2.2-spicy")

    assert (route.provider, route.model, route.content) == (
        "atlas",
        "wan-2.2-spicy",
        "adult",
    )
    assert load().route("fal/wan-2.2").content == "general"


@pytest.mark.parametrize("fact", ["endpoints", "prices_usd", "limits", "keeps_s"])
def test_shipped_route_states_source_and_date_of_its_facts(fact):
    """Every shipped route states the source and the date of its facts."""
    for route in load().routes.values():
        told = [s for s in route.source.splitlines() if s.startswith(f"{fact}:")]

        assert len(told) == 1
        assert "2026-" in told[0]


@pytest.mark.parametrize(
    ("route", "keeps_s"),
    [
        ("replicate/wan-2.2", 3600),
        ("runway/gen4-turbo", 24 * 3600),
        ("kling/kling-2.5-turbo", 30 * 24 * 3600),
        ("fal/kling-2.5-turbo", 7 * 24 * 3600),
        ("302ai/unified", None),
    ],
)
def test_a_route_knows_how_long_its_provider_keeps_a_clip(route, keeps_s):
    assert load().route(route).keeps_s == keeps_s


def test_keeping_time_can_be_overridden():
    """A user's own figure for how long clips are kept overrides the shipped one."""
    overrides = {"routes": {"302ai/unified": {"keeps_s": 86400}}}

    assert load(overrides).route("302ai/unified").keeps_s == 86400
    with pytest.raises(CatalogueError, match="keeps_s is 0"):
        load({"routes": {"302ai/unified": {"keeps_s": 0}}})


def test_retired_shipped_route_states_date_and_successor():
    """A shipped route that is retired states since when, and what to use instead."""
    retired = {name: r.retired for name, r in load().routes.items() if r.retired}

    kling = "withdrawn by Kling on 2026-09-15: use kling-2.5-turbo, its successor"
    assert retired == {
        "runway/gen3a-turbo": (
            "withdrawn by Runway on 2026-07-30: use gen4-turbo, its successor"
        ),
        "kling/kling-1.6": kling,
        "fal/kling-1.6": kling,
    }


def test_retired_route_has_live_successor():
    """A retired route's provider serves the successor that the route names."""
    routes = load().routes

    for route in (each for each in routes.values() if each.retired):
        (successor,) = re.findall(r"use (\S+), its successor", route.retired)
        assert not routes[f"{route.provider}/{successor}"].retired


def test_a_route_that_a_person_knows_to_be_retired_is():
    overrides = {"routes": {SPICY: {"retired": "withdrawn on 2026-12-01"}}}

    assert load(overrides).route(SPICY).retired == "withdrawn on 2026-12-01"


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, (24, 300, "in May")),
        ({"fps": 30, "min_still_px": 64, "retired": "now"}, (30, 64, "now")),
        ({"retired": ""}, (24, 300, "in May")),
    ],
)
def test_route_inherits_facts_of_its_model(facts, expected):
    """A fact that the route's table leaves out or empty is that of its model."""
    table = {"endpoints": {"480p": "x"}, "prices_usd": {"480p": {"5": 1}}}
    model = {"tier": "draft", "fps": 24, "min_still_px": 300, "retired": "in May"}
    model["sides_of"] = 8
    own = {"models": {"m": model}, "routes": {"p/m": {**table, **facts}}}

    route = load(own).route("p/m")

    assert (route.fps, route.min_still_px, route.retired) == expected
    assert (route.tier, route.sides_of) == ("draft", 8)


def test_a_resellers_route_knows_whose_machines_make_its_clips():
    routes = load().routes

    assert routes["302ai/wan-2.2-spicy"].supplier == "wavespeed"
    assert routes["atlas/wan-2.2-spicy"].supplier == "atlas"


def test_route_named_unlike_its_model_states_its_model():
    """A route whose name does not contain its model's name states the model."""
    unified = load().route("302ai/unified")

    assert (unified.provider, unified.model, unified.tier) == (
        "302ai",
        "wan-2.7",
        "premium",
    )


def test_whatever_a_shipped_route_prices_it_can_make():
    for route in load().routes.values():
        for resolution, seconds in route.prices_usd:
            job = Job(image="", prompt="", resolution=resolution, duration_s=seconds)

            assert route.complaint(job) is None
            assert route.endpoints[resolution]


def test_an_unknown_route_is_named_with_what_it_may_have_meant():
    with pytest.raises(
        CatalogueError, match=r"'wavespeed/wan-2\.2-spicey' .*did you mean"
    ):
        load().route("wavespeed/wan-2.2-spicey")


def test_a_persons_price_wins_and_says_whose_it_is():
    route = load(priced(**{"480p": {"5": "0.12"}}), place="mine.toml").route(SPICY)

    assert route.prices_usd["480p", 5] == Decimal("0.12")
    assert route.prices_usd["480p", 8] == Decimal("0.24")
    assert "prices_usd: mine.toml" in route.source.splitlines()


def test_a_price_that_toml_read_as_a_float_is_exact():
    route = load(priced(**{"480p": {"5": 0.1}})).route(SPICY)

    assert route.prices_usd["480p", 5] == Decimal("0.1")


def test_a_persons_own_model_and_route_are_as_good_as_ours():
    overrides = {
        "models": {"wan-3": {"content": "adult", "fps": 24}},
        "routes": {
            "home/wan-3": {
                "endpoints": {"480p": "wan3"},
                "prices_usd": {"480p": {"4": 0}},
            }
        },
    }

    route = load(overrides).route("home/wan-3")

    assert (route.fps, route.content, route.slots) == (24, "adult", 1)
    assert route.prices_usd == {("480p", 4): Decimal(0)}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"routes": {SPICY: {"price": 1}}}, "no fact 'price'; did you mean prices_usd"),
        ({"routes": {SPICY: {"content": "general"}}}, "no fact 'content'"),
        ({"routes": {SPICY: {"sides_of": 8}}}, "no fact 'sides_of'"),
        ({"routes": {SPICY: {"name": "x/y"}}}, "no fact 'name'"),
        ({"routes": {SPICY: {"sampling": {"step": 4}}}}, "no fact 'sampling.step'"),
        ({"routes": {SPICY: {"slots": True}}}, "slots is True"),
        ({"routes": {SPICY: {"slots": 0}}}, "slots is 0"),
        ({"routes": {SPICY: {"queues": "no"}}}, "queues is 'no'"),
        ({"routes": {SPICY: 3}}, "is 3, not a table"),
        ({"routes": {"x/wan-9": {"endpoints": {}}}}, "prices_usd is missing"),
        ({"routes": {"wan": {"endpoints": {}, "prices_usd": {}}}}, "provider/model"),
        (
            {"routes": {"x/wan-9": {"endpoints": {}, "prices_usd": {}}}},
            "model 'wan-9' does not exist; did you mean",
        ),
        (
            {
                "routes": {
                    "x/wan-2.2": {"endpoints": {}, "prices_usd": {"480p": {"5": 1}}}
                }
            },
            "no endpoint for 480p",
        ),
        (priced(**{"480p": {"5": "x"}}), "prices_usd.480p.5 is 'x'"),
        (priced(**{"480p": {"5": float("nan")}}), "prices_usd.480p.5 is nan"),
        (priced(**{"480p": {"5": "-1"}}), "prices_usd.480p.5 is '-1'"),
        (priced(**{"1080p": {"5": "1"}}), "1080p"),
        ({"models": {"wan-2.2": {"content": "odd"}}}, "content is 'odd'"),
        ({"models": {"wan-2.2": {"tier": "best"}}}, "tier is 'best'"),
        ({"models": {"premium": {}}}, "cannot be called 'premium': rows name a tier"),
        ({"models": {"a,b": {}}}, "cannot be called 'a,b'"),
        (
            {"routes": {SPICY: {"kind": "off_peak"}}},
            "hours_utc goes with kind off_peak",
        ),
        (hours("22:00-06:00", kind="batch"), "hours_utc goes with kind off_peak"),
        (hours("22-6"), "hours_utc is '22-6': Value error, must be HH:MM-HH:MM"),
        (hours(22), "hours_utc is 22: Input should be a valid string"),
        (hours("24:00-06:00"), "must be HH:MM-HH:MM"),
        (hours("22:60-06:00"), "must be HH:MM-HH:MM"),
        # TOML reads [models.wan-2.2] without quotes as nested tables.
        ({"models": {"wan-2": {"2": {"fps": 16}}}}, "a name with a dot needs quotes"),
    ],
)
def test_a_fact_that_is_wrong_is_named_with_its_file_and_table(overrides, message):
    with pytest.raises(CatalogueError) as caught:
        load(overrides, place="mine.toml")

    assert str(caught.value).startswith("mine.toml: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("asks", "complaint"),
    [
        ({"model": "wan-2.2"}, ("model", f"{SPICY} makes wan-2.2-spicy")),
        ({"duration_s": 7}, ("duration_s", f"{SPICY} makes 5 or 8 s at 480p")),
        ({"model": "draft,wan-2.2"}, ("model", f"{SPICY} makes wan-2.2-spicy")),
        ({"content": "general"}, ("content", f"{SPICY} is for adult content")),
        ({"aspect_ratio": "1:1"}, ("aspect_ratio", f"{SPICY} makes auto")),
        ({"negative_prompt": "text"}, ("negative_prompt", f"{SPICY} takes none")),
    ],
)
def test_a_route_says_which_column_it_cannot_serve_and_why(asks, complaint):
    job = Job(image="i", prompt="p", **asks)

    assert load().route(SPICY).complaint(job) == complaint


def test_a_route_that_makes_no_720p_says_so():
    overrides = {
        "routes": {
            "home/wan-2.2": {
                "endpoints": {"480p": "w"},
                "prices_usd": {"480p": {"5": 1}},
            }
        }
    }
    job = Job(image="i", prompt="p", resolution="720p")

    complaint = load(overrides).route("home/wan-2.2").complaint(job)

    assert complaint == ("resolution", "home/wan-2.2 makes 480p")


@pytest.mark.parametrize(
    ("model", "rank"),
    [
        ("", 0),
        ("wan-2.2", 0),
        ("standard", 0),
        ("premium,wan-2.2", 1),
        ("wan-2.2,standard", 0),
        ("kling-2.5-turbo,gen4-turbo,standard", 2),
        ("wan-2.1", None),
        ("premium,draft", None),
    ],
)
def test_route_ranks_by_first_mention_of_its_model_or_tier(model, rank):
    """A route's rank is the first place where the row names its model or its tier."""
    job = Job(image="i", prompt="p", model=model)

    assert load().route("wavespeed/wan-2.2").rank(job) == rank


@pytest.mark.parametrize("content", ["", "general"])
def test_model_serves_its_content_and_rows_without_content(content):
    """A model serves rows of the content it is made for, and rows that state none."""
    job = Job(image="i", prompt="p", content=content)

    assert load().route("wavespeed/wan-2.2").complaint(job) is None


def test_nothing_adult_is_made_by_a_model_that_is_not_for_it():
    job = Job(image="i", prompt="p", content="adult")
    serving = {name for name, r in load().routes.items() if r.complaint(job) is None}

    assert serving == {
        "wavespeed/wan-2.2-spicy",
        "atlas/wan-2.2-spicy",
        "302ai/wan-2.2-spicy",
    }


@pytest.mark.parametrize(
    ("size", "ratio"),
    [
        ((1920, 1080), "16:9"),
        ((1080, 1920), "9:16"),
        ((1000, 1000), "1:1"),
        ((1100, 1000), "1:1"),
        ((1500, 1000), "16:9"),
        ((5, 4000), "9:16"),
    ],
)
def test_auto_is_the_named_ratio_nearest_to_the_still(size, ratio):
    """On a route that needs a named ratio, `auto` is the one nearest to the still's."""
    runway = load().route("runway/gen4-turbo")
    job = Job(image="i", prompt="p", resolution="720p")

    assert runway.complaint(job) is None
    assert runway.aspect_ratio_for(job, *size) == ratio


def test_named_ratio_is_requested_for_any_still():
    """A ratio that the row names is requested, whatever the still's shape."""
    job = Job(image="i", prompt="p", resolution="720p", aspect_ratio="9:16")

    assert load().route("runway/gen4-turbo").aspect_ratio_for(job, 1920, 1080) == "9:16"


def test_a_route_that_follows_the_still_is_left_to_it():
    job = Job(image="i", prompt="p")

    assert load().route("fal/wan-2.2").aspect_ratio_for(job, 1920, 1080) == "auto"


def test_unsupported_ratio_is_refused_but_auto_is_not():
    """A route refuses a ratio that it cannot make, but not `auto`."""
    route = load().route("runway/gen3a-turbo")
    asks = {"image": "i", "prompt": "p", "resolution": "720p"}

    square = route.complaint(Job(**asks, aspect_ratio="1:1"))

    assert square == ("aspect_ratio", "runway/gen3a-turbo makes 16:9 or 9:16")
    assert route.complaint(Job(**asks, aspect_ratio="auto")) is None


def test_off_peak_hours_may_cross_midnight():
    """Off-peak hours are read as minutes after midnight, and may cross it."""
    route = load(hours("22:30-06:05")).route(SPICY)

    assert (route.kind, route.hours_utc) == ("off_peak", (1350, 365))
