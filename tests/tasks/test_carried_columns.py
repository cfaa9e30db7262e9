"""Manifests with columns that the tables cannot repeat as they are, over real HTTP."""

import logging
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.emulator import running
from tests.manifests.test_carried import INTERVAL, annotate, damage

pytestmark = pytest.mark.anyio


@pytest.fixture
def atlas(worlds, emulator):
    with running(emulator) as url:
        yield worlds(emulator=emulator, url=url, routes=["atlas/wan-2.2-spicy"])


async def test_odd_columns_do_not_cost_the_tables(atlas, caplog):
    """The clips are bought once and the tables are written; the columns are named."""
    uri = atlas.manifest([{"prompt": "pan 0", "sku": "s0", "note": "n0"}])
    path = atlas.folder / urlsplit(uri).path.rpartition("/")[2]
    rows = pq.read_table(path)
    rows = rows.append_column("gap", pa.array([b"0" * 12], pa.binary(12)))
    pq.write_table(rows, path, store_schema=False)
    annotate(path, INTERVAL)
    damage(path, "sku")

    with caplog.at_level(logging.WARNING, "tasks.batch.request"):
        summary = await atlas.run(uri)

    clips = atlas.table("clips")
    told = [x.message for x in caplog.records if "column_changed" in x.message]
    assert (summary.published, summary.bought) == (1, 1)
    assert clips["gap"].to_list() == [b"0" * 12]
    assert clips["note"].to_list() == ["n0"]
    assert "sku" not in clips.columns
    assert [line.split()[1] for line in told] == ["column='gap'", "column='sku'"]
