"""Stores: where a URI's bytes are, and how to reach them.

obstore renews some credentials before they expire: logins from a web identity, a container
or a machine's metadata (S3), service accounts and federated logins (GCS, Azure). It does
not renew AWS_SESSION_TOKEN and other keys in the environment, which are read once, when a
store is opened. It does not read ~/.aws at all.
"""

import atexit
import os
import time
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import quote, unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

from storage.objects import local
from storage.objects.errors import StorageError, UnavailableError, explained
from storage.objects.local_store import Folder

if TYPE_CHECKING:
    from obstore import Attributes, GetOptions, ListResult, ObjectMeta, PutResult
    from obstore.store import ClientConfig, RetryConfig

REMOTE: Final = frozenset({"s3", "gs", "az"})

# A clip over a slow link takes longer than obstore's 30 s. Plain http happens only to an
# endpoint that its owner wrote with http://.
CLIENT: "ClientConfig" = {
    "timeout": "120s",
    "connect_timeout": "10s",
    "allow_http": True,
}
# obstore's timeout covers the whole request, so large objects get more time.
_ROOMY: "ClientConfig" = {**CLIENT, "timeout": "3600s"}
# Retries are ours, because an "exists" after a lost answer has to be checked.
_ONCE: "RetryConfig" = {"max_retries": 0}

_MEMORIES: Final[dict[str, MemoryStore]] = {}

_LAST_WORD_S: Final = 0.1

# A forked child inherits the set, and finds its parent's pid in it beside its own.
_USERS: Final[set[int]] = set()


class Found(Protocol):
    """An object that a store found under a key."""

    async def bytes_async(self) -> Any: ...  # obstore's Bytes: only bytes() is used


class Store(Protocol):
    """The part of obstore's interface that is used here; the simulation implements it too."""

    async def put_async(  # noqa: PLR0913 - obstore's own
        self,
        path: str,
        file: bytes | memoryview | Path,
        *,
        attributes: "Attributes | None" = None,
        mode: Literal["create", "overwrite"] = "overwrite",
        use_multipart: bool | None = None,
        chunk_size: int = ...,
        max_concurrency: int = ...,
    ) -> "PutResult": ...

    async def get_async(
        self, path: str, *, options: "GetOptions | None" = None
    ) -> Found: ...

    async def head_async(self, path: str) -> "ObjectMeta": ...

    def list(
        self, prefix: str | None = None, *, chunk_size: int = ...
    ) -> "AsyncIterator[Sequence[ObjectMeta]]": ...

    async def list_with_delimiter_async(
        self, prefix: str | None = None
    ) -> "ListResult[Sequence[ObjectMeta]]": ...

    async def delete_async(self, paths: str) -> object: ...


def connect(uri: str, *, roomy: bool = False) -> Store:
    """The store at a URI; `roomy`, with the time that large requests take.

    Credentials and endpoints are where each vendor's own tools look for them, such as
    AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, AZURE_STORAGE_ACCOUNT_NAME.

    Raises:
        StorageError: no store has such a URI, or it lacks its settings.
    """
    scheme = urlsplit(uri).scheme
    match scheme:
        case "file":
            if not local_path(uri).exists():
                raise StorageError(f"{uri}: no such folder")
            with explained(uri):
                return Folder(local_path(uri))
        case "memory":
            return _MEMORIES.setdefault(uri, MemoryStore())
        case _ if scheme in REMOTE:
            return bucket(uri, roomy=roomy)
        case _:
            raise StorageError(
                f"{uri}: no store for {scheme!r}: use file, memory, s3, gs or az"
            )


def bucket(uri: str, *, roomy: bool = False) -> S3Store | GCSStore | AzureStore:
    """The store below the URI of a bucket, or of a folder in it.

    All that follows the bucket is the folder's key, to the letter.

    Raises:
        StorageError: it lacks its settings.
    """
    client = _ROOMY if roomy else CLIENT
    kind, _, place = uri.partition("://")
    # Not `from_url`: it takes a # or a ? in a key for the end of the path, and decodes a %.
    name, _, key = place.partition("/")
    prefix = key.strip("/") or None
    if not name:
        raise StorageError(f"{uri}: names no bucket")
    try:
        with explained(uri):
            match kind.lower():
                case "s3":
                    return S3Store(
                        name,
                        prefix=prefix,
                        client_options=client,
                        retry_config=_ONCE,
                        checksum_algorithm="sha256",
                    )
                case "gs":
                    return GCSStore(
                        name, prefix=prefix, client_options=client, retry_config=_ONCE
                    )
                case _:
                    return AzureStore(
                        name, prefix=prefix, client_options=client, retry_config=_ONCE
                    )
    except UnavailableError as error:
        # No request was sent yet: the settings are wrong, which does not pass.
        raise StorageError(str(error)) from None


def local_path(uri: str) -> Path:
    """The path that a file URI, or a plain path, names."""
    if not uri.startswith("file://"):
        return Path(uri).absolute()
    # A file's name may have a ? or a # in it, which urlsplit would take for its own.
    host, _, path = uri.removeprefix("file://").partition("/")
    if host not in {"", "localhost"}:
        raise StorageError(f"{uri}: a file URI has three slashes and the whole path")
    return Path("/" + unquote(path))


def make_folder(uri: str) -> None:
    """Make the folder that a file URI names, durably, with the folders above it.

    Raises:
        StorageError: it cannot be made.
    """
    with explained(uri):
        local.make(local_path(uri))


def signed(
    store: S3Store | GCSStore | AzureStore, key: str, seconds: int
) -> str | None:
    """A link that reads one object for `seconds`; None if the store cannot sign."""
    if isinstance(store, GCSStore):
        # obstore takes such a key as a piece of a URL, unlike others (0.12.1).
        key = quote(key)
    elif isinstance(store, AzureStore) and quote(key) != key:
        # obstore signs the encoded name, and Azure compares the decoded one: 403 (0.12.1).
        return None
    try:
        return obstore.sign(store, "GET", key, timedelta(seconds=seconds))
    except BaseError:
        # No key to sign with, such as an anonymous or a federated login.
        return None


def refuse_forks() -> None:
    """Note that this process uses a store.

    Raises:
        StorageError: its parent did so before it forked. obstore's threads do not follow
            into a child, whose first request would wait for ever (0.12.1).
    """
    if os.getpid() not in _USERS:
        _USERS.add(os.getpid())
        # After each answer a thread of obstore calls into Python once more. If Python has
        # ended, it aborts the process: 40 of 60 that list a folder and end (0.12.1).
        atexit.register(time.sleep, _LAST_WORD_S)
    if len(_USERS) > 1:
        raise StorageError("forked from a process that uses stores: spawn it instead")
