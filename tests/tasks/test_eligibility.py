"""Which lanes may make a job, and which of them should."""

from dataclasses import dataclass, replace
from decimal import Decimal

import pytest

from manifests.catalogue import Route, load
from manifests.jobs import Job, Order
from tasks.dispatch import candidates, standing_for
from tasks.dispatch.eligibility import able, elsewhere, foremost

CATALOGUE = load()


@dataclass(frozen=True)
class Planned:
    name: str
    route: Route


def lane(name):
    return Planned(name, CATALOGUE.route(name))


LANES = [
    lane(name)
    for name in (
        "fal/wan-2.2",
        "wavespeed/wan-2.2",
        "wavespeed/wan-2.2-spicy",
        "302ai/wan-2.2-spicy",
        "atlas/wan-2.2-spicy",
        "wavespeed/wan-2.1",
        "kling/kling-2.5-turbo",
        "runway/gen4-turbo",
    )
]


def order(max_usd=None, **fields):
    return Order(job=Job(image="i", prompt="p", **fields), still="i", max_usd=max_usd)


def names(lanes):
    return [lane.name for lane in lanes]


def test_the_cheapest_lane_that_can_make_a_job_comes_first():
    got = able(order(model="wan-2.2-spicy"), LANES)

    assert names(got) == [
        "302ai/wan-2.2-spicy",
        "wavespeed/wan-2.2-spicy",
        "atlas/wan-2.2-spicy",
    ]


def test_row_marked_not_adult_is_not_sent_to_adult_models():
    """A row that excludes adult content is never sent to an adult model."""
    got = able(order(), LANES)

    assert {each.route.content for each in got} == {"general"}


def test_adult_models_take_every_row_if_only_they_are_in_use():
    """If only adult models are in use, they take every row."""
    spicy = [each for each in LANES if each.route.content == "adult"]

    assert names(able(order(), spicy))[0] == "302ai/wan-2.2-spicy"


@pytest.mark.parametrize("content", ["general", "adult"])
def test_row_with_a_content_class_goes_only_to_such_lanes(content):
    got = able(order(content=content), LANES)

    assert {each.route.content for each in got} == {content}


def test_row_that_names_an_adult_model_gets_it():
    """A row that names an adult model gets it without a further mark."""
    got = candidates(order(model="wan-2.2-spicy"), LANES)

    assert {each.route.model for each in got} == {"wan-2.2-spicy"}


def test_first_available_model_of_several_makes_the_clip():
    """If a row names several models, the first one available makes the clip."""
    wish = order(model="kling-2.5-turbo,wan-2.2", resolution="720p")

    got = able(wish, LANES)

    assert names(got) == ["kling/kling-2.5-turbo", "wavespeed/wan-2.2", "fal/wan-2.2"]
    assert names(foremost(wish, got)) == ["kling/kling-2.5-turbo"]
    assert names(foremost(wish, got[1:])) == ["wavespeed/wan-2.2", "fal/wan-2.2"]


def test_a_tier_stands_for_all_its_models():
    got = able(order(model="premium", resolution="720p"), LANES)

    assert {each.route.model for each in got} == {"kling-2.5-turbo", "gen4-turbo"}


def test_price_limit_of_a_row_excludes_dear_lanes():
    got = able(order(model="wan-2.2-spicy", max_usd=Decimal("0.15")), LANES)

    assert {each.route.supplier for each in got} == {"wavespeed"}


def test_after_a_failure_another_supplier_is_preferred():
    """After a failure another supplier is preferred; a reseller is not one."""
    lanes = able(order(model="wan-2.2-spicy"), LANES)
    failed = CATALOGUE.route("302ai/wan-2.2-spicy")

    assert names(elsewhere(lanes, failed)) == ["atlas/wan-2.2-spicy"]


def test_after_a_failure_the_same_supplier_is_better_than_none():
    lanes = [lane("wavespeed/wan-2.2")]

    assert elsewhere(lanes, CATALOGUE.route("wavespeed/wan-2.2-spicy")) == lanes
    assert elsewhere(lanes, None) == lanes


def test_after_a_failure_another_own_gpu_goes_first():
    """All GPUs of one engine are one supplier: after a failure it is the lane that counts."""
    route = CATALOGUE.route("sglang/wan-2.2")
    first, second = Planned("gpu-1", route), Planned("gpu-2", route)
    lanes = [first, second]

    assert elsewhere(lanes, route, {"gpu-1"}) == [second]
    assert elsewhere(lanes, None, {"gpu-1"}) == [second]
    assert elsewhere(lanes, route, {"gpu-1", "gpu-2"}) == lanes


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"model": "premium", "resolution": "720p", "aspect_ratio": "9:16"},
        {"content": "adult", "duration_s": 8, "max_usd": Decimal("0.3")},
        {"negative_prompt": "blur", "resolution": "720p"},
    ],
)
def test_kind_is_served_by_the_lanes_that_serve_its_orders(fields):
    """The lanes able to serve a kind are those able to serve its orders."""
    wanted = order(**fields)

    alike = standing_for(wanted.kind)

    assert able(alike, LANES) == able(wanted, LANES)
    assert alike.kind == wanted.kind


def test_route_that_requires_a_shape_serves_rows_without_one():
    """A route that requires a shape also serves rows that leave the shape open."""
    got = able(order(model="gen4-turbo", resolution="720p"), LANES)

    assert names(got) == ["runway/gen4-turbo"]


def test_users_own_route_of_a_known_model_is_a_normal_lane():
    """A route that the user defines for a known model works like any other lane."""
    low = {
        "fal/wan-2.2-low": {
            "model": "wan-2.2",
            "kind": "batch",
            "endpoints": {"480p": "fal-ai/wan/v2.2-a14b/image-to-video"},
            "prices_usd": {"480p": {5: "0.10"}},
        }
    }
    route = load({"routes": low}).route("fal/wan-2.2-low")

    got = able(order(model="wan-2.2"), [*LANES, Planned("low", route)])

    assert names(got)[0] == "low"
    assert replace(route, kind="live").model == "wan-2.2"
