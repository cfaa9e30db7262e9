"""A shard's flow run survives a server that is away; its hand shows that it lives."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_CLIENT_CSRF_SUPPORT_ENABLED,
    PREFECT_CLIENT_MAX_RETRIES,
    temporary_settings,
)

from flows.config import SettingsError
from flows.prefect_runtime import work_pool

pytestmark = pytest.mark.anyio


@pytest.fixture
def run():
    return FlowRun(id=uuid4(), flow_id=uuid4(), name="shard")


@pytest.fixture
def statuses():
    """The HTTP status of each answer in turn, and the state of the run it reports."""
    return [(500, "RUNNING"), (503, "RUNNING"), (200, "RUNNING"), (200, "COMPLETED")]


@pytest.fixture
def set_states():
    """The types of the states that the server was asked to set."""
    return []


@pytest.fixture
def server(run, statuses, set_states):
    """A server whose every answer states the run's state, whatever the HTTP status."""
    plain = run.model_dump(mode="json", include={"id", "flow_id", "name"})
    answers = iter(statuses)

    class Server(BaseHTTPRequestHandler):
        def do_GET(self):
            status, state = next(answers)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            answer = {**plain, "state": {"type": state, "name": state.title()}}
            self.wfile.write(json.dumps(answer).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            state = {**body["state"], "name": body["state"]["type"].title()}
            accepted = {"status": "ACCEPT", "details": {"type": "accept_details"}}
            self.wfile.write(json.dumps({**accepted, "state": state}).encode())
            set_states.append(state["type"])

        def log_message(self, *_):
            """Suppresses the log, which has no reader."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Server) as http:
        threading.Thread(target=http.serve_forever).start()
        yield f"http://127.0.0.1:{http.server_port}/api"
        http.shutdown()


class Slow(BaseHTTPRequestHandler):
    """A server that creates runs at once and answers late."""

    run, asked = None, None

    def do_GET(self):
        plain = {"id": str(uuid4()), "flow_id": str(self.run.flow_id), "name": "shard"}
        flow = {"id": str(self.run.flow_id), "name": "nightreel-shard"}
        self.say(flow if "/flows/" in self.path else plain)

    def do_POST(self):
        size = int(self.headers["Content-Length"])
        body = json.loads(self.rfile.read(size))
        self.asked.append((self.path, body))
        if self.path.endswith("create_flow_run"):
            self.created.set()
            self.late.wait(10)
        state = {"type": "SCHEDULED", "name": "Scheduled"}
        run = self.run.model_dump(mode="json", include={"id", "flow_id", "name"})
        accepted = {"status": "ACCEPT", "details": {"type": "accept_details"}}
        is_state = self.path.endswith("set_state")
        self.say({**accepted, "state": state} if is_state else {**run, "state": state})

    def say(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_):
        """Suppresses the log, which has no reader."""


@pytest.fixture
def slow(run):
    created, late = threading.Event(), threading.Event()
    known = {"run": run, "asked": [], "created": created, "late": late}
    handler = type("Its", (Slow,), known)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        threading.Thread(target=http.serve_forever).start()
        handler.url = f"http://127.0.0.1:{http.server_port}/api"
        yield handler
        http.shutdown()


async def test_run_unwanted_by_the_time_it_is_created_is_cancelled(run, slow):
    """A flow run that is no longer wanted once it is created is cancelled."""
    overrides = {
        PREFECT_API_URL: slow.url,
        PREFECT_CLIENT_MAX_RETRIES: 0,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False,
    }
    start = work_pool.in_pool({"batch": "000001-m"})

    with temporary_settings(overrides):
        shard = asyncio.ensure_future(start(7, 1, lambda: None))
        await asyncio.to_thread(slow.created.wait, 10)
        shard.cancel()
        await asyncio.sleep(0)
        slow.late.set()
        await asyncio.wait({shard}, timeout=10)

    [created, given_up] = slow.asked
    assert shard.cancelled()
    assert created[1]["parameters"] == {"batch": "000001-m", "shard": 7}
    assert created[1]["tags"] == ["nightreel", "000001-m"]
    assert given_up[0] == f"/api/flow_runs/{run.id}/set_state"
    assert given_up[1]["state"]["type"] == "CANCELLED"


async def test_a_server_that_fails_for_a_while_does_not_end_a_shard(
    run, server, monkeypatch
):
    monkeypatch.setattr(work_pool, "EVERY_S", 0.01)
    overrides = {PREFECT_API_URL: server, PREFECT_CLIENT_MAX_RETRIES: 0}

    begun = []
    with temporary_settings(overrides):
        await work_pool._ended(run, lambda: begun.append(1))  # noqa: SLF001 - tests the wait for one shard

    # The run reported its start while the server was reachable, and only once.
    assert begun == [1]


@pytest.mark.parametrize("statuses", [[(200, "PENDING"), (200, "CRASHED")]])
async def test_run_that_never_begins_is_ended_as_crashed(
    run, server, set_states, monkeypatch
):
    """A run whose worker never begins it is crashed, so that another run is started."""
    monkeypatch.setattr(work_pool, "EVERY_S", 0.01)
    monkeypatch.setattr(work_pool, "LOST_S", 0.0)
    overrides = {
        PREFECT_API_URL: server,
        PREFECT_CLIENT_MAX_RETRIES: 0,
        PREFECT_CLIENT_CSRF_SUPPORT_ENABLED: False,
    }

    begun = []
    with temporary_settings(overrides), pytest.raises(work_pool.ShardError):
        await work_pool._ended(run, lambda: begun.append(1))  # noqa: SLF001 - tests the wait for one shard

    assert (set_states, begun) == (["CRASHED"], [])


@pytest.mark.parametrize("statuses", [[(404, "RUNNING")]])
async def test_pool_without_a_deployment_is_reported_before_buying(server):
    """A pool without a deployment is reported before anything is bought."""
    overrides = {PREFECT_API_URL: server, PREFECT_CLIENT_MAX_RETRIES: 0}

    with temporary_settings(overrides), pytest.raises(SettingsError) as refused:
        await work_pool.refuse_undeployed()

    message = (
        "no deployment 'nightreel-shard/shard' on the server: prefect deploy --all"
    )
    assert str(refused.value).endswith(message)
