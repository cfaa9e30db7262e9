"""The catalogue: what is shipped can be trusted, and people's own figures win."""

from decimal import Decimal

import pytest

from manifests.catalogue import CatalogueError, load
from manifests.jobs import Job

SPICY = "wavespeed/wan-2.2-spicy"


def priced(**prices):
    return {"routes": {SPICY: {"prices_usd": prices}}}


def test_six_routes_are_shipped():
    routes = load().routes

    assert set(routes) == {
        "wavespeed/wan-2.2-spicy",
        "wavespeed/wan-2.2",
        "wavespeed/wan-2.1",
        "atlas/wan-2.2-spicy",
        "fal/wan-2.2",
        "fal/wan-2.1",
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


@pytest.mark.parametrize("fact", ["endpoints", "prices_usd", "limits"])
def test_every_shipped_route_says_where_its_facts_are_from_and_when(fact):
    for route in load().routes.values():
        told = [s for s in route.source.splitlines() if s.startswith(f"{fact}:")]

        assert len(told) == 1
        assert "2026-" in told[0]


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
    mine = {
        "models": {"wan-3": {"content": "adult", "fps": 24}},
        "routes": {
            "home/wan-3": {
                "endpoints": {"480p": "wan3"},
                "prices_usd": {"480p": {"4": 0}},
            }
        },
    }

    route = load(mine).route("home/wan-3")

    assert (route.fps, route.content, route.slots) == (24, "adult", 1)
    assert route.prices_usd == {("480p", 4): Decimal(0)}


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        ({"routes": {SPICY: {"price": 1}}}, "no fact 'price'; did you mean prices_usd"),
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
        # What TOML makes of [models.wan-2.2] without quotes.
        ({"models": {"wan-2": {"2": {"fps": 16}}}}, "a name with a dot needs quotes"),
    ],
)
def test_a_fact_that_is_wrong_is_named_with_its_file_and_table(mine, said):
    with pytest.raises(CatalogueError) as caught:
        load(mine, place="mine.toml")

    assert str(caught.value).startswith("mine.toml: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("asks", "complaint"),
    [
        ({"model": "wan-2.2"}, ("model", f"{SPICY} makes wan-2.2-spicy")),
        ({"duration_s": 7}, ("duration_s", f"{SPICY} makes 5 or 8 s at 480p")),
        ({"aspect_ratio": "1:1"}, ("aspect_ratio", f"{SPICY} makes auto")),
        ({"negative_prompt": "text"}, ("negative_prompt", f"{SPICY} takes none")),
    ],
)
def test_a_route_says_which_column_it_cannot_serve_and_why(asks, complaint):
    job = Job(image="i", prompt="p", **asks)

    assert load().route(SPICY).complaint(job) == complaint


def test_a_route_that_makes_no_720p_says_so():
    mine = {
        "routes": {
            "home/wan-2.2": {
                "endpoints": {"480p": "w"},
                "prices_usd": {"480p": {"5": 1}},
            }
        }
    }
    job = Job(image="i", prompt="p", resolution="720p")

    complaint = load(mine).route("home/wan-2.2").complaint(job)

    assert complaint == ("resolution", "home/wan-2.2 makes 480p")
