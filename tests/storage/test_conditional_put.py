"""No run buys anything on a store that overwrites existing objects."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.layout import CREATE_ONLY
from storage.ledger import Ledger, LedgerError
from storage.objects import Objects
from tests.storage.lives import INTENDED, job, keys
from tests.storage.proxies import FaultyProxy, Relay
from tests.storage.simulated import Simulated, run

pytestmark = pytest.mark.anyio


class Careless(Simulated):
    """A store that does not support conditional creation."""

    async def put_async(self, path: str, file: Any, *, mode: str, **more: Any) -> Any:
        return await super().put_async(path, file, mode="overwrite", **more)


def careless(request: bytes) -> bytes:
    """Hide the conditional header from the server."""
    return request.replace(b"\r\nif-none-match:", b"\r\nx-none-match:", 1)


async def test_overwriting_server_is_refused(
    s3_root: str, s3_port: int, through: Callable[[int], None]
):
    """A server that overwrites objects is refused, by name, in every run."""
    relay = Relay(s3_port, careless)
    through(relay.start())

    message = f"^{s3_root}: this store put {CREATE_ONLY} a second time"
    with pytest.raises(LedgerError, match=message):
        await Ledger.open(Objects.open(s3_root), name="night")
    # The check does not end with the first run.
    with pytest.raises(LedgerError, match=message):
        await Ledger.open(Objects.open(s3_root), name="night")

    assert await keys(Objects.open(s3_root)) == [CREATE_ONLY]
    relay.stop()


def test_runs_at_once_on_an_overwriting_store_are_refused():
    """All runs that begin at once on a store that overwrites are refused."""

    async def night() -> None:
        store = Careless(delay_s=0.1)
        told = await asyncio.gather(
            *(Ledger.open(store.objects(), name=name) for name in "abc"),
            return_exceptions=True,
        )

        assert [type(one) for one in told] == [LedgerError] * 3
        assert [*store.kept] == [CREATE_ONLY]

    run(night)


@pytest.mark.parametrize("lost", [1, 2])
async def test_a_lost_answer_is_not_taken_for_a_store_that_overwrites(
    s3_root: str, proxy: FaultyProxy, through: Callable[[int], None], lost: int
):
    async with proxy.serve() as port:
        through(port)
        proxy.fault.lose_answers = lost

        ledger = await Ledger.open(Objects.open(s3_root), name="night")

        await ledger.record(job("a"), INTENDED)
        await ledger.close()


def test_from_the_second_run_on_it_is_put_once_and_looked_at():
    async def night() -> list[str]:
        store = Simulated()
        await (await Ledger.open(store.objects(), name="first")).close()
        store.asked.clear()
        await (await Ledger.open(store.objects(), name="second")).close()
        return [what for what, path, _ in store.asked if path == CREATE_ONLY]

    assert run(night) == ["put", "get"]


async def test_a_local_disk_is_not_asked(tmp_path: Path):
    objects = Objects.open(str(tmp_path))

    await (await Ledger.open(objects, name="night")).close()

    assert CREATE_ONLY not in await keys(objects)
