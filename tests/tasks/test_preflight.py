"""The check finds an error of a lane before any money is spent."""

import asyncio
from decimal import Decimal

import httpx
import pytest

from manifests.catalogue import loader as catalogue
from tasks.dispatch import CheckupError, Lane, Limits, checked, refuse_wrong
from tasks.dispatch.preflight import found
from tasks.emulator import Emulator, running
from tasks.providers import PROVIDERS
from tasks.providers.http import Endpoint, connected
from tasks.providers.protocol import AccountReport

pytestmark = pytest.mark.anyio

SPICY = "wavespeed/wan-2.2-spicy"
GONE = "wavespeed-ai/wan-9/image-to-video"
KEY = "access-5160:" + "secret-5160-" * 3


def lane(
    route=SPICY,
    *,
    url="http://127.0.0.1:9",
    name="night",
    key=KEY,
    facts=None,
    **limits,
):
    known = catalogue.load({"routes": {route: facts}} if facts else None).route(route)
    return Lane(
        name=name,
        route=known,
        endpoint=Endpoint(
            PROVIDERS[known.provider](known, key), httpx.URL(f"{url}/{known.provider}")
        ),
        limits=Limits(**{"slots": 3, "submits_per_minute": 5, **limits}),
    )


@pytest.fixture
def emulator():
    return Emulator(keys=[KEY], credit_usd=Decimal(7))


@pytest.fixture
def url(emulator):
    with running(emulator) as url:
        yield url


@pytest.fixture
async def clients():
    async with connected(timeout_s=5) as clients:
        yield clients


# Requests


async def test_lane_that_matches_the_catalogue_has_no_errors(url, clients):
    [finding] = await checked([lane(url=url)], clients)

    assert (finding.key, finding.wrong, finding.notes) == ("good", (), ())
    assert finding.credit_usd == 7
    assert finding.report.has_model
    assert finding.report.prices_usd["720p", 8] == Decimal("0.48")


@pytest.mark.parametrize("provider", sorted(PROVIDERS))
async def test_every_provider_distinguishes_good_and_bad_keys(provider, url, clients):
    routes = catalogue.load().routes.values()
    route = next(r.name for r in routes if r.provider == provider and not r.retired)
    stranger = Emulator(keys=["another"])

    [good] = await checked([lane(route, url=url)], clients)
    with running(stranger) as elsewhere:
        [bad] = await checked([lane(route, url=elsewhere)], clients)

    assert (good.key, good.wrong) == ("good", ())
    assert bad.key == "bad"
    assert [line.startswith("lane night: the key is refused: ") for line in bad.wrong]
    assert "5160" not in str(bad.wrong)


async def test_gpu_that_needs_no_key_is_not_reported_to_accept_one(clients):
    """A GPU that asks for no key is not reported to accept a good one."""
    with running(Emulator()) as url:
        own = lane("nightreel/wan-2.2", url=url, key="")

        [finding] = await checked([own], clients)

    assert (finding.key, finding.wrong) == ("none", ())


async def test_nothing_that_costs_is_sent(emulator, url, clients):
    routes = [route for route in catalogue.load().routes.values() if not route.retired]

    await checked([lane(route.name, url=url) for route in routes], clients)

    assert emulator.bill == []
    assert not any("submit" in kinds for kinds in emulator.stats()["requests"].values())


async def test_price_rise_is_wrong_and_price_fall_is_a_note(url, clients):
    """A price that went up is an error, and one that went down is a note."""
    ours = {"prices_usd": {"480p": {5: "0.10"}, "720p": {8: "0.50"}}}

    [finding] = await checked([lane(url=url, facts=ours)], clients)

    assert finding.wrong == (
        (
            "lane night: wavespeed is dearer than the catalogue says: 480p 5 s 0.15, not "
            '0.10: write 480p = { 5 = "0.15" } under '
            '[routes."wavespeed/wan-2.2-spicy".prices_usd]'
        ),
    )
    assert finding.notes == (
        (
            "lane night: wavespeed is cheaper than the catalogue says: 720p 8 s 0.48, not "
            '0.50: write 720p = { 8 = "0.48" } under '
            '[routes."wavespeed/wan-2.2-spicy".prices_usd]'
        ),
    )


