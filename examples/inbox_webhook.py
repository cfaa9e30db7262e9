"""A store's notifications as a reason to look into the inbox at once.

    python examples/inbox_webhook.py s3://my-bucket/inbox s3://my-bucket/nightreel

Whatever is posted here, from S3 by SNS or EventBridge, from GCS by Pub/Sub, has it look,
and tell the Prefect server at PREFECT_API_URL of each manifest that is new. Nothing that
is posted is believed: who forges a notification has made it look, and nothing else. The
deployment `watch` stays as it is, at every quarter of an hour: notifications get lost.
"""

import argparse
import asyncio
import base64
import logging
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flows.prefect_runtime.inbox_events import Watch, event
from storage.objects.errors import StorageError

log = logging.getLogger("inbox")


async def tell(watch: Watch, server: httpx.AsyncClient) -> None:
    """Tell the server of each manifest that is new: a store's objects are whole."""
    for drop, turn in await watch.landed(settle_s=0):
        # The deployment `watch` tells of it again, and sees whether a run waits for that.
        if turn == 1 and await watch.register.announce(drop, turn):
            said = {
                **event(drop, watch.root),
                "id": str(uuid.uuid4()),
                "occurred": datetime.now(UTC).isoformat(),
            }
            (await server.post("events", json=[said])).raise_for_status()
            log.info("%s: landed, %d bytes", drop.uri, drop.size)


def app(watch: Watch, server: httpx.AsyncClient) -> Starlette:
    stirred = asyncio.Event()

    async def keep_telling() -> None:
        while await stirred.wait():
            stirred.clear()
            try:
                await tell(watch, server)
            except (StorageError, httpx.HTTPError) as exc:
                log.warning("%s: %s", type(exc).__name__, exc)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        telling = asyncio.create_task(keep_telling())
        yield
        telling.cancel()
        with suppress(asyncio.CancelledError):
            await telling

    async def notified(request: Request) -> Response:
        # SNS begins with a link that its owner opens once, to say that this is wanted.
        if request.headers.get("x-amz-sns-message-type") == "SubscriptionConfirmation":
            log.warning("confirm the subscription: %s", await request.body())
        stirred.set()
        return Response(status_code=204)

    return Starlette(routes=[Route("/", notified, methods=["POST"])], lifespan=lifespan)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("inbox", help="URI that manifests are dropped under")
    parser.add_argument("root", help="URI that their clips go under")
    parser.add_argument("--port", type=int, default=8600, help="on 127.0.0.1")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    watch = Watch.open(asked.inbox, asked.root)
    server = httpx.AsyncClient(
        base_url=os.environ["PREFECT_API_URL"], headers=login(), timeout=30
    )
    uvicorn.run(app(watch, server), port=asked.port, log_level="warning")


def login() -> dict[str, str]:
    """What a server with PREFECT_SERVER_API_AUTH_STRING wants to be told."""
    said = os.environ.get("PREFECT_API_AUTH_STRING", "")
    word = base64.b64encode(said.encode()).decode()
    return {"Authorization": f"Basic {word}"} if said else {}


if __name__ == "__main__":
    main()
