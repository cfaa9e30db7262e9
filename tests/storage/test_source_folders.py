"""The files of a folder in a real store are listed as they are read."""

import pytest

from storage import sources
from storage.objects import Objects
from storage.source_folders import files
from storage.sources import OpeningError
from tests.storage.servers import Cloud


@pytest.mark.anyio
async def test_folder_of_a_store_is_listed_and_read(cloud: Cloud):
    """Names come in order, with their partitions, and their URIs open."""
    root = cloud.root()
    objects = Objects.open(root)
    names = ["day=2/b c.parquet", "day=1/a%20+.parquet", "_x/c.parquet", "_SUCCESS"]
    for name in names:
        await objects.create(name, name.encode())

    found = files(f"{root}/")

    assert [file.name for file in found] == ["day=1/a%20+.parquet", "day=2/b c.parquet"]
    assert [file.partitions for file in found] == [{"day": "1"}, {"day": "2"}]
    assert [sources.read(file.uri, 99).decode() for file in found] == [
        file.name for file in found
    ]
    assert files(f"{root}/day=*/b*.parquet") == found[1:]
    await objects.put("day=1/a%20+.parquet", b"anew")
    assert files(f"{root}/")[0].version != found[0].version


def test_empty_folder_of_a_store_has_no_manifest(cloud: Cloud):
    """A folder without Parquet files is named."""
    with pytest.raises(OpeningError, match=r"no \*\.parquet file in"):
        files(f"{cloud.root()}/")


def test_missing_bucket_is_called_so(cloud: Cloud):
    """A still or a manifest in a missing bucket is not just a missing file."""
    cloud.root()
    bucket = f"{cloud.scheme}://no-such-bucket-there"

    for ask in (
        lambda: sources.read(f"{bucket}/a.jpg", 9),
        lambda: files(f"{bucket}/night/"),
    ):
        with pytest.raises(OpeningError, match="there is no such bucket") as caught:
            ask()
        assert not caught.value.passing


def test_key_with_an_empty_name_is_not_supported(cloud: Cloud):
    """The store's client would read another key, or none."""
    with pytest.raises(OpeningError, match=r"has // in its key, which cannot be read"):
        sources.read(f"{cloud.root()}/a//b.jpg", 9)