async def test_a_model_that_is_gone_is_wrong(url, clients):
    moved = {"endpoints": {"480p": GONE, "720p": GONE}}

    [finding] = await checked([lane(url=url, facts=moved)], clients)

    assert finding.key == "good"
    assert finding.wrong == (
        f"lane night: wavespeed no longer has what {SPICY} asks for, {GONE}",
    )


async def test_one_provider_out_of_reach_is_unknown_and_hides_no_other(url, clients):
    lanes = [lane(name="lost"), lane(url=url, name="there")]

    lost, there = await checked(lanes, clients)

    assert lost.key == "unknown"
    assert lost.wrong[0].startswith("lane lost: wavespeed could not be asked: ")
    assert (there.key, there.wrong) == ("good", ())


async def test_provider_that_asks_for_an_hours_wait_is_not_awaited(clients):
    """The check does not wait for a provider that says to come back in an hour."""

    async def busy(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 429 \r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(busy, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        night = lane(url=f"http://127.0.0.1:{port}")
        [finding] = await checked([night], clients, longest_s=0.3)

    assert finding.key == "unknown"
    assert finding.wrong == (
        "lane night: wavespeed could not be asked: no answer that counts within 0.3 s",
    )


async def test_a_batch_is_refused_with_all_that_is_wrong(url, clients):
    dear = {"prices_usd": {"480p": {5: "0.01"}}}
    lanes = [lane(name="lost"), lane(url=url, name="dear", facts=dear), lane(url=url)]

    with pytest.raises(CheckupError) as refused:
        await refuse_wrong(lanes, clients)

    first, second = str(refused.value).splitlines()
    assert first.startswith("lane lost: ")
    assert second.startswith("lane dear: ")


async def test_batch_continues_after_a_check_without_errors(url, clients):
    await refuse_wrong([lane(url=url)], clients)


# Findings from the answers


@pytest.mark.parametrize(
    ("credit", "complaint"),
    [
        ("0", "has 0.00 USD of credit left"),
        ("0.149", "has 0.149 USD of credit left"),
        ("-3", "has -3.00 USD of credit left"),
        ("0.15", None),
        ("1e30", None),
    ],
)
def test_credit_that_buys_no_clip_is_wrong(credit, complaint):
    finding = found(lane(), AccountReport(credit_usd=Decimal(credit)))

    if complaint is None:
        assert finding.wrong == ()
    else:
        assert finding.wrong == (
            f"lane night: wavespeed {complaint}, and the cheapest clip of {SPICY} is 0.15",
        )


def test_limits_unlike_the_accounts_are_noted_with_the_remedy():
    """Limits that differ from the account's are noted with the setting to write."""
    report = AccountReport(slots=3, submits_per_minute=60, submits_per_day=50)

    finding = found(lane(slots=100, submits_per_minute=60), report)

    assert finding.wrong == ()
    assert finding.notes == (
        "lane night: slots is 100, the account has 3: write slots = 3 under [lanes.night]",
        (
            "lane night: submits_per_day is not limited, the account has 50: write "
            "submits_per_day = 50 under [lanes.night]"
        ),
    )


def test_facts_that_a_provider_omits_are_no_error():
    finding = found(lane(), AccountReport())

    assert (finding.key, finding.wrong, finding.notes) == ("good", (), ())


def test_price_of_a_clip_that_the_route_lacks_is_ignored():
    """The price of a clip that the route does not offer is ignored."""
    finding = found(lane(), AccountReport(prices_usd={("1080p", 5): Decimal(9)}))

    assert (finding.wrong, finding.notes) == ((), ())
