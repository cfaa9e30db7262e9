"""The Prefect UI shows a batch to a person in a real browser."""

import os
import re
import shutil
import subprocess

import httpx
import pytest
from playwright.sync_api import expect, sync_playwright

from tasks.emulator import Emulator
from tests.flows.conftest import BIN, answers, environment, free_port, until

FITS = """() => {
    const all = [...document.querySelectorAll("img[title^='clips/']")];
    const boxes = all.map(img => img.getBoundingClientRect());
    return all.length === 3 && new Set(boxes.map(box => box.y)).size === 1
        && boxes.every(box => box.width >= 90 && box.right < 980);
}"""
"""In one row, left of the page's right column, which begins at 990 of 1400 pixels."""

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium: `make chromium`"),
    # Playwright's event loop leaves a pipe to its driver open at the end.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

WHERE = "https://cdn.example/reel"
READ = """() => {
    const all = [...document.querySelectorAll("img[src^='data:image/webp']")];
    return all.length === 3 && all.every(img => img.naturalWidth >= 90);
}"""

QUIET = ("--disable-background-networking", "--disable-component-update")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A Prefect server with its UI."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = environment(
        PREFECT_HOME=str(tmp_path_factory.mktemp("prefect")),
        PREFECT_SERVER_UI_API_URL=f"{url}/api",
        PREFECT_SERVER_ANALYTICS_ENABLED="false",
        PREFECT_LOGGING_LEVEL="CRITICAL",
        DO_NOT_TRACK="1",
    )
    words = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(
        [BIN / "prefect", *words],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: answers(f"{url}/api/health"), within_s=100)
    yield url
    process.terminate()
    process.wait(30)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as driver:
        # Root in a container has no sandbox.
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        one = driver.chromium.launch(executable_path=BROWSER, args=[*args, *QUIET])
        yield one
        one.close()


@pytest.fixture(scope="module")
def sheets(server, make_bench):
    """The artifacts of two runs: of a root that a browser reaches, and of another."""
    ids = []
    with make_bench(Emulator(latency_s=0.2)) as bench:
        bench.manifest(3)
        for where in (f"report.public_url = '{WHERE}'", ""):
            bench.config(more=where)
            root = f"root {len(ids)}"
            ran = bench.nightreel(
                *("run", "m.parquet", "--root", root, "--json"),
                PREFECT_API_URL=f"{server}/api",
            )
            assert ran.code == 0, ran.err
            response = httpx.post(
                f"{server}/api/artifacts/latest/filter", json={}, timeout=30
            )
            artifacts = response.raise_for_status().json()
            ids.append({each["key"]: each["latest_id"] for each in artifacts})
    return ids


@pytest.fixture(params=["/v1", "/v2"])
def opened(request, server, browser, sheets):
    """Opens an artifact of a run in one of Prefect's two UIs."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    under = "/v2" if request.param == "/v2" else ""

    def at(which, key="nightreel-contact-sheet"):
        page.goto(f"{server}{under}/artifacts/artifact/{sheets[which][key]}")
        return page

    yield at
    page.close()


def test_contact_sheet_shows_pictures_that_link_to_clips(opened):
    """The contact sheet shows pictures that link to their clips."""
    page = opened(0)

    # A picture that the browser could not read has no width.
    page.wait_for_function(READ)
    links = page.locator("a:has(img[src^='data:'])")
    expect(links).to_have_count(3)
    links = links.evaluate_all("every => every.map(a => a.href)")
    assert all(link.startswith(f"{WHERE}/clips/") for link in links)
    assert all(link.endswith(".mp4") for link in links)
    assert "spicy, 0.15 USD" in page.locator("body").inner_text()


def test_a_sheet_without_links_is_no_wider_than_its_page(opened):
    page = opened(1)

    page.wait_for_function(FITS)


def test_night_page_shows_money_lanes_and_pictures(opened):
    """The night's page shows its money, its lanes and some clips, none of it cut off."""
    page = opened(1, "nightreel-night")

    page.wait_for_function(FITS)
    for cells in (
        ("planned", "3", "0.45", "0.150", "until"),
        ("bought", "3", "0.45", "0.150", "0:0"),
        ("spicy", "open", "3", "\N{EN DASH}", "0.45", "0.150"),
        ("pending", "3", "3", "0", "0", "0", "0"),
    ):
        row = re.compile(r"\s*".join(map(re.escape, cells)))
        expect(page.locator("body")).to_contain_text(row)
    expect(page.get_by_text("Done", exact=True)).to_be_visible()
