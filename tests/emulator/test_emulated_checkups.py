"""Reports of a provider about an account, asked over sockets by the adapters."""

from datetime import datetime
from decimal import Decimal

import httpx
import pytest

from manifests.catalogue import loader as catalogue
from manifests.jobs import Job
from manifests.lifecycle import Ticket
from tasks.emulator import Emulator, Fault, running
from tasks.providers import PROVIDERS
from tasks.providers.errors import InDoubtError, MisconfiguredError
from tasks.providers.http import Endpoint, ask, connected, submit
from tasks.providers.protocol import Absent, Doubt

pytestmark = pytest.mark.anyio

KEY = "a-key"
IMAGE = "data:image/jpeg;base64,/9j/"
PRICED = ["wavespeed/wan-2.2-spicy", "wavespeed/wan-2.1", "atlas/wan-2.2-spicy"]
RESOLD = ["302ai/wan-2.2-spicy", "302ai/unified"]


@pytest.fixture
def emulator():
    return Emulator(
        latency_s=0.05,
        clip=b"a clip",
        keys={KEY},
        credit_usd=Decimal("12.50"),
        faults={
            "unheard": [Fault.LOSE_ANSWER],
            "unreached": [Fault.GATEWAY_BEFORE],
        },
    )


@pytest.fixture
def endpoint(emulator):
    """Makes the endpoint of a route's provider at the emulator."""
    with running(emulator) as base:

        def to(name, key=KEY):
            route = catalogue.shipped().route(name)
            provider = PROVIDERS[route.provider](route, key)
            return Endpoint(provider, httpx.URL(f"{base}/{route.provider}"))

        yield to


def wanted(endpoint, prompt="dolly"):
    resolution, seconds = next(iter(endpoint.provider.route.prices_usd))
    return Job(image="i", prompt=prompt, resolution=resolution, duration_s=seconds)


@pytest.mark.parametrize("name", PRICED)
async def test_a_check_up_has_credit_model_and_the_catalogues_prices(endpoint, name):
    lane = endpoint(name)

    async with connected() as clients:
        report = await ask(clients, lane, lane.provider.check())

    assert report.prices_usd == lane.provider.route.prices_usd
    assert (report.credit_usd, report.has_model) == (Decimal("12.5"), True)


@pytest.mark.parametrize("name", RESOLD)
async def test_a_check_up_at_302ai_has_the_credit(endpoint, name):
    lane = endpoint(name)

    async with connected() as clients:
        report = await ask(clients, lane, lane.provider.check())

    assert report.credit_usd == Decimal("12.5")


async def test_a_check_up_at_fal_has_the_prices_that_are_certain(endpoint):
    wan, kling = endpoint("fal/wan-2.2"), endpoint("fal/kling-2.5-turbo")

    async with connected() as clients:
        open_ = await ask(clients, wan, wan.provider.check())
        report = await ask(clients, kling, kling.provider.check())

    assert (open_.prices_usd, open_.has_model) == ({}, True)
    assert report.prices_usd == kling.provider.route.prices_usd


@pytest.mark.parametrize("name", [*PRICED, *RESOLD, "fal/wan-2.2"])
async def test_a_check_up_with_a_bad_key_closes_the_lane(endpoint, name):
    lane = endpoint(name, key="another")

    async with connected() as clients:
        with pytest.raises(MisconfiguredError, match="check the key"):
            await ask(clients, lane, lane.provider.check())


async def test_spending_is_deducted_from_the_credit(endpoint):
    lane = endpoint("wavespeed/wan-2.2-spicy")

    async with connected() as clients:
        bought = lane.provider.submit(wanted(lane), IMAGE, 1, "ref-1")
        await submit(clients, lane, bought)
        report = await ask(clients, lane, lane.provider.check())

    assert report.credit_usd == Decimal("12.35")


def test_a_price_for_less_than_a_whole_request_is_the_lowest(emulator):
    url = "/wavespeed/api/v3/model/price"
    asked = {"model_id": "wavespeed-ai/wan-2.2-spicy/image-to-video"}
    asked |= {"inputs": {"resolution": "720p"}}
    headers = {"Authorization": f"Bearer {KEY}"}

    with running(emulator) as base:
        reply = httpx.post(base + url, json=asked, headers=headers).json()

    assert reply["data"]["discounted_price"] == 0.15


async def test_record_at_302ai_has_the_cost_of_a_clip(endpoint):
    lane = endpoint("302ai/unified")

    async with connected() as clients:
        exchange = lane.provider.submit(wanted(lane), IMAGE, 1, "ref-1")
        ticket = await submit(clients, lane, exchange)
        charged = await ask(clients, lane, lane.provider.charge(ticket))

    assert charged == Decimal("0.5")


@pytest.mark.parametrize(
    ("prompt", "found"), [("unreached", Absent), ("unheard", type(None))]
)
async def test_wavespeed_lists_the_jobs_it_accepted(endpoint, emulator, prompt, found):
    lane = endpoint("wavespeed/wan-2.2-spicy")
    job = wanted(lane, prompt)

    async with connected() as clients:
        known = await submit(
            clients, lane, lane.provider.submit(wanted(lane), IMAGE, 1, "ref-1")
        )
        lost = lane.provider.submit(job, IMAGE, 1, "ref-2")
        with pytest.raises(InDoubtError):
            await submit(clients, lane, lost)
        doubt = Doubt(
            mark=lane.provider.mark(job, IMAGE, 1, "ref-2"),
            submitted_at=_moment(emulator.bill[0].accepted_at),
            known=frozenset({known.id}),
            near=frozenset({known.id}),
        )
        answer = await ask(clients, lane, lane.provider.find(doubt))

    assert isinstance(known, Ticket)
    assert type(answer) is found


def _moment(date):
    return datetime.fromisoformat(date).timestamp()
