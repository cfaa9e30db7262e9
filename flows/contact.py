"""The contact sheet: posters of some clips on one page, each a link to its MP4."""

import base64
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from flows.cells import bare, safe
from tasks.posters import Tile

ACROSS: Final = 4
"""As many as have room at their own size on the page of an artifact."""

MOST_BYTES: Final = 1_100_000
"""Of posters: a third more as text, which is what the page may be."""

WORDS: Final = 44
"""Characters of a prompt."""


def sheet(
    tiles: Sequence[Tile], seen: int, *, root: str, public_url: str | None
) -> str:
    """The page."""
    sizes = accumulate(len(tile.webp) for tile in tiles)
    fit = [tile for tile, all_s in zip(tiles, sizes, strict=True) if all_s < MOST_BYTES]
    said = f"{len(fit):,} of {seen:,} clips, evenly over the run."
    if public_url is None:
        said += f" They are under `{bare(root)}/`; with `public_url` in `[report]`, each poster links to its MP4."
    cells = [_cell(tile, public_url) for tile in fit]
    lines = [
        cells[n : n + ACROSS] + [""] * (ACROSS - len(cells[n : n + ACROSS]))
        for n in range(0, len(cells), ACROSS)
    ]
    return "\n\n".join([said, _grid(lines)]) + "\n"


def _grid(lines: Sequence[Sequence[str]]) -> str:
    header = [" "] * ACROSS
    every = [header, ["---"] * ACROSS, *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in every)


def _cell(tile: Tile, public_url: str | None) -> str:
    key = f"clips/{tile.job[:2]}/{tile.job}.mp4"
    picture = base64.b64encode(tile.webp).decode()
    shown = f"![{tile.job[:8]}](data:image/webp;base64,{picture})"
    prompt = str(tile.sidecar.get("prompt") or "")
    words = safe(prompt if len(prompt) <= WORDS else prompt[: WORDS - 1] + "…")
    about = safe(str(tile.sidecar.get("lane") or ""))
    if public_url is None:
        return f"{shown}<br>{words}<br>*{about}* `{key}`"
    url = f"{public_url}/{key}"
    return f"[{shown}]({url})<br>{words}<br>[{about}, {tile.job[:8]}]({url})"
