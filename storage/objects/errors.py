"""The errors of object stores, translated into one tree.

* StorageError         the store refuses for good: no such bucket, a name too long
  x MissingError       the object does not exist
  x ExistsError        the key has an object with other bytes
  x DamagedError       the object's content is not what was written
  x ReplacedError      the root is not the one that was opened
  x UnavailableError   no answer, or a temporary error: retry
  x FullError          no space is left: a person has to free some
  x RefusedError       no permission, or expired credentials: a person has to act
    x LoginError       the machine gave no credentials
"""

import errno
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from typing import Final

from obstore.exceptions import AlreadyExistsError, BaseError, GenericError


class StorageError(Exception):
    """The store refuses for good."""


class MissingError(StorageError):
    """The object does not exist."""


class ExistsError(StorageError):
    """The key has an object with other bytes."""


class DamagedError(StorageError):
    """The object's content is not what was written."""


class ReplacedError(StorageError):
    """The root is not the one that was opened: it was emptied or replaced."""


class UnavailableError(StorageError):
    """No answer, or a temporary error: retry."""


class FullError(StorageError):
    """No space is left: a person has to free some."""


class RefusedError(StorageError):
    """No permission, or expired credentials: a person has to act."""


class LoginError(RefusedError):
    """The machine gave no credentials; retried only if it gave some before."""


_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED: Final = {errno.EACCES, errno.EPERM}
# A busy machine, or a disk behind a network. After EIO the next try writes a new draft.
_PASSING: Final = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EIO,
    errno.EMFILE,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENFILE,
    errno.ENOLCK,
    errno.ENOMEM,
    errno.ENOTCONN,
    errno.EPIPE,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
_WORDS: Final = {
    errno.EACCES: "no permission",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "more than one file may hold there",
    errno.EISDIR: "a folder is where a file should be",
    errno.EMFILE: "too many files are open",
    errno.ENAMETOOLONG: "the name is too long",
    errno.ENOSPC: "the disk is full",
    errno.ENOTDIR: "a file is where a folder should be",
    errno.EPERM: "no permission",
    errno.EROFS: "the disk is read-only",
    errno.ESTALE: "its folder was moved away, unmounted or replaced",
}

# Codes of S3, GCS's XML and Azure that say more than their status does.
_NO_ROOM: Final = re.compile(r"Quota|StorageFull|InsufficientStorage")
_BAD_LOGIN: Final = re.compile(r"Expired|Invalid\w*Token|TokenRefresh|invalid_grant")
# Addresses at which a cloud gives machines, containers and pods their credentials.
_MACHINE: Final = re.compile(r"169\.254\.\d+\.\d+|metadata\.google\.internal")
# The body was cut or damaged in transit, or another request uses the same key now.
_AGAIN: Final = re.compile(
    r"BadDigest|(Content\w*|Md5|Checksum)Mismatch|IncompleteBody|RequestTimeout$"
    r"|Conflict$|OperationAborted|BeingDeleted|BeingCreated"
)
_NO_BUCKET: Final = re.compile(r"NoSuchBucket|ContainerNot")
_NEVER: Final = re.compile(
    r"builder error|must be specified|redirect without LOCATION"
    r"|invalid peer certificate"
)


@contextmanager
def explained(uri: str) -> Generator[None]:
    """Turn every store's own errors into ours.

    Not chained: a store's errors quote whole answers, with access keys and signed strings.
    """
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise translated(uri, error) from None


def translated(uri: str, error: Exception) -> StorageError:
    """A store's own error as one of ours."""
    return _kind(error)(f"{uri}: {reason(error)}")


def reason(error: Exception) -> str:
    """The part of a store's error that is safe to show: no key, signature or body."""
    text = str(error)
    match _kind(error):
        case kind if kind is MissingError:
            return "no such object"
        case kind if kind is ExistsError:
            return "exists"
        case kind if kind is LoginError:
            return "no credentials found"
        case _ if status := re.search(r"status code: (\d{3}[^:<\n]*)", text):
            code = _code(text)
            if _NO_BUCKET.search(code):
                return f"there is no such bucket ({code})"
            return f"HTTP {status[1].strip()}" + (f", {code}" if code else "")
        case _ if number := _errno(error):
            return _WORDS.get(number) or os.strerror(number)
        case _:
            cause = re.search(r'kind: \w+,\s+message: "([^"]*)"', text)
            first = text.partition("\n")[0].rpartition(" - ")[2]
            return re.sub(r"\?\S*", "", first) + (f" ({cause[1]})" if cause else "")


def _kind(error: Exception) -> type[StorageError]:
    text = str(error)
    code = _code(text)
    match error:
        case FileExistsError():
            return ExistsError
        case AlreadyExistsError() if not _AGAIN.search(code):
            return ExistsError
        case FileNotFoundError() if not _NO_BUCKET.search(text):
            return MissingError
        case GenericError() if _MACHINE.search(text):
            return LoginError
        case _ if status := re.search(r"status code: (\d{3})", text):
            return _of_status(int(status[1]), code)
        case _ if number := _errno(error):
            return _of_errno(number)
        case GenericError() if not _NEVER.search(text):
            return UnavailableError
        case TimeoutError() | ConnectionError():
            return UnavailableError
        case _:
            return StorageError


def _of_status(status: int, code: str) -> type[StorageError]:
    if status in {408, 409, 425, 429} or _AGAIN.search(code):
        return UnavailableError
    if status == 507 or _NO_ROOM.search(code):
        return FullError
    if status in {401, 403} or _BAD_LOGIN.search(code):
        return RefusedError
    # 501 and 505: the server lacks the feature, so a retry is useless.
    return StorageError if status < 500 or status in {501, 505} else UnavailableError


def _of_errno(number: int) -> type[StorageError]:
    if number in _FULL:
        return FullError
    if number in _REFUSED:
        return RefusedError
    return UnavailableError if number in _PASSING else StorageError


def _code(text: str) -> str:
    code = re.search(r"<Code>(\w+)</Code>|\"error\": ?\"(\w+)\"", text)
    return (code[1] or code[2]) if code else ""


def _errno(error: Exception) -> int | None:
    """The operating system's error number; obstore has it only in its message."""
    if isinstance(error, OSError):
        return error.errno
    told = re.match(r"Generic LocalFileSystem error.*\(os error (\d+)\)", str(error))
    return int(told[1]) if told else None
