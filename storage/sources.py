"""Opens URIs that users give: any that fsspec reads, such as https, s3, hf or zip.

Every function blocks; call it in a thread.
"""

import socket
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final, cast

import aiohttp
import fsspec
from fsspec.archive import AbstractArchiveFileSystem
from fsspec.implementations.cached import CachingFileSystem
from obstore.exceptions import BaseError
from obstore.fsspec import FsspecStore

from manifests.uris import EMPTY_NAME, links, scheme, unsigned
from storage.objects import StorageError, UnavailableError, local_path
from storage.objects.connect import CLIENT, REMOTE, bucket, signed
from storage.objects.errors import reason, translated
from storage.source_client import USER_AGENT, filesystem, options
from storage.source_policy import TRUSTING, WEB, RefusedSourceError, SourcePolicy

__all__ = [
    "USER_AGENT",
    "OpeningError",
    "TooLargeError",
    "fetch_to",
    "opening",
    "presign",
    "read",
    "refuse_blank",
]

_NO_HOST: Final = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)}
"""The resolver's errors for a name that does not exist, or has no address."""

_PIECE: Final = 1 << 20

_fsspec: Any = fsspec  # it has no types


class OpeningError(OSError):
    """A URI cannot be read; `passing`: a later attempt may succeed."""

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class TooLargeError(OpeningError):
    """There are more bytes at a URI than were asked for."""


def refuse_blank(uri: str, name: str) -> None:
    """Refuse an argument that names no place; `name` is the argument's.

    Raises:
        OpeningError: it is blank, or a URI with spaces before it, which would be a path.
    """
    if not uri.strip():
        problem = "is blank, which would be the current folder"
        cure = "name a file, a folder or a URI (a variable of the shell may be unset)"
        raise OpeningError(f"{name} = {uri!r} {problem}: {cure}")
    if scheme(uri.strip()) != scheme(uri):
        raise OpeningError(f"{name} = {uri!r}: remove the space before the URI")


def read(uri: str, max_bytes: int, policy: SourcePolicy = TRUSTING) -> bytes:
    """The bytes at a URI, if they are no more than `max_bytes`.

    Raises:
        TooLargeError: they are more.
        OpeningError: they cannot be read, or the policy refuses the place.
    """
    content = bytearray()
    with _opened(uri, policy) as file:
        while piece := file.read(_PIECE):
            content += piece
            if len(content) > max_bytes:
                raise TooLargeError(f"{unsigned(uri)}: more than {max_bytes} bytes")
    return bytes(content)


def fetch_to(uri: str, path: Path) -> None:
    """Download the content of a URI, of any size, into a local file.

    Raises:
        OpeningError: it cannot be read.
    """
    with _opened(uri, TRUSTING) as file, path.open("wb") as out:
        while piece := file.read(8 * _PIECE):
            out.write(piece)


def presign(uri: str, seconds: int) -> str | None:
    """A link to an object that is valid for `seconds`; None if the store cannot sign.

    Raises:
        OpeningError: the store's settings are missing or wrong.
    """
    kind, _, place = uri.partition("://")
    if kind.lower() not in REMOTE:
        return None
    # All that follows the bucket is the key: a # or a ? in it belongs to its name.
    name, _, key = place.partition("/")
    try:
        store = _bucket(f"{kind}://{name}")
    except StorageError as error:
        raise OpeningError(str(error)) from None
    return signed(store, key, seconds)


_bucket = lru_cache(maxsize=16)(bucket)


@contextmanager
def _opened(uri: str, policy: SourcePolicy) -> Generator[IO[bytes]]:
    """The file at a URI; every error inside is raised as an `OpeningError`."""
    with opening(uri):
        policy.refuse(uri)
        with _file(uri, policy) as file:
            yield file


@contextmanager
def opening(uri: str) -> Generator[None]:
    """Raise every error of a filesystem as an `OpeningError` that names the URI.

    Not chained: a client's own errors quote URLs with their signatures.
    """
    try:
        yield
    except OpeningError:
        raise
    # A filesystem raises any error of its library; the message names the URI.
    except Exception as error:  # noqa: BLE001
        message = f"{unsigned(uri)}: {_why(error)}"
        raise OpeningError(message, passing=_passes(error)) from None


