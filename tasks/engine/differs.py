"""Compares a clip with what was ordered: duration, size, orientation, repeated frames.

A clip that differs is paid for, so it is published; the text says how it differs.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from storage.media import Probe

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
