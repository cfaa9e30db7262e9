"""Stores: where a URI's bytes are, and how to reach them."""

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store
from obstore.store import from_url as store_at

from storage.errors import StorageError, explained

if TYPE_CHECKING:
    from obstore.store import ClientConfig, ObjectStore, RetryConfig

# A clip over a slow link takes longer than obstore's 30 s. Plain http happens only to an
# endpoint that its owner wrote with http://.
CLIENT: "ClientConfig" = {
    "timeout": "120s",
    "connect_timeout": "10s",
    "allow_http": True,
}
# Asking again is done here, where an "exists" after a lost answer can be looked into.
_ONCE: "RetryConfig" = {"max_retries": 0}

_MEMORIES: Final[dict[str, MemoryStore]] = {}


def connect(uri: str) -> "ObjectStore":
    """The store at a URI that is not a local path.

    Credentials and endpoints are where each vendor's own tools look for them, such as
    AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, AZURE_STORAGE_ACCOUNT_NAME.

    Raises:
        StorageError: no store has such a URI, or it lacks its settings.
    """
    scheme = urlsplit(uri).scheme
    with explained(uri):
        match scheme:
            case "memory":
                return _MEMORIES.setdefault(uri, MemoryStore())
            case "s3":
                return S3Store.from_url(
                    uri,
                    client_options=CLIENT,
                    retry_config=_ONCE,
                    checksum_algorithm="sha256",
                )
            case "gs" | "az":
                return store_at(uri, client_options=CLIENT, retry_config=_ONCE)
            case _:
                raise StorageError(
                    f"{uri}: no store for {scheme!r}: use file, memory, s3, gs or az"
                )


def local_path(uri: str) -> Path:
    """The path that a file URI, or a plain path, names."""
    if not uri.startswith("file://"):
        return Path(uri).absolute()
    # A file's name may have a ? or a # in it, which urlsplit would take for its own.
    host, _, path = uri.removeprefix("file://").partition("/")
    if host not in {"", "localhost"}:
        raise StorageError(f"{uri}: a file URI has three slashes and the whole path")
    return Path("/" + unquote(path))


def signed(store: "ObjectStore", key: str, seconds: int) -> str | None:
    """A link that reads one object for so long; None where the store cannot sign."""
    if not isinstance(store, S3Store | GCSStore | AzureStore):
        return None
    try:
        return obstore.sign(store, "GET", key, timedelta(seconds=seconds))
    except BaseError:
        # No key to sign with, such as an anonymous or a federated login.
        return None
