"""Large stills are read and converted a few at a time, whatever number is checked."""

import asyncio
import io
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from manifests.jobs import Job, Order
from storage.media import BadStillError, stills
from storage.sources import OpeningError
from tasks.engine import send_still

pytestmark = pytest.mark.anyio

STILLS = 16
EACH = 30_000_000


@pytest.fixture
def large(tmp_path):
    """A TIFF of few pixels and many bytes."""

    def large(name, count=EACH):
        out = io.BytesIO()
        Image.new("RGB", (320, 320), "red").save(out, "TIFF")
        path = tmp_path / name
        path.write_bytes(out.getvalue().ljust(count, b"\0"))
        return path.as_uri()

    return large


async def checked(uri):
    order = Order(job=Job(image=uri, prompt="pan"), still=uri)
    return await send_still.check(order, min_px=1, convert=True)


async def test_bytes_of_large_stills_are_bounded_in_memory(large):
    """Sixteen at once take less memory than their sum, and all of them are converted."""
    uris = [large(f"{n}.tiff") for n in range(STILLS)]
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(STILLS))

    tracemalloc.start()
    try:
        found = await asyncio.gather(*map(checked, uris))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < STILLS * EACH * 0.75
    assert {each.still.media_type for each in found} == {"image/png"}


async def test_large_still_that_is_refused_makes_room_again(large):
    """After more bad ones than are read at once, a good one is read."""
    for number in range(3):
        with pytest.raises(OpeningError, match="more than 64000000 bytes"):
            await checked(large(f"{number}.tiff", stills.LARGEST_READ + 1))

    assert (await checked(large("good.tiff"))).still.changed


async def test_large_jpeg_is_refused_by_its_size(tmp_path):
    """A format that is sent as it is may not be larger than what providers take."""
    path = tmp_path / "a.jpg"
    Image.new("RGB", (320, 320), "red").save(path)
    path.write_bytes(path.read_bytes().ljust(stills.LARGEST + 1, b"\0"))

    with pytest.raises(BadStillError, match="more than 10000000"):
        await checked(path.as_uri())
