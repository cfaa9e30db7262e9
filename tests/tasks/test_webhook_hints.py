"""A webhook makes the engine poll at once; without a genuine one it polls as usual."""

import asyncio
import hashlib
import hmac
import json
import time

import httpx
import pytest

from tasks.emulator import Emulator, running
from tasks.webhooks.server import listening

pytestmark = pytest.mark.anyio

SECRET = "c2VjcmV0LW9mLXRlc3Rz"
LATER_S = 40.0
"""The time of the engine's first poll without a webhook."""


def signed(remote: str, secret: str) -> tuple[dict[str, str], bytes]:
    body = json.dumps({"id": remote, "status": "completed", "outputs": []}).encode()
    at = str(int(time.time()))
    mac = hmac.new(secret.encode(), f"evt.{at}.".encode() + body, hashlib.sha256)
    return {
        "webhook-id": "evt",
        "webhook-timestamp": at,
        "webhook-signature": f"v3,{mac.hexdigest()}",
    }, body


@pytest.mark.parametrize(
    ("secret", "status", "looks"), [(SECRET, 204, True), ("another", 401, False)]
)
async def test_webhook_makes_the_engine_poll_unless_it_is_forged(
    worlds, clip, secret, status, looks
):
    """A genuine webhook makes the engine poll at once, and a forged one does not."""
    emulator = Emulator(latency_s=0.2, clip=clip)
    with running(emulator) as url:
        world = worlds(emulator=emulator, url=url, routes=["wavespeed/wan-2.2-spicy"])
        lane = world.lane(world.routes[0])
        lane.polls.learn([LATER_S] * 10)
        async with listening(
            {"wavespeed": f"whsec_{SECRET}"}, port=0, hints_port=0
        ) as doors:

            async def told(batch_run):
                while not batch_run.engine.tally.bought:  # noqa: ASYNC110 - a tally has no event
                    await asyncio.sleep(0.02)
                await asyncio.sleep(0.5)
                headers, body = signed(emulator.bill[0].request_id, secret)
                async with httpx.AsyncClient() as client:
                    at = f"{doors.webhooks}/webhooks/wavespeed"
                    answer = await client.post(at, headers=headers, content=body)
                if looks:
                    while not batch_run.done:  # noqa: ASYNC110 - a count has no event
                        await asyncio.sleep(0.02)
                else:
                    await asyncio.sleep(1.5)
                batch_run.engine.stop("enough seen")
                return answer.status_code

            telling = []
            began = time.monotonic()
            summary = await world.run(
                1,
                lanes=[lane],
                hints_url=doors.hints,
                during=lambda batch_run: telling.append(
                    asyncio.create_task(told(batch_run))
                ),
            )
            took_s = time.monotonic() - began
            assert await telling[0] == status

    assert summary.published == looks
    assert took_s < LATER_S
    assert len(emulator.bill) == 1
