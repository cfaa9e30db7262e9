"""Checks a downloaded file: it plays, or is converted; and how it differs from its order.

A clip that differs is paid for, so it is published; the text says how it differs.
"""

import asyncio
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, Protocol

from manifests.lifecycle import Facts
from storage.media import BrokenClipError, Probe, foreign
from tasks.engine.own_faults import ours
from tasks.engine.poll import SAME

SECONDS: Final = 0.5
"""Models round the duration to whole groups of frames: 81 at 16 a second are 5.06 s."""

_PIXELS: Final[Mapping[str, int]] = {
    "480p": 832 * 480,
    "720p": 1280 * 720,
    "1080p": 1920 * 1080,
}
LEAST: Final = 0.6
MOST: Final = 1.7
"""The share of the resolution's pixels that other aspect ratios still have. The next
resolutions have less than half of them, or more than twice as many."""

REPEATS: Final = 0.4
"""The share of frames that repeat the one before, from which on frames are doubled."""

_RATIOS: Final[Mapping[str, tuple[int, int]]] = {"16:9": (16, 9), "9:16": (9, 16)}


class Check(Protocol):
    """Checks a clip, as `storage.media.mp4.check` does."""

    def __call__(self, data: bytes, *, decode: bool) -> Probe:
        """Probe a clip, or raise BrokenClipError."""
        ...


class BadClipError(Exception):
    """The provider's file is identical each time, and does not play."""

    def __init__(self, message: str, data: bytes, sha256: str) -> None:
        super().__init__(message)
        self.data = data
        self.sha256 = sha256


@dataclass(frozen=True, slots=True)
class CheckedClip:
    """A clip that passed its check."""

    mp4: bytes
    facts: Facts
    origin: Mapping[str, str]
    """The part of its sidecar that says what it was converted from."""


@dataclass(slots=True)
class _BadFile:
    """A file that is no clip, and was downloaded some times in a row."""

    sha256: str
    since: float
    """The time of the first of these downloads, by the run's own clock."""
    times: int = 0


class ClipChecker:
    """Checks the downloads of a run, and remembers the files that are no clips."""

    def __init__(
        self,
        *,
        decodes: bool,
        refused_s: float,
        now: Callable[[], float],
        check: Check,
    ) -> None:
        self._decodes = decodes
        self._refused_s = refused_s
        self._now = now
        self._check = check
        self.bad_files = dict[str, _BadFile]()
        """By job that has not ended: the file that was downloaded last and is no clip."""

    def forget(self, job_id: str) -> None:
        """Forget the bad file of a job that has its clip, or has ended."""
        self.bad_files.pop(job_id, None)

    async def checked(
        self, job_id: str, data: bytes, order: Mapping[str, Any]
    ) -> CheckedClip:
        """Check a file that was downloaded for a job; convert it from another container.

        Raises:
            BrokenClipError: it does not play; another download may.
            BadClipError: it is identical each time, and does not play.
            OwnFaultError: our own check is broken.
        """

        def look() -> tuple[str, Probe | BrokenClipError]:
            sha256 = hashlib.sha256(data).hexdigest()
            try:
                with ours("our own check of the clip", BrokenClipError):
                    return sha256, self._check(data, decode=self._decodes)
            except BrokenClipError as exc:
                return sha256, exc

        sha256, found = await asyncio.to_thread(look)
        if isinstance(found, Probe):
            return CheckedClip(data, _facts(data, sha256, found, order), {})
        bad = self.bad_files.get(job_id)
        if bad is None or bad.sha256 != sha256:
            bad = self.bad_files[job_id] = _BadFile(sha256, self._now())
        bad.times += 1
        if bad.times >= SAME:
            if clip := await asyncio.to_thread(self._converted, data, sha256, order):
                return clip
            # A page may stand in for a clip for a while. A complete file does not.
            if found.whole or self._now() - bad.since >= self._refused_s:
                raise BadClipError(str(found), data, sha256) from found
        raise found

    def _converted(
        self, data: bytes, sha256: str, order: Mapping[str, Any]
    ) -> CheckedClip | None:
        """The clip in a video of another container than MP4."""
        with ours("our own conversion of the clip"):
            converted = foreign.to_mp4(data)
            if converted is None:
                return None
            mp4 = converted.mp4
            probe = self._check(mp4, decode=self._decodes)
        facts = _facts(mp4, hashlib.sha256(mp4).hexdigest(), probe, order)
        origin = {"converted_from": converted.container, "original_sha256": sha256}
        return CheckedClip(mp4, facts, origin)


def _facts(mp4: bytes, sha256: str, probe: Probe, order: Mapping[str, Any]) -> Facts:
    measured = asdict(probe)
    del measured["repeats"]
    return Facts(
        sha256=sha256, bytes=len(mp4), differs=differs(order, probe), **measured
    )


def differs(order: Mapping[str, Any], clip: Probe) -> str:
    """How a clip differs from its order; empty if it does not, as far as the order is known.

    `order` is the part of the sidecar that repeats the request.
    """
    return ", ".join(_differences(order, clip))


def _differences(order: Mapping[str, Any], clip: Probe) -> Iterator[str]:
    seconds = order.get("duration_s")
    if seconds is not None and abs(clip.seconds - seconds) > SECONDS:
        yield f"{clip.seconds:.1f} of {seconds} s"
    pixels = _PIXELS.get(order.get("resolution") or "")
    if pixels and not LEAST <= clip.width * clip.height / pixels <= MOST:
        yield f"{clip.width}x{clip.height} for {order['resolution']}"
    if (turned := _turned(order, clip)) is not None:
        yield turned
    if clip.repeats > REPEATS * clip.frames:
        yield f"{clip.repeats} of {clip.frames} frames repeat the one before"


def _turned(order: Mapping[str, Any], clip: Probe) -> str | None:
    """Whether it stands where a lying one was ordered, or the other way round."""
    asked = _RATIOS.get(order.get("aspect_ratio") or "")
    if asked is None and order.get("aspect_ratio") == "auto":
        asked = order.get("still_size")
    if asked is None or asked[0] == asked[1]:
        return None
    wide = asked[0] > asked[1]
    if wide and clip.width < clip.height:
        return "portrait for landscape"
    if not wide and clip.width > clip.height:
        return "landscape for portrait"
    return None
