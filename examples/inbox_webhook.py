"""Receives a store's notifications, and looks into the inbox at once.

    python examples/inbox_webhook.py s3://my-bucket/inbox s3://my-bucket/nightreel

Any post, from S3 by SNS or EventBridge or from GCS by Pub/Sub, makes it look, and start a run
on the Prefect server at PREFECT_API_URL for each new manifest. It trusts nothing in a post:
a forged notification only makes it look. Keep the deployment `watch`, every quarter of an
hour: notifications get lost.
"""

import argparse
import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import httpx
import uvicorn
from prefect.exceptions import PrefectHTTPStatusError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from flows.config import SettingsError
from flows.prefect_runtime import DEPLOYMENT, Watch, start_runs
from storage.objects import StorageError

log = logging.getLogger("inbox")


FAILURES = (StorageError, SettingsError, PrefectHTTPStatusError, httpx.HTTPError)


def app(inbox: str, root: str, deployment: str) -> Starlette:
    stirred = asyncio.Event()

    async def keep_looking(watch: Watch) -> None:
        while await stirred.wait():
            stirred.clear()
            try:
                # An object in a store is always whole.
                for drop in await start_runs(watch, deployment, settle_s=0):
                    log.info("%s: landed, %d bytes", drop.uri, drop.size)
            except FAILURES as exc:
                log.warning("%s: %s", type(exc).__name__, exc)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        watch = await Watch.open(inbox, root)
        looking = asyncio.create_task(keep_looking(watch))
        yield
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking

    async def notified(request: Request) -> Response:
        # SNS first sends a link, which the owner opens once to confirm the subscription.
        if request.headers.get("x-amz-sns-message-type") == "SubscriptionConfirmation":
            log.warning("confirm the subscription: %s", await request.body())
        stirred.set()
        return Response(status_code=204)

    return Starlette(routes=[Route("/", notified, methods=["POST"])], lifespan=lifespan)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("inbox", help="URI that manifests are dropped under")
    parser.add_argument("root", help="URI that their clips go under")
    parser.add_argument("--deployment", default=DEPLOYMENT, help="what is started")
    parser.add_argument("--port", type=int, default=8600, help="on 127.0.0.1")
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    listening = app(asked.inbox, asked.root, asked.deployment)
    uvicorn.run(listening, port=asked.port, log_level="warning")


if __name__ == "__main__":
    main()
