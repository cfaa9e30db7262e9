"""A manifest that may be somebody else's names only the internet, stores and folders."""

import gzip
import http.server
import os
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage import sources
from storage.source_policy import (
    CHAIN,
    OTHER,
    OUTSIDE,
    PRIVATE,
    SYSTEM,
    TRUSTING,
    SourcePolicy,
    policy,
)
from storage.sources import OpeningError


class Site(http.server.BaseHTTPRequestHandler):
    """A server on loopback: a still, and a redirect to wherever the query says."""

    def do_GET(self) -> None:
        path, _, target = self.path.partition("?")
        self.send_response(302 if path == "/go" else 200)
        if path == "/go":
            self.send_header("Location", target)
        if path == "/bomb":
            self.send_header("Content-Encoding", "gzip")
        self.end_headers()
        if path != "/go":
            zeros = gzip.compress(bytes(400_000_000), 9) if path == "/bomb" else b""
            self.wfile.write(zeros or b"still")

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


SAFE = SourcePolicy()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1.2.3",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.1.1",
        "172.16.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[ff02::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "localhost",
        "a.localhost.",
        "user:pw@127.0.0.1",
    ],
)
def test_address_of_this_network_is_a_complaint(host: str):
    """Loopback, private, link-local, unspecified and multicast addresses are refused."""
    assert SAFE.complaint(f"http://{host}/a.jpg") == PRIVATE
    assert TRUSTING.complaint(f"http://{host}/a.jpg") is None


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("https://example.com/a.jpg", None),
        ("https://8.8.8.8/a.jpg", None),
        ("https://[2606:4700::1111]/a.jpg", None),
        ("s3://bucket/a::b.jpg", None),
        ("zip://a.jpg::s3://bucket/z.zip", None),
        ("simplecache::zip://a.jpg::https://example.com/z.zip", None),
        ("simplecache::http://127.0.0.1/a.jpg", PRIVATE),
        ("zip://a.jpg::simplecache::http://169.254.169.254/z.zip", PRIVATE),
        ("zip://a.jpg::/srv/z.zip", OUTSIDE),
        ("simplecache::file:///proc/self/environ", SYSTEM),
        ("file:///etc/shadow", SYSTEM),
        ("file://localhost/etc/shadow", SYSTEM),
        ("/proc/self/environ", SYSTEM),
        ("local:///etc/shadow", SYSTEM),
        ("file:///srv/%2e%2e/etc/shadow", SYSTEM),
        ("file:///opt/else/a.jpg", OUTSIDE),
        ("ftp://10.0.0.1/a.jpg", OTHER),
        ("sftp://host/a.jpg", OTHER),
        ("github://org:repo@main/a.jpg", OTHER),
        ("dask::http://127.0.0.1/a.jpg", CHAIN),
        ("reference://a::http://127.0.0.1/r.json", CHAIN),
    ],
)
def test_uri_is_judged_by_its_text(uri: str, reason: str | None):
    """Chains are judged by their wrappers and by what they wrap."""
    assert SAFE.complaint(uri) == reason


def test_folder_allows_what_is_below_it(tmp_path: Path):
    """A file below an allowed folder is read; neighbours and hidden files are not."""
    inside, beside = tmp_path / "in", tmp_path / "in-2"
    for folder in (inside, beside, inside / ".ssh"):
        folder.mkdir()
        (folder / "a.jpg").write_bytes(b"still")
    here = policy([str(inside)])

    assert sources.read(f"{inside}/a.jpg", 9, here) == b"still"
    for uri, reason in (
        (f"{inside}/../in-2/a.jpg", OUTSIDE),
        ((beside / "a.jpg").as_uri(), OUTSIDE),
        (f"{inside}/.ssh/a.jpg", SYSTEM),
    ):
        with pytest.raises(OpeningError) as refused:
            sources.read(uri, 9, here)
        assert str(refused.value) == f"{uri}: {reason}"
        assert not refused.value.passing


