"""The stills that clients uploaded, sent inline, or named by a URL."""

import asyncio
import base64
import binascii
import hashlib
import io
import secrets
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx
from PIL import Image

from manifests.uris import unsigned

LARGEST_STILL: Final = 10 * 2**20
FORMATS: Final = ("JPEG", "PNG", "WEBP")


class UnreadableStillError(Exception):
    """The reference leads to no image."""


@dataclass(frozen=True, slots=True, eq=False)
class Still:
    """The bytes of a still and their digest."""

    content: bytes
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> "Still":
        return cls(content, hashlib.sha256(content).hexdigest())


@dataclass(slots=True, kw_only=True)
class Upload:
    """An upload of a still, before or after the bytes have arrived."""

    id: str
    filename: str
    media_type: str
    token: str
    """The secret in the upload URL, in place of a presigned URL's signature."""
    still: Still | None = None

    @property
    def size(self) -> int:
        return len(self.still.content) if self.still else 0


class Stills:
    """All stills by the references that requests use for them."""

    def __init__(self) -> None:
        self._uploads: dict[str, Upload] = {}
        self._fetched: dict[str, Still] = {}
        self._good: set[str] = set()
        self._http: httpx.AsyncClient | None = None

    def expect(self, filename: str, media_type: str) -> Upload:
        """Create an upload that has no bytes yet."""
        upload = Upload(
            id=secrets.token_hex(12),
            filename=filename.replace("/", "_") or "upload.bin",
            media_type=media_type,
            token=secrets.token_hex(32),
        )
        self._uploads[upload.id] = upload
        return upload

    def upload(self, upload_id: str) -> Upload | None:
        return self._uploads.get(upload_id)

    def identity(self, reference: str) -> str:
        """Return what identifies a still: its URL without a signature, or its digest."""
        if (still := self._known(reference)) is not None:
            return f"sha256:{still.sha256}"
        if _is_url(reference):
            return unsigned(reference)
        return "unreadable"

    async def load(self, reference: str) -> Still:
        """Return the still that a request names.

        Raises:
            UnreadableStillError: it is no image, or cannot be fetched.
        """
        still = self._known(reference) or await self._fetch(reference)
        if still.sha256 not in self._good:
            await asyncio.to_thread(_decode, still)
            self._good.add(still.sha256)
        return still

    async def aclose(self) -> None:
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    def _known(self, reference: str) -> Still | None:
        """Return a still that is uploaded, fetched or inline; None for a new URL."""
        if _is_url(reference):
            parts = urlsplit(reference).path.split("/")
            upload = self._uploads.get(parts[-2]) if len(parts) > 1 else None
            return upload.still if upload else self._fetched.get(reference)
        inline = reference.partition(",")[2] if ":" in reference else reference
        try:
            return Still.of(base64.b64decode(unquote(inline), validate=True))
        except (binascii.Error, ValueError):
            return None

    async def _fetch(self, url: str) -> Still:
        if not _is_url(url):
            raise UnreadableStillError("neither a URL nor base64")
        if self._http is None:
            self._http = httpx.AsyncClient(follow_redirects=True, timeout=20)
        content = bytearray()
        try:
            async with self._http.stream("GET", url) as response:
                response.raise_for_status()
                async for chunk in response.aiter_bytes():
                    content += chunk
                    if len(content) > LARGEST_STILL:
                        raise UnreadableStillError("over 10 MB")
        except (httpx.HTTPError, httpx.InvalidURL) as exc:
            raise UnreadableStillError(type(exc).__name__) from exc
        self._fetched[url] = Still.of(bytes(content))
        return self._fetched[url]


def _is_url(reference: str) -> bool:
    return reference.startswith(("http://", "https://"))


def _decode(still: Still) -> None:
    try:
        with Image.open(io.BytesIO(still.content), formats=FORMATS) as image:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise UnreadableStillError(f"no image: {len(still.content)} bytes") from exc
