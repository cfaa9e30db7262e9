"""Every URI is opened, or refused with a plain message."""

import http.server
import io
import secrets
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import fsspec
import obstore
import pytest

from storage import sources
from storage.objects import Objects
from storage.objects.connect import bucket
from storage.sources import OpeningError
from tests.storage.proxies import FaultyProxy
from tests.storage.servers import Cloud, service_account


class Site(http.server.BaseHTTPRequestHandler):
    """A server that serves what the path names, and accepts only a plain GET."""

    def do_GET(self) -> None:
        assert "Range" not in self.headers
        status, body = 200, b"still " * 1000
        match self.path.partition("?")[0]:
            case "/refused.jpg":
                status = 403
            case "/none.jpg":
                status = 404
            case "/cut.jpg":
                body = b"half"
        self.send_response(status)
        self.send_header("Content-Length", str(6000 if status == 200 else 0))
        self.end_headers()
        if status == 200:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


# -- reading


def test_a_file_is_read_by_its_path_or_its_uri(tmp_path: Path):
    still = tmp_path / "my cat #1 100%.jpg"
    still.write_bytes(b"still")

    assert sources.read(str(still), 10) == b"still"
    assert sources.read(still.as_uri(), 10) == b"still"


def test_a_link_is_read_with_one_plain_get(site: str):
    assert sources.read(f"{site}/cat.jpg?X-Amz-Signature=abc", 6000) == b"still " * 1000


@pytest.mark.anyio
async def test_a_store_is_read_without_its_fsspec_package(cloud: Cloud):
    root = cloud.root()
    await Objects.open(root).create("stills/cat.jpg", b"still " * 1_000_000)

    assert sources.read(f"{root}/stills/cat.jpg", 6_000_000)[-6:] == b"still "


ODD_KEYS = ["cat#1.png", "cat?x=1.png", "50%20off.png", "é + ü.png", "a::b.png"]


@pytest.mark.anyio
@pytest.mark.parametrize("key", ODD_KEYS)
async def test_key_is_read_and_signed_to_the_letter(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch, key: str
):
    """All that follows the bucket is the key, also where a URL would end or be decoded."""
    folder = f"{cloud.root()}/in # to?"
    near = unquote(key.partition("#")[0].partition("?")[0])
    for name, content in ((near, b"another"), (key, b"still")):
        await obstore.put_async(bucket(folder), name, content)
    signer = service_account(f"http://127.0.0.1:{cloud.port}", asks=True)
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", signer)

    link = sources.presign(f"{folder}/{key}", 60)

    assert sources.read(f"{folder}/{key}", 10) == b"still"
    if cloud.scheme == "az":
        assert link is None
    else:
        assert sources.read(str(link), 10) == b"still"
    outside = Objects.open(folder.partition("#")[0])
    assert [stored.key async for stored in outside.list()] == []


