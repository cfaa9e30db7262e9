"""What a store's refusals mean, in our words.

* StorageError         the store will not do it: credentials, bucket, scheme
  x MissingError       there is no such object
  x ExistsError        the key is taken, by other bytes
  x UnavailableError   no answer, or not now: worth asking again
"""

import re
from collections.abc import Generator
from contextlib import contextmanager

from obstore.exceptions import AlreadyExistsError, BaseError, GenericError


class StorageError(Exception):
    """The store will not do it."""


class MissingError(StorageError):
    """There is no such object."""


class ExistsError(StorageError):
    """The key is taken, by other bytes."""


class UnavailableError(StorageError):
    """No answer, or not now: worth asking again."""


@contextmanager
def explained(uri: str) -> Generator[None]:
    """Turn every store's own errors into ours.

    Not chained: theirs quote whole answers, with access keys and signed strings.
    """
    try:
        yield
    except (BaseError, OSError, ValueError) as error:
        raise _translated(uri, error) from None


def _translated(uri: str, error: Exception) -> StorageError:
    said = str(error)
    match error:
        case AlreadyExistsError() | FileExistsError():
            return ExistsError(f"{uri}: exists")
        case FileNotFoundError() if not re.search("NoSuchBucket|ContainerNot", said):
            return MissingError(f"{uri}: no such object")
        case _ if _may_pass(error):
            return UnavailableError(f"{uri}: {reason(error)}")
        case _:
            return StorageError(f"{uri}: {reason(error)}")


def _may_pass(error: Exception) -> bool:
    said = str(error)
    if status := re.search(r"status code: (\d{3})", said):
        return int(status[1]) >= 500 or status[1] in {"408", "409", "429"}
    if isinstance(error, GenericError):
        return not re.search("builder error|must be specified|169.254", said)
    return isinstance(error, OSError) and not isinstance(error, PermissionError)


def reason(error: Exception) -> str:
    """What is worth repeating of a store's own words: no key, signature or body."""
    said = str(error)
    if "169.254.169.254" in said:
        # The address where a cloud machine would be given its credentials.
        return "no credentials found"
    if status := re.search(r"status code: (\d{3}[^:<\n]*)", said):
        code = re.search(r"<Code>(\w+)</Code>", said)
        return f"HTTP {status[1].strip()}" + (f", {code[1]}" if code else "")
    cause = re.search(r'kind: \w+,\s+message: "([^"]*)"', said)
    first = said.partition("\n")[0].rpartition(" - ")[2]
    return re.sub(r"\?\S*", "", first) + (f" ({cause[1]})" if cause else "")
