"""Posters are small, move, sample a batch evenly, and never cause a failure."""

import io
from itertools import pairwise

import pytest
from PIL import Image

from storage.media import Posters, poster
from storage.media.posters import MOST
from storage.objects import Objects, RetryPolicy
from tasks.batch.contact_sheet import SHOWN, Sheet, Tile, Turns
from tasks.emulator.clips import ClipFormat, render
from tasks.emulator.uploads import Still

pytestmark = pytest.mark.anyio


def test_poster_is_small_and_moves_for_a_busy_clip():
    """A poster is small and moves, even for a clip with much detail."""
    out = io.BytesIO()
    Image.effect_noise((640, 360), 90).convert("RGB").save(out, "PNG")
    cut = ClipFormat(resolution="480p", aspect_ratio="16:9", frames=24, fps=16, move=1)

    webp = poster(render(Still(content=out.getvalue(), sha256="0"), cut))

    with Image.open(io.BytesIO(webp)) as image:
        assert image.n_frames > 1
        assert max(image.size) == 160
    assert len(webp) <= MOST


@pytest.mark.parametrize("clips", [30, 300, 100_000])
def test_sheet_samples_evenly_from_any_number_of_clips(clips):
    """The sheet shows a sample spread evenly over all clips."""
    turns, kept = Turns(), []
    made = 0

    for number in range(1, clips + 1):
        if turns.take(number):
            made += 1
            kept = turns.thinned([*kept, Tile(str(number), b"", {})], number)

    numbers = [int(tile.job) for tile in kept]
    gaps = [later - one for one, later in pairwise(numbers)]
    assert min(clips, SHOWN // 2) <= len(numbers) <= SHOWN
    assert made <= 400
    assert max(gaps) <= 2 * min(gaps)
    assert numbers[0] == 1
    assert numbers[-1] > 0.9 * clips


async def test_a_poster_that_cannot_be_made_or_kept_is_a_tile_less(clip, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "posters").write_text("a file where the folder should be")
    sheet, offers = (
        Sheet(Posters(Objects.open(str(root), retry=RetryPolicy(unavailable_s=0.0)))),
        [],
    )

    async with sheet.made(offers.append):
        [offer] = offers
        offer("aa", b"no MP4 at all", {})
        offer("ab", clip, {"prompt": "pan"})

    assert [(tile.job, tile.sidecar) for tile in sheet.tiles] == [
        ("ab", {"prompt": "pan"})
    ]
    assert sheet.seen == 2
