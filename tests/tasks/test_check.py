"""`nightreel check` hides no complaint behind another, and counts like ones together."""

import asyncio
import ssl
import subprocess

import pytest
from PIL import Image

from flows.commands.check import checked
from flows.config import settings
from manifests.reasons import unnamed
from storage import sources
from tasks.batch.request import refusal

pytestmark = pytest.mark.anyio

AWAY = "http://127.0.0.1:1/away.jpg"


@pytest.fixture
def world(worlds):
    return worlds(emulator=None, url="http://none", routes=[])


@pytest.fixture
def check(world):
    """Checks a manifest of these rows; WebP stills are refused."""
    config = world.folder / "nightreel.toml"
    config.write_text(
        "[manifest]\nconvert_stills = false\n"
        '[lanes.spicy]\nroute = "wavespeed/wan-2.2-spicy"\nkey = "env:NONE"\n'
    )

    async def of(rows):
        found = settings.load(config)
        return await checked(found, world.manifest(rows), trust=True)

    return of


def webp(world, name):
    path = world.folder / name
    Image.new("RGB", (640, 360)).save(path)
    return name


async def test_dead_link_hides_no_other_complaint(check):
    """Every bad row is listed, and apart from them the still that is out of reach."""
    found = await check(
        [
            {"image": AWAY, "prompt": "a"},
            {"image": "none.jpg", "prompt": "b"},
            {"image": "https://no-such-host.invalid/c.jpg", "prompt": "c"},
            {"prompt": " "},
            {"prompt": "good"},
        ]
    )

    told = found.plain()
    assert sorted(one["row"] for one in told["complaints"]) == [1, 2, 3]
    assert [one["row"] for one in told["out_of_reach"]] == [0]
    assert "1 stills out of reach" in found.looked.unread
    assert AWAY in found.looked.unread
    assert AWAY not in refusal(found.plan)


async def test_like_complaints_are_one_line_with_their_rows(check, world):
    """Forty stills in one refused format are one line, whatever their names."""
    rows = [
        {"image": webp(world, f"{n}.webp"), "prompt": f"pan {n}"} for n in range(40)
    ]

    found = await check([*rows, {"prompt": "good"}])

    head, line = refusal(found.plan).splitlines()
    ((reason, count, first),) = found.plan.faults_alike(3)
    assert head.endswith("40 of 41 rows are bad")
    assert line.strip().startswith("40 rows: image WebP, and [manifest]")
    assert line.endswith("rows 0-39")
    assert (count, first) == (40, [0, 1, 2])
    assert ".webp" not in reason


@pytest.mark.parametrize(
    ("reason", "bare"),
    [
        ("a.webp: WEBP", "WEBP"),
        ("my still.png, turned upright: 9 bytes", "turned upright: 9 bytes"),
        ("https://a.example/1.jpg: HTTP 404", "HTTP 404"),
        ("its still: a.png: no such file", "its still: no such file"),
        ("wavespeed: HTTP 429: slow", "wavespeed: HTTP 429: slow"),
    ],
)
def test_name_of_a_still_is_no_part_of_a_reason(reason, bare):
    assert unnamed(reason) == bare


@pytest.mark.parametrize(
    "uri", ["https://no-such-host.invalid/a.jpg", "http:///a.jpg", "https://[bad/a.jpg"]
)
async def test_link_that_leads_nowhere_is_a_complaint(uri):
    """A name that does not exist and what is no URL are not waited for."""
    with pytest.raises(sources.OpeningError) as caught:
        await asyncio.to_thread(sources.read, uri, 100)

    assert not caught.value.passing


async def test_certificate_that_does_not_verify_is_a_complaint(tmp_path):
    """A host whose certificate does not verify is not waited for."""
    pem = tmp_path / "own.pem"
    what = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    command = ["openssl", *what.split(), "-keyout", str(pem), "-out", f"{pem}.crt"]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{pem}.crt", pem)
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]

    async with server:
        with pytest.raises(sources.OpeningError, match="certificate") as caught:
            await asyncio.to_thread(sources.read, f"https://127.0.0.1:{port}/", 100)

    assert not caught.value.passing
