"""The clips: an MP4 and its sidecar, published together or not at all.

clips/ab/abcd….mp4     the clip
clips/ab/abcd….json    how it was made, written last: if it is there, both are whole
clips/ab/abcd…-….bin   what a provider sent in place of a clip, by its digest
"""

from collections.abc import Mapping
from typing import Any

import orjson

from manifests.plain_json import plain
from storage import layout
from storage.objects import ExistsError, MissingError, Objects


class Clips:
    """The clips below a root."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def uri(self, job_id: str) -> str:
        return self._objects.uri(layout.clip(job_id, "mp4"))

    async def publish(self, job_id: str, mp4: bytes, sidecar: Mapping[str, Any]) -> str:
        """Publish a job's clip; returns its URI.

        Raises:
            ExistsError: it is published already, with another sidecar.
        """
        try:
            await self._objects.create(layout.clip(job_id, "mp4"), mp4)
        except ExistsError:
            # A crash left it between the two writes, and its sidecar is lost.
            if await self.sidecar(job_id) is not None:
                raise
            await self._objects.put(layout.clip(job_id, "mp4"), mp4)
        encoded = orjson.dumps(dict(sidecar), default=plain, option=orjson.OPT_INDENT_2)
        await self._objects.create(layout.clip(job_id, "json"), encoded)
        return self.uri(job_id)

    async def keep(self, job_id: str, sha256: str, data: bytes) -> str:
        """Keep the bytes of a file that is no clip, as they are; returns their URI."""
        key = layout.unplayable(job_id, sha256)
        await self._objects.put(key, data)
        return self._objects.uri(key)

    async def sidecar(self, job_id: str) -> dict[str, Any] | None:
        """How a clip was made; None if it is not published."""
        try:
            facts: dict[str, Any] = orjson.loads(
                await self._objects.get(layout.clip(job_id, "json"))
            )
        except MissingError:
            return None
        return facts
