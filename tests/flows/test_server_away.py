"""A shard's flow run outlives a server that is away: whether it lives, its hand tells."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from flows import runners
from flows.settings import SettingsError

pytestmark = pytest.mark.anyio


@pytest.fixture
def run():
    return FlowRun(id=uuid4(), flow_id=uuid4(), name="shard")


@pytest.fixture
def statuses():
    """Of its answers, one after the other, and how the run stands by then."""
    return [(500, "RUNNING"), (503, "RUNNING"), (200, "RUNNING"), (200, "COMPLETED")]


@pytest.fixture
def server(run, statuses):
    """Whatever its status, it says how the run stands."""
    plain = run.model_dump(mode="json", include={"id", "flow_id", "name"})
    answers = iter(statuses)

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            status, state = next(answers)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            said = {**plain, "state": {"type": state, "name": state.title()}}
            self.wfile.write(json.dumps(said).encode())

        def log_message(self, *_):
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as http:
        threading.Thread(target=http.serve_forever).start()
        yield f"http://127.0.0.1:{http.server_port}/api"
        http.shutdown()


async def test_a_server_that_fails_for_a_while_does_not_end_a_shard(
    run, server, monkeypatch
):
    monkeypatch.setattr(runners, "EVERY_S", 0.01)
    mine = {PREFECT_API_URL: server, PREFECT_CLIENT_MAX_RETRIES: 0}

    begun = []
    with temporary_settings(mine):
        await runners._ended(run, lambda: begun.append(1))  # noqa: SLF001 - a shard's wait, alone

    # What it said while its server could be heard; who has begun has to be heard too.
    assert begun == [1]


@pytest.mark.parametrize("statuses", [[(404, "RUNNING")]])
async def test_a_pool_that_nothing_is_deployed_to_is_told_of_before_anything_is_bought(
    server,
):
    mine = {PREFECT_API_URL: server, PREFECT_CLIENT_MAX_RETRIES: 0}

    with temporary_settings(mine), pytest.raises(SettingsError) as refused:
        await runners._refuse_undeployed()  # noqa: SLF001 - before the first shard

    said = "no deployment 'nightreel-shard/shard' on the server: prefect deploy --all"
    assert str(refused.value).endswith(said)
