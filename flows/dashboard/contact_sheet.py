"""The contact sheet: posters of some clips on one page, each a link to its MP4.

It is HTML, because one of Prefect's two UIs shows a linked picture as raw markdown.
"""

import base64
from collections.abc import Iterator, Sequence
from html import escape
from itertools import accumulate
from typing import Final

from flows.dashboard.markdown import bare
from storage import layout
from tasks.batch.contact_sheet import Tile

ACROSS: Final = 4
"""Posters in a row: as many as fit at full size on an artifact's page."""

MOST_BYTES: Final = 1_100_000
"""The most bytes of posters on a page; as text they take a third more."""

WORDS: Final = 44
"""Characters of a prompt that are shown."""


def sheet(
    tiles: Sequence[Tile], seen: int, *, root: str, public_url: str | None
) -> str:
    """The page."""
    sizes = accumulate(len(tile.webp) for tile in tiles)
    fit = [tile for tile, all_s in zip(tiles, sizes, strict=True) if all_s < MOST_BYTES]
    caption = f"{len(fit):,} of {seen:,} clips, evenly over the run."
    if public_url is None:
        caption += f" They are under `{bare(root)}/`; with `public_url` in `[report]`, each poster links to its MP4."
    return "\n\n".join([caption, grid(fit, public_url)]) + "\n"


def grid(tiles: Sequence[Tile], public_url: str | None) -> str:
    """The posters alone, as an HTML table."""
    return "\n".join(_lines(tiles, public_url))


def _lines(tiles: Sequence[Tile], public_url: str | None) -> Iterator[str]:
    # A blank line would end the HTML, and the rest would be read as markdown.
    yield '<table cellpadding="8">'
    for first in range(0, len(tiles), ACROSS):
        yield "<tr>"
        for tile in tiles[first : first + ACROSS]:
            yield f'<td valign="top" width="{100 // ACROSS}%">{_cell(tile, public_url)}</td>'
        yield "</tr>"
    yield "</table>"


def _cell(tile: Tile, public_url: str | None) -> str:
    key = layout.clip(tile.job, "mp4")
    picture = base64.b64encode(tile.webp).decode()
    shown = f'<img src="data:image/webp;base64,{picture}" alt="{tile.job[:8]}" title="{key}">'
    words = _words(str(tile.sidecar.get("prompt") or ""))
    about = _about(tile)
    if public_url is None:
        # The full name would be wider than the poster; it is shown on hover.
        named = f"{key.partition(tile.job)[0]}{tile.job[:8]}…"
        return f"{shown}<br>{words}<br><em>{about}</em><br>{named}"
    url = escape(f"{public_url}/{key}")
    named = f"{about}, {tile.job[:8]}"
    return f'<a href="{url}">{shown}</a><br>{words}<br><a href="{url}">{named}</a>'


def _about(tile: Tile) -> str:
    """The lane, and the clip's price."""
    lane, usd = tile.sidecar.get("lane"), tile.sidecar.get("price_usd")
    return escape(f"{lane or ''}, {usd} USD" if usd else str(lane or ""))


def _words(prompt: str) -> str:
    """The beginning of other people's words, in a line."""
    flat = " ".join(prompt.split())
    return escape(flat if len(flat) <= WORDS else flat[: WORDS - 1] + "…")
