"""What a person sees of a batch in the Prefect UI, in a real browser."""

import os
import shutil
import subprocess

import pytest

from tasks.emulator import Emulator
from tests.flows.conftest import BIN, answers, environment, free_port, until

playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright: pip install playwright"
)

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine"),
    # Playwright's own loop leaves a pipe to its driver open at the end.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

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


@pytest.fixture
def page():
    with playwright.sync_playwright() as driver:
        # A container's root has no sandbox.
        args = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=BROWSER, args=[*args, *QUIET])
        yield browser.new_page()
        browser.close()


def test_the_contact_sheet_shows_pictures_that_lead_to_their_clips(
    server, page, make_bench
):
    with make_bench(Emulator(latency_s=0.2)) as bench:
        bench.manifest(3)
        where = "https://cdn.example/reel"
        bench.config(more=f"report.public_url = '{where}'")
        ran = bench.nightreel(
            *("run", "m.parquet", "--root", "root", "--json"),
            PREFECT_API_URL=f"{server}/api",
        )
        assert ran.code == 0, ran.err

    page.goto(f"{server}/v2/artifacts/key/contact-sheet")
    page.locator("a[href*='/artifacts/artifact/']").first.click()
    posters = page.locator("img[src^='data:image/webp']")
    posters.nth(2).wait_for()

    # A picture that the browser could not read has no width.
    assert posters.count() == 3
    widths = posters.evaluate_all("every => every.map(img => img.naturalWidth)")
    assert min(widths) >= 90
    links = page.locator("a:has(img[src^='data:'])").evaluate_all(
        "every => every.map(a => a.href)"
    )
    assert len(links) == 3
    assert all(link.startswith(f"{where}/clips/") for link in links)
    assert all(link.endswith(".mp4") for link in links)
