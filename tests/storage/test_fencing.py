"""A successor seals every stream before it reads, whatever the old writer does meanwhile."""

from collections.abc import Awaitable, Callable

import pytest

from manifests.lifecycle import Accepted, Entry, State
from storage import layout
from storage.ledger import LedgerError, claimant, fencing, open_root
from storage.ledger.codec import pack
from storage.ledger.segments import MAIN
from storage.objects import DamagedError, Objects
from tests.storage.lives import INTENDED, TICKET, at, job

pytestmark = [pytest.mark.anyio, pytest.mark.core]
SHARD = layout.shard(1, 1)
US = claimant(2, "next", 2000.0)


class Raced(Objects):
    """Objects below a root on which another writer acts just before some creates."""

    before: Callable[[str], Awaitable[None]] | None = None

    async def create(self, key, data, **options):
        if self.before is not None:
            await self.before(key)
        return await super().create(key, data, **options)


@pytest.fixture
async def raced(tmp_path) -> Raced:
    """A root whose first batch has a main stream and one shard, and still writes."""
    objects = Raced.open(tmp_path.as_uri())
    await open_root(objects, at(1000))
    first = claimant(1, "night", 1000.0)
    await objects.create(layout.claim(1), first.dump())
    for name in (MAIN, SHARD):
        await written(objects, first.batch, name, 1, Entry(job(name), 1001.0, INTENDED))
    await objects.create(layout.claim(2), US.dump())
    return objects


async def written(objects: Objects, batch: str, name: str, number: int, entry: Entry):
    """Write one entry as a segment of the old writer."""
    key = layout.segment(layout.stream(batch, name), number)
    await Objects.create(objects, key, pack([entry]))


async def test_streams_of_shards_are_sealed_too(raced: Raced):
    batch = claimant(1, "night", 1000.0).batch

    state_index = await fencing.settled(raced, US, whole=False)

    assert {*state_index.lives} == {job(MAIN), job(SHARD)}
    for name in (MAIN, SHARD):
        assert await fencing.is_sealed(raced, layout.stream(batch, name), 2)


@pytest.mark.parametrize("name", [MAIN, SHARD])
@pytest.mark.parametrize("more", [1, 3])
async def test_entries_that_race_the_seal_are_read(raced: Raced, name: str, more: int):
    """The old writer takes the seal's number first: its entries count, and it is sealed
    after them."""
    batch = claimant(1, "night", 1000.0).batch
    stream = layout.stream(batch, name)

    async def race(key: str) -> None:
        if key == layout.segment(stream, 2):
            raced.before = None
            for number in range(2, 2 + more):
                entry = Entry(job(number), 1002.0, INTENDED)
                await written(raced, batch, name, number, entry)
            accepted = Entry(job(name), 1003.0, Accepted(TICKET))
            await written(raced, batch, name, 2 + more, accepted)

    raced.before = race

    state_index = await fencing.settled(raced, US, whole=False)

    assert state_index.lives[job(name)].state is State.ACCEPTED
    assert {job(number) for number in range(2, 2 + more)} <= state_index.lives.keys()
    assert await fencing.is_sealed(raced, stream, 3 + more)


async def test_root_that_cannot_be_read_is_left_free(raced: Raced):
    """The successor seals its own epoch, so that the next run waits for nobody."""
    key = layout.segment(layout.stream(claimant(1, "night", 1000.0).batch, MAIN), 1)
    await raced.put(key, b"damaged")

    with pytest.raises((DamagedError, LedgerError)):
        await fencing.settled(raced, US, whole=False)

    assert await fencing.is_over(raced, US.batch)
