"""A server that is away costs a batch its view, and causes one line and no delay."""

import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from prefect.client.orchestration import PrefectClient

from flows.dashboard.artifacts import AGAIN_S, Artifacts
from flows.dashboard.log_relay import SAID, WINDOW_S, Relay

pytestmark = pytest.mark.anyio


@pytest.fixture
def server():
    """Answers with the status in `server.says` and keeps each request."""

    class Door(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            server.seen.append((self.command, json.loads(body)))
            gone = self.command == "PATCH" and server.gone
            reply = json.dumps({"id": "3f0c0b4e-0f0d-4d7c-8f0e-9f3a2b1c0d1e"}).encode()
            self.send_response(404 if gone else server.says)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_POST = do_PATCH = answer  # noqa: N815 - the name that http.server defines

        def do_GET(self) -> None:
            # The client only asks whether it needs a CSRF token: it does not.
            self.send_error(404)

        def log_message(self, *_) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Door)
    server.seen, server.says, server.gone = [], 201, False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


async def test_server_in_trouble_is_left_alone_then_brought_up_to_date(server, caplog):
    """A server in trouble gets no artifacts until it is back, then the latest ones."""
    clock = [0.0]
    server.says = 500
    api = f"http://127.0.0.1:{server.server_port}/api"

    async with PrefectClient(api=api) as client:
        shown = Artifacts(client, lambda: clock[0])
        for second in range(9):
            clock[0] = second
            await shown.progress("clips", float(second), "at work")
        asked = len(server.seen)
        server.says, clock[0] = 201, AGAIN_S[0] + 1
        await shown.progress("clips", 20.0, "at work")
        await shown.progress("clips", 20.0, "at work")
        await shown.progress("clips", 30.0, "at work")

    assert asked == 1
    methods = [method for method, _ in server.seen]
    assert methods == ["POST", "POST", "PATCH"]
    assert server.seen[-1][1] == {"data": 30.0, "description": "at work"}
    events = [record.message.split(" ")[0] for record in caplog.records]
    assert events == ["prefect.unavailable", "prefect.recovered"]


async def test_an_artifact_that_was_deleted_is_made_anew(server, caplog):
    api = f"http://127.0.0.1:{server.server_port}/api"

    async with PrefectClient(api=api) as client:
        shown = Artifacts(client)
        await shown.progress("clips", 10.0, "at work")
        server.gone = True
        await shown.progress("clips", 20.0, "at work")
        server.gone = False
        await shown.progress("clips", 30.0, "at work")

    sent = [(method, asked["data"]) for method, asked in server.seen]
    assert sent == [
        *(("POST", 10.0), ("PATCH", 20.0), ("POST", 20.0)),
        ("PATCH", 30.0),
    ]
    assert caplog.records == []


def test_runs_log_shows_the_first_of_a_kind_and_counts_the_rest():
    """The run's log shows the first line of a kind and counts the others."""
    clock, told = [0.0], []
    to = logging.getLogger("test.run")
    to.addHandler(handler := logging.Handler())
    handler.emit = lambda record: told.append((record.run, record.getMessage()))
    relay = Relay(logging.LoggerAdapter(to, {"run": "tonight"}), lambda: clock[0])
    engine = logging.getLogger("test.engine")
    engine.addHandler(relay)

    for job in range(100):
        engine.warning("job.broken job=%d", job)
    engine.info("clip.published job=1")
    engine.warning("lane.closed lane=spicy no credit")
    clock[0] = WINDOW_S + 1
    engine.warning("job.broken job=100")
    relay.close()

    counted = f"job.broken: {100 - SAID} more within 1 min; the process's log has them"
    assert told == [
        *(("tonight", f"job.broken job={job}") for job in range(SAID)),
        ("tonight", "lane.closed lane=spicy no credit"),
        ("tonight", counted),
        ("tonight", "job.broken job=100"),
    ]