def _file(uri: str, policy: SourcePolicy) -> AbstractContextManager[IO[bytes]]:
    *chain, last = links(uri)
    if scheme(last) in REMOTE:
        return _in_a_store(last, chain)
    match "chained" if chain else scheme(uri):
        case "" | "file":
            return local_path(uri).open("rb")
        case "http" | "https":
            # One plain GET: a signed link answers neither HEAD nor a range, and the
            # size that a server announces is not trusted.
            return filesystem(policy).open(uri, "rb", block_size=0, size=1)
        case _:
            # Returned unopened: it keeps its filesystem, which an archive closes when deleted.
            web = {scheme(last): options(policy)} if scheme(last) in WEB else {}
            named = _fsspec.open(uri, "rb", **web)
            # `info` first: an obstore file that cannot be opened raises again when deleted.
            named.fs.info(named.path)
            return named


@contextmanager
def _in_a_store(uri: str, chain: list[str]) -> Generator[IO[bytes]]:
    """A file in one of our stores, or in what a chain such as `zip://a.jpg` opens there.

    fsspec resolves a chain by its registry, which belongs to the whole process: the name
    `s3` means s3fs to everybody else. Our stores are therefore never registered.
    """
    # Its overloads name each scheme.
    files: Any = FsspecStore(cast("Any", scheme(uri)), client_options=CLIENT)
    path = uri.partition("://")[2]
    if "//" in path:
        raise OpeningError(f"{uri}: {EMPTY_NAME}")
    with ExitStack() as opened:
        for link in reversed(chain):
            name, _, inner = link.partition("://")
            kind: Any = _fsspec.get_filesystem_class(name)
            if issubclass(kind, AbstractArchiveFileSystem):
                # `info` first: an obstore file that cannot be opened raises again when
                # deleted.
                files.info(path)
                archive = opened.enter_context(files.open(path, "rb"))
                files, path = kind(fo=archive), inner
            elif issubclass(kind, CachingFileSystem):
                files, path = kind(fs=files), inner or path
            else:
                raise OpeningError(f"{uri}: {name}:: cannot read from an object store")
        files.info(path)
        yield opened.enter_context(files.open(path, "rb"))


def _passes(error: Exception) -> bool:
    """Whether the error comes from the network, and may pass."""
    match error:
        case _ if _refused(error):
            return False
        case aiohttp.ClientResponseError(status=status):
            return status >= 500 or status in {408, 425, 429}
        case FileNotFoundError():
            return False
        case aiohttp.ClientConnectorDNSError(os_error=cause):
            return cause.errno not in _NO_HOST
        case aiohttp.ClientConnectorCertificateError() | aiohttp.InvalidURL():
            return False
        case aiohttp.ClientError():
            return True
        case BaseError() | OSError():
            return isinstance(translated("", error), UnavailableError)
        case _:
            return False


def _refused(error: BaseException | None) -> RefusedSourceError | None:
    """The policy's refusal that an HTTP client has wrapped in other errors."""
    while error is not None and not isinstance(error, RefusedSourceError):
        error = error.__cause__
    return error


def _why_http(error: aiohttp.ClientError) -> str | None:
    match error:
        case aiohttp.ClientResponseError(status=status):
            return f"HTTP {status}"
        case aiohttp.ClientConnectorDNSError(os_error=cause) if cause.errno in _NO_HOST:
            return "no host has this name"
        case aiohttp.ClientConnectorCertificateError():
            return "the certificate of its host does not verify"
        case aiohttp.InvalidURL():
            return "is no URL"
        case _:
            return None


def _why(error: Exception) -> str:
    if refused := _refused(error):
        return str(refused)
    match error:
        case FileNotFoundError():
            return "no such file"
        case aiohttp.ClientError() if known := _why_http(error):
            return known
        case BaseError():
            return reason(error)
        case StorageError() | ImportError():
            return str(error)
        case OSError(strerror=str(words)):
            return words
        case TimeoutError():
            return "no answer in time"
        case ValueError() if "Protocol not known" in str(error):
            return "nothing here opens such a URI"
        case _:
            return f"cannot be read ({type(error).__name__})"
