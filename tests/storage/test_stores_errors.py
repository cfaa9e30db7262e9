"""Stores' answers are passing faults, errors for a person to fix, or permanent ones."""

import asyncio
import errno
import http.server
import os
import threading
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta

import pytest

from storage.objects import (
    ExistsError,
    FullError,
    MissingError,
    Objects,
    RefusedError,
    RetryPolicy,
    StorageError,
    UnavailableError,
)
from storage.objects.errors import explained


@pytest.mark.parametrize(
    "number",
    [
        errno.EAGAIN,
        errno.EBUSY,
        errno.EINTR,
        errno.EIO,
        errno.EMFILE,
        errno.ENFILE,
        errno.ESTALE,
        errno.ETIMEDOUT,
    ],
)
def test_passing_disk_error_is_retried(number: int):
    """An OS error that a busy machine causes counts as a passing fault."""
    with pytest.raises(UnavailableError), explained("file:///reel/a"):
        raise OSError(number, os.strerror(number), "/reel/a")


@pytest.mark.parametrize(
    ("number", "kind", "why"),
    [
        (errno.ENOSPC, FullError, "the disk is full"),
        (errno.EDQUOT, FullError, "the disk quota is used up"),
        (errno.EFBIG, FullError, "more than one file may hold there"),
        (errno.EACCES, RefusedError, "no permission"),
        (errno.EPERM, RefusedError, "no permission"),
        (errno.EROFS, StorageError, "the disk is read-only"),
        (errno.ENOTDIR, StorageError, "a file is where a folder should be"),
        (errno.EISDIR, StorageError, "a folder is where a file should be"),
        (errno.ENAMETOOLONG, StorageError, "the name is too long"),
        (errno.ELOOP, StorageError, "Too many levels of symbolic links"),
        (errno.ENOENT, MissingError, "no such object"),
        (errno.EEXIST, ExistsError, "exists"),
    ],
)
def test_permanent_disk_error_is_explained(
    number: int, kind: type[StorageError], why: str
):
    """A permanent OS error is explained in plain words."""
    with pytest.raises(StorageError) as caught, explained("file:///reel/a"):
        raise OSError(number, os.strerror(number), "/reel/a")

    assert type(caught.value) is kind
    assert str(caught.value) == f"file:///reel/a: {why}"


@pytest.fixture
async def answers(through) -> AsyncIterator[list[bytes]]:
    """A store that gives the answer that a test sets, again and again."""
    answers: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers[0])
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    through(server.sockets[0].getsockname()[1])
    yield answers
    server.close()


ANSWERS = [
    ("408 Request Timeout", "", UnavailableError),
    ("409 Conflict", "OperationAborted", UnavailableError),
    ("409 Conflict", "ConditionalRequestConflict", UnavailableError),
    ("429 Too Many Requests", "", UnavailableError),
    ("500 Internal Server Error", "InternalError", UnavailableError),
    ("503 Service Unavailable", "SlowDown", UnavailableError),
    ("504 Gateway Timeout", "", UnavailableError),
    ("400 Bad Request", "RequestTimeout", UnavailableError),
    ("400 Bad Request", "BadDigest", UnavailableError),
    ("400 Bad Request", "XAmzContentSHA256Mismatch", UnavailableError),
    ("400 Bad Request", "IncompleteBody", UnavailableError),
    ("400 Bad Request", "ExpiredToken", RefusedError),
    ("401 Unauthorized", "", RefusedError),
    ("403 Forbidden", "SignatureDoesNotMatch", RefusedError),
    ("403 Forbidden", "RequestTimeTooSkewed", RefusedError),
    ("403 Forbidden", "QuotaExceeded", FullError),
    ("507 Insufficient Storage", "XMinioStorageFull", FullError),
    ("400 Bad Request", "InvalidRequest", StorageError),
    ("404 Not Found", "NoSuchBucket", StorageError),
    ("411 Length Required", "", StorageError),
    ("412 Precondition Failed", "", StorageError),
    ("501 Not Implemented", "NotImplemented", StorageError),
    ("301 Moved Permanently", "PermanentRedirect", StorageError),
]