def test_symlink_out_of_an_allowed_folder_is_refused(tmp_path: Path):
    """A file is judged by the place that its links lead to."""
    inside, secret = tmp_path / "in", tmp_path / "secret.jpg"
    inside.mkdir()
    secret.write_bytes(b"secret")
    (inside / "a.jpg").symlink_to(secret)
    (inside / "up").symlink_to(tmp_path)
    (inside / "env.jpg").symlink_to("/proc/self/environ")
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("a.jpg", b"secret")
    (inside / "z.zip").symlink_to(tmp_path / "z.zip")
    here = policy([str(inside)])

    for name in ("a.jpg", "up/secret.jpg", "env.jpg"):
        with pytest.raises(OpeningError, match="if the manifest is your own"):
            sources.read(f"{inside}/{name}", 9000, here)
    with pytest.raises(OpeningError, match="outside the manifest's folder"):
        sources.read(f"zip://a.jpg::{inside}/z.zip", 9, here)


def test_folder_that_is_a_link_itself_is_allowed(tmp_path: Path):
    """An allowed folder may be reached through a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.jpg").write_bytes(b"still")
    (tmp_path / "link").symlink_to("real")

    for at in ("link", "real"):
        assert sources.read(f"{tmp_path}/{at}/a.jpg", 9, policy([f"{tmp_path}/link"]))


def test_own_folder_and_host_of_a_manifest_are_allowed(tmp_path: Path):
    """The owner of the run has named the manifest, so its place is allowed."""
    own = SAFE.beside(f"{tmp_path}/m.parquet")
    zipped = SAFE.beside(f"zip://m.parquet::{tmp_path}/z.zip")
    served = SAFE.beside("http://127.0.0.1:9000/m.parquet")

    assert own.complaint(f"{tmp_path}/a/b.jpg") is None
    assert own.complaint(f"{tmp_path}/../b.jpg") == OUTSIDE
    assert zipped.complaint(f"zip://a.jpg::{tmp_path}/z.zip") is None
    assert served.complaint("http://127.0.0.1:9000/a.jpg") is None
    assert served.complaint("http://127.0.0.2:9000/a.jpg") == PRIVATE
    assert SAFE.beside("s3://b/m.parquet") == SAFE


def test_link_is_checked_by_the_address_it_connects_to(
    port: int, monkeypatch: pytest.MonkeyPatch
):
    """A name of loopback, a redirect there, and a chain to it open no connection."""
    name = f"http://{os.uname().nodename}.example:{port}"
    monkeypatch.setattr("socket.getaddrinfo", _resolved_here)
    named = policy([f"{os.uname().nodename}.example"])
    away = f"{name}/go?http://elsewhere.example:{port}/a.jpg"

    assert sources.read(f"{name}/a.jpg", 9, named) == b"still"
    assert sources.read(away, 9, TRUSTING) == b"still"
    for uri, how in (
        (f"{name}/a.jpg", SAFE),
        (away, named),
        (f"{name}/go?http://127.0.0.1:{port}/a.jpg", named),
        (f"simplecache::{name}/a.jpg", SAFE),
        (f"zip://a.jpg::{name}/z.zip", SAFE),
    ):
        with pytest.raises(OpeningError, match="or its network") as refused:
            sources.read(uri, 9, how)
        assert not refused.value.passing


def _resolved_here(host, port, *args, **kwargs):
    """Resolve every name to loopback, as a hostile DNS does."""
    import socket as real  # noqa: PLC0415 - the patched module's own constants

    return [(real.AF_INET, real.SOCK_STREAM, 6, "", ("127.0.0.1", int(port or 0)))]


def test_proxy_does_not_reach_this_network_for_a_manifest(
    port: int, monkeypatch: pytest.MonkeyPatch
):
    """Through a proxy, the target is checked before the request."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr("socket.getaddrinfo", _resolved_here)

    with pytest.raises(OpeningError, match="or its network"):
        sources.read("http://metadata.example/a.jpg", 9, SAFE)


def test_networks_and_hosts_are_allowed_by_name(port: int):
    """Addresses, networks and hosts can be allowed in the settings."""
    for allow in ("127.0.0.1", "127.0.0.0/8"):
        uri = f"http://127.0.0.1:{port}/a.jpg"
        assert sources.read(uri, 9, policy([allow])) == b"still"
    with pytest.raises(ValueError, match="is no folder"):
        policy(["http://127.0.0.1"])
    with pytest.raises(ValueError, match="is no folder"):
        policy([""])


def test_compressed_still_is_not_inflated(port: int):
    """400 MB of zeros, sent as gzip, are read as the bytes that were sent."""
    content = sources.read(f"http://127.0.0.1:{port}/bomb", 1_000_000, TRUSTING)

    assert content[:2] == b"\x1f\x8b"
