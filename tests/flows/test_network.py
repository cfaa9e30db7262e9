"""Variables of the environment that no client can use are named with a cure."""

import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from flows.commands import prefect_server
from flows.config import SettingsError, ready_network, seconds
from flows.watch import watch


@pytest.fixture(autouse=True)
def _bare(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL_CERT"):
            monkeypatch.delenv(name)
    # Restored at the end, although the code under test sets them.
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "")


@pytest.mark.parametrize("name", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY"])
@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("socks5://me:pa55@h:1080", "names a proxy of the kind socks5://"),
        ("socks5h://h:1", "names a proxy of the kind socks5h://"),
        ("http://me:pa55@h:port", "is no URL"),
        ("http://", "names no host"),
    ],
)
def test_unusable_proxy_is_named_with_its_variable(monkeypatch, name, value, problem):
    """The message names the variable and the cure, and no password."""
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsError) as refused:
        ready_network()

    message = str(refused.value)
    assert message.startswith(f"{name} {problem}")
    assert message.endswith("unset it")
    assert "pa55" not in message


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_missing_or_empty_certificate_file_is_named(monkeypatch, tmp_path, content):
    """SSL_CERT_FILE without certificates is a message, not a traceback."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))

    with pytest.raises(SettingsError, match=f"SSL_CERT_FILE = {file}: .*unset it"):
        ready_network()


@pytest.mark.parametrize(
    "direct", ["10.0.0.0/8", "fd00::/8,10.0.0.0/8", "[::1], .corp,10.1.0.0/16"]
)
def test_loopback_and_networks_of_no_proxy_are_direct(monkeypatch, direct):
    """httpx reads NO_PROXY without an error, and a lane in one of its networks is direct."""
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", direct)
    monkeypatch.delenv("no_proxy")

    ready_network(["10.1.2.3", "11.0.0.1", "nas.example"])

    client = httpx.Client()
    routes = {
        host: client._transport_for_url(httpx.URL(f"http://{host}/"))  # noqa: SLF001
        is not client._transport  # noqa: SLF001
        for host in ("127.0.0.1", "localhost", "[::1]", "10.1.2.3", "11.0.0.1")
    }
    assert [host for host, proxied in routes.items() if proxied] == ["11.0.0.1"]
    client.close()


class Page(BaseHTTPRequestHandler):
    """A server whose answers are those that its path names."""

    def do_GET(self) -> None:
        _, kind, *rest = self.path.split("/")
        health = rest[-1] == "health"
        kinds = {"login": 302, "page": 200, "api": 200, "away": 503}
        status = kinds.get(kind, 404)
        if kind == "locked":
            status = 200 if health else 401
        self.send_response(status)
        html = kind in {"page", "login"}
        self.send_header("Content-Type", "text/html" if html else "application/json")
        self.send_header("Location", "/sign-in")
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def site():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("api", None),
        ("locked/api", "HTTP 401, it refuses the login: set PREFECT_API_KEY"),
        ("page", "its API is at /api: set PREFECT_API_URL to http"),
        ("none", "its API is at /api"),
        ("login/api", "a web page is there, perhaps to sign in"),
        ("page/api", "a web page is there"),
        ("away/api", "HTTP 503"),
    ],
)
def test_address_that_is_no_prefect_api_is_explained(site, path, why):
    """A missing /api, a refused login and a sign-in page have each a message."""
    told = prefect_server._away(f"{site}/{path}", {})  # noqa: SLF001

    assert told == why if why is None else str(told).startswith(why)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_time_that_is_no_number_of_seconds_is_refused(value):
    """NaN passes a minimum of 0, and would wait for ever."""
    with pytest.raises(SettingsError, match=f"settle_s = {value}: must be seconds"):
        seconds("settle_s", value)


@pytest.mark.anyio
async def test_watch_flow_refuses_a_time_that_is_no_number():
    """The flow checks its parameter before it opens the inbox."""
    with pytest.raises(SettingsError, match="settle_s = nan"):
        await watch.fn(inbox="memory:///in", root="memory:///r", settle_s=float("nan"))