@pytest.mark.anyio
@pytest.mark.parametrize(
    "link", ["zip://cats/1.jpg::{}", "simplecache::zip://cats/1.jpg::simplecache::{}"]
)
async def test_an_archive_in_a_store_is_read(cloud: Cloud, link: str):
    """A chain reaches a store without its fsspec package."""
    root, zipped = cloud.root(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("cats/1.jpg", b"zipped")
    await Objects.open(root).create("a::b.zip", zipped.getvalue())

    assert sources.read(link.format(f"{root}/a::b.zip"), 10) == b"zipped"


def test_a_missing_archive_in_a_store_is_named(cloud: Cloud):
    """The message names the whole chain."""
    uri = f"zip://1.jpg::{cloud.root()}/none.zip"

    with pytest.raises(OpeningError, match="no such file") as caught:
        sources.read(uri, 10)

    assert str(caught.value).startswith(f"{uri}: ")


def test_a_chain_that_a_store_cannot_serve_is_refused(cloud: Cloud):
    """`file` reads this machine, never an object."""
    with pytest.raises(OpeningError, match="file:: cannot read from an object store"):
        sources.read(f"file://a.jpg::{cloud.root()}/a.jpg", 10)


def test_memory_and_archives_are_read(tmp_path: Path):
    with zipfile.ZipFile(tmp_path / "stills.zip", "w") as archive:
        archive.writestr("cats/1.jpg", b"zipped")
    with fsspec.open("memory://cat.jpg", "wb") as file:
        file.write(b"remembered")

    assert sources.read(f"zip://cats/1.jpg::{tmp_path}/stills.zip", 10) == b"zipped"
    assert sources.read("memory://cat.jpg", 10) == b"remembered"


def test_a_manifest_is_brought_here_whole(site: str, tmp_path: Path):
    sources.fetch_to(f"{site}/manifest.parquet", tmp_path / "manifest")

    assert (tmp_path / "manifest").read_bytes() == b"still " * 1000


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("refused.jpg", "HTTP 403"),
        ("none.jpg", "no such file"),
        ("cut.jpg", r"cannot be read \(ClientPayloadError\)"),
        ("cat.jpg", "more than 5999 bytes"),
    ],
)
def test_unreadable_link_is_named_without_its_signature(site: str, path: str, why: str):
    """The message about a link that cannot be read leaves out its signature."""
    signed = f"{site}/{path}?v=2&X-Amz-Credential=AKID&X-Amz-Signature=abc"

    with pytest.raises(OpeningError, match=why) as caught:
        sources.read(signed, 5999)

    assert str(caught.value).startswith(f"{site}/{path}?v=2: ")
    assert "abc" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("file:///no/such/cat.jpg", "no such file"),
        ("/no/such/cat.jpg", "no such file"),
        ("file:///tmp", "Is a directory"),
        ("gopher://host/cat.jpg", "nothing here opens such a URI"),
        ("http://127.0.0.1:1/cat.jpg", "Connect call failed"),
        ("zip://cat.jpg::/no/such.zip", "no such file"),
    ],
)
def test_what_cannot_be_read_is_named(uri: str, why: str):
    with pytest.raises(OpeningError, match=why) as caught:
        sources.read(uri, 10)
    assert str(caught.value).startswith(f"{uri}: ")


def test_an_object_that_is_not_there_is_named(cloud: Cloud):
    root = cloud.root()

    with pytest.raises(OpeningError, match=f"{root}/none.jpg: no such file") as caught:
        sources.read(f"{root}/none.jpg", 10)

    assert not caught.value.passing


def test_credentials_that_are_refused_will_not_pass(cloud: Cloud, faulty: FaultyProxy):
    root = cloud.root()
    faulty.fault.deny = True

    with pytest.raises(OpeningError, match=f"{root}/a.jpg: HTTP 403") as caught:
        sources.read(f"{root}/a.jpg", 10)

    assert not caught.value.passing


# -- signing


@pytest.mark.anyio
async def test_a_still_in_a_store_is_signed_and_then_read_by_anyone(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
):
    root = cloud.root()
    await Objects.open(root).create("cat.jpg", b"still")
    signer = service_account(f"http://127.0.0.1:{cloud.port}", asks=True)
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT_KEY", signer)

    link = sources.presign(f"{root}/cat.jpg", 60)

    assert link is not None
    assert sources.read(link, 10) == b"still"


@pytest.mark.parametrize("uri", ["/a.jpg", "https://h/a.jpg", "memory://a.jpg"])
def test_link_outside_a_store_cannot_be_signed(uri: str):
    """Only objects in a store can be signed."""
    assert sources.presign(uri, 60) is None


def test_a_store_without_its_settings_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    container = f"stills-{secrets.token_hex(4)}"

    with pytest.raises(OpeningError, match=f"az://{container}: .*Account must be"):
        sources.presign(f"az://{container}/a.jpg", 60)
