"""A whole batch with manifest, stills, ledger and clips in object stores."""

import io
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import polars as pl
import pytest
import zstandard
from PIL import Image

from manifests.catalogue import loader as catalogue
from storage.objects import Objects
from tasks.batch.lifespan import begun
from tasks.batch.request import Wanted
from tasks.batch.summary import Summary
from tasks.dispatch import Lane, Limits
from tasks.emulator import Emulator, running
from tasks.engine.engine import Rules
from tasks.providers import PROVIDERS
from tasks.providers.http import Endpoint

pytestmark = pytest.mark.anyio

ROUTES = ["wavespeed/wan-2.2-spicy", "atlas/wan-2.2-spicy", "fal/wan-2.2"]
TURNED = 6
"""The EXIF orientation of a still that lies on its side."""


def still(shade: int, *, orientation: int = 1) -> bytes:
    out = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (320, 240), (shade, 90, 60)).save(out, "JPEG", exif=exif)
    return out.getvalue()


def parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pl.DataFrame(rows).write_parquet(out)
    return out.getvalue()


def lane(route: str, url: str) -> Lane:
    known = catalogue.load().route(route)
    provider = PROVIDERS[known.provider](known, "a key")
    return Lane(
        name=known.provider,
        route=known,
        endpoint=Endpoint(provider, httpx.URL(f"{url}/{known.provider}")),
        limits=Limits(slots=2, submits_per_minute=6000, queues=known.queues),
    )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One manifest, one root, and every provider."""

    manifest: str
    root: str
    emulator: Emulator
    url: str

    async def run(self, *routes: str) -> Summary:
        async with begun(
            Wanted(manifest=self.manifest, root=self.root),
            lanes=[lane(route, self.url) for route in routes or ROUTES],
            rules=Rules(),
        ) as batch_run:
            for number in range(len(batch_run.shards)):
                await batch_run.run_shard(number)
        return batch_run.summary()

    def asked(self, kind: str) -> int:
        counts = self.emulator.stats()["requests"].values()
        return sum(requests.get(kind, 0) for requests in counts)

    async def clips_table(self) -> pl.DataFrame:
        objects = Objects.open(self.root)
        keys = [stored.key async for stored in objects.list("tables/clips")]
        return pl.read_parquet(await objects.get(max(keys)))


@pytest.fixture(params=["s3", "memory"])
def root(request, s3_root) -> str:
    """The root, in S3 or in memory; the manifest is in S3 either way."""
    return s3_root if request.param == "s3" else f"memory://{secrets.token_hex(6)}"


@pytest.fixture
def inbox(s3_root) -> Objects:
    """A folder in S3, as the owner of the stills accesses it."""
    return Objects.open(f"{s3_root}/inbox")


@pytest.fixture
def begin(root, inbox, clip) -> Callable[..., Any]:
    emulator = Emulator(latency_s=0.1, slots=100, submits_per_minute=100000, clip=clip)
    with running(emulator) as url:

        async def made(rows: list[dict[str, Any]]) -> Batch:
            await inbox.put("m.parquet", parquet(rows))
            uri = inbox.uri("m.parquet")
            return Batch(manifest=uri, root=root, emulator=emulator, url=url)

        yield made


async def test_batch_in_object_stores_is_whole_and_not_rebought(begin, inbox, root):
    """A batch in object stores is complete and is not bought again."""
    names = [f"a still {n}.jpg" for n in range(6)]
    for n, name in enumerate(names):
        await inbox.put(f"stills/{name}", still(40 * n))
    batch = await begin([{"image": f"stills/{n}", "prompt": n} for n in names])

    first = await batch.run()
    again = await batch.run()

    objects = Objects.open(root)
    table = await batch.clips_table()
    kept = {
        uri: await objects.get(uri.removeprefix(f"{root}/")) for uri in table["uri"]
    }
    images = {line.image.partition("?")[0] for line in batch.emulator.bill}
    prompts = [line.prompt for line in batch.emulator.bill]
    assert (first.published, first.bought, first.exit_code) == (6, 6, 0)
    assert (again.published, again.bought, again.spent_usd) == (6, 0, 0)
    assert sorted(prompts) == names
    assert first.spent_usd == batch.emulator.total_usd
    assert all(mp4[4:8] == b"ftyp" for mp4 in kept.values())
    assert len(kept) == 6
    # The providers fetched the stills by presigned links, and none was uploaded.
    assert batch.asked("upload") == 0
    assert all("/inbox/stills/" in image for image in images)


@pytest.mark.parametrize("route", ROUTES)
async def test_provider_reads_a_still_in_place_or_gets_the_mended_one(
    begin, inbox, route
):
    """Every provider reads a still where it is, or is sent the mended one."""
    await inbox.put("stills/plain.jpg", still(10))
    await inbox.put("stills/turned.jpg", still(20, orientation=TURNED))
    batch = await begin(
        [{"image": f"stills/{n}.jpg", "prompt": n} for n in ("plain", "turned")]
    )

    summary = await batch.run(route)

    images = {line.prompt: line.image for line in batch.emulator.bill}
    assert (summary.published, summary.exit_code) == (2, 0)
    assert images["plain"].endswith("/inbox/stills/plain.jpg")
    assert images["turned"].startswith("sha256:")


async def test_no_signature_is_kept_in_the_store(begin, inbox, root):
    await inbox.put("stills/one.jpg", still(10))
    batch = await begin(
        [
            {"image": "stills/one.jpg", "prompt": "a"},
            {"image": "stills/none.jpg", "prompt": "b"},
        ]
    )

    summary = await batch.run()

    objects = Objects.open(root)
    [reason] = (await batch.clips_table()).filter(pl.col("prompt") == "b")["reason"]
    kept = {
        stored.key: await objects.get(stored.key)
        async for stored in objects.list()
        if stored.key.endswith((".json", ".zst"))
    }
    texts = [
        zstandard.decompress(data) if key.endswith(".zst") else data
        for key, data in kept.items()
    ]
    assert (summary.published, summary.rejected) == (1, 1)
    assert reason.endswith(f"{inbox.uri('stills/none.jpg')}: no such file")
    assert not any(b"Signature" in text for text in texts)
    assert any(b'"published"' in text for text in texts)


async def test_inline_stills_in_a_manifest_need_no_store(begin):
    """Stills inside the manifest itself need no other place."""
    rows = [{"image_bytes": still(60 * n), "prompt": f"pan {n}"} for n in range(3)]
    batch = await begin([*rows, rows[0], {"image_bytes": b"", "prompt": "pan 3"}])

    first = await batch.run()
    again = await batch.run()

    table = await batch.clips_table()
    assert (first.rows, first.jobs, first.published, first.rejected) == (5, 3, 4, 1)
    assert (again.published, again.bought) == (4, 0)
    assert len(batch.emulator.bill) == 3
    assert {line.image[:7] for line in batch.emulator.bill} == {"sha256:"}
    assert "image_bytes" not in table.columns
    assert table["state"].to_list() == ["published"] * 4 + ["invalid"]