# For the other two, a few answers show that they are read alike.
EVERYWHERE = [("s3", *answer) for answer in ANSWERS] + [
    (scheme, *answer)
    for scheme in ("gs", "az")
    for answer in (
        ("400 Bad Request", "Md5Mismatch", UnavailableError),
        ("403 Forbidden", "AuthenticationFailed", RefusedError),
        ("409 Conflict", "ContainerBeingDeleted", UnavailableError),
        ("412 Precondition Failed", "LeaseIdMissing", StorageError),
        ("507 Insufficient Storage", "", FullError),
    )
]


@pytest.mark.anyio
@pytest.mark.parametrize(("scheme", "status", "code", "kind"), EVERYWHERE)
async def test_a_status_and_its_code_mean_the_same_everywhere(
    answers: list[bytes],
    scheme: str,
    status: str,
    code: str,
    kind: type[StorageError],
):
    body = f"<Error><Code>{code}</Code><Key>AKID</Key></Error>" if code else ""
    answers.append(
        f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {len(body)}"
        f"\r\n\r\n{body}".encode()
    )

    with pytest.raises(StorageError) as caught:
        await Objects.open(
            f"{scheme}://bucket/x", retry=RetryPolicy(unavailable_s=0)
        ).put("a", b"1")

    assert type(caught.value) is kind, caught.value
    message = f"HTTP {status}" + (f", {code}" if code else "")
    if code == "NoSuchBucket":
        message = "there is no such bucket (NoSuchBucket)"
    if not status.startswith("301"):
        assert str(caught.value) == f"{scheme}://bucket/x/a: {message}"
    assert "AKID" not in str(caught.value)


@pytest.mark.anyio
async def test_wrong_region_fails_at_once(answers: list[bytes]):
    """A bucket in another region fails at once, with a hint at the region."""
    answers.append(b"HTTP/1.1 301 Moved\r\nConnection: close\r\n\r\n")

    with pytest.raises(StorageError, match="configured region") as caught:
        await Objects.open("s3://bucket/x").put("a", b"1")

    assert type(caught.value) is StorageError


# -- credentials from a machine's metadata service


class Machine(http.server.BaseHTTPRequestHandler):
    """The metadata service of a cloud machine, whose credentials last a minute."""

    sick = 0

    def do_PUT(self) -> None:
        self._say("token")

    def do_GET(self) -> None:
        if Machine.sick:
            Machine.sick -= 1
            self.send_error(503)
        elif self.path.endswith("/security-credentials/"):
            self._say("role")
        else:
            until = (datetime.now(UTC) + timedelta(minutes=1)).isoformat()
            self._say(
                f'{"{"}"AccessKeyId": "test", "SecretAccessKey": "test", "Token": "t",'
                f'"Expiration": "{until}"{"}"}'
            )

    def _say(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def machine(s3_root: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A root in S3 that is opened with the machine's credentials."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Machine)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    url = f"http://127.0.0.1:{server.server_port}/169.254.169.254"
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", url)
    monkeypatch.setattr(Machine, "sick", 0)
    yield s3_root
    server.shutdown()
    server.server_close()


@pytest.mark.anyio
async def test_login_is_renewed_despite_a_metadata_fault(
    machine: str,
):
    """A login is renewed before it ends; passing faults of its service are retried."""
    objects = Objects.open(machine)
    await objects.put("a", b"1")
    # They are valid for less than five minutes, so they are renewed before each
    # request.
    Machine.sick = 2

    for _ in range(1000):
        if Machine.sick:
            await objects.put("b", b"2")

    assert Machine.sick == 0


@pytest.mark.anyio
async def test_a_machine_that_never_gave_a_login_is_not_waited_for(machine: str):
    Machine.sick = 100

    with pytest.raises(RefusedError, match=f"{machine}/a: no credentials found"):
        await Objects.open(machine).put("a", b"1")

    assert Machine.sick == 99
