"""Workers side by side: one that dies is restarted, one with bad settings is not."""

import sys

import pytest

from tasks.worker.supervisor import Supervisor

pytestmark = pytest.mark.anyio

ENDS = """
import pathlib, sys
book = pathlib.Path(sys.argv[1])
[code, *rest] = book.read_text().split()
book.write_text(" ".join(rest))
raise SystemExit(int(code))
"""


@pytest.fixture
def ends(tmp_path):
    """Supervises a command that exits with these codes in turn; gives those unused."""
    book = tmp_path / "codes"

    async def ended(codes):
        book.write_text(codes)
        await Supervisor([[sys.executable, "-c", ENDS, str(book)]]).run()
        return book.read_text()

    return ended


async def test_worker_with_bad_settings_is_not_restarted(ends):
    assert await ends("2 0") == "0"


@pytest.mark.slow
async def test_worker_without_its_gpu_yet_is_restarted(ends):
    assert await ends("76 2 0") == ""
