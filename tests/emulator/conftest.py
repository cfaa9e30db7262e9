"""A client of the emulator: plain HTTP over real sockets, without our adapters."""

import base64
import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import httpx
import pytest
from PIL import Image

from tasks.emulator import Emulator, running

SUBMIT = {
    "wavespeed": "/wavespeed/api/v3/wavespeed-ai/wan-2.2-spicy/image-to-video",
    "atlas": "/atlas/api/v1/model/generateVideo",
    "fal": "/fal/fal-ai/wan/v2.2-a14b/image-to-video",
}
POLL = {
    "wavespeed": "/wavespeed/api/v3/predictions/{}/result",
    "atlas": "/atlas/api/v1/model/prediction/{}",
    "fal": "/fal/fal-ai/wan/requests/{}",
}


@dataclass
class Clock:
    """A clock that moves only when a test moves it."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def photograph(width: int, height: int) -> bytes:
    """A JPEG with content whose motion is visible."""
    shade = Image.radial_gradient("L").resize((width, height))
    slope = Image.linear_gradient("L").resize((width, height))
    file = io.BytesIO()
    Image.merge("RGB", (shade, slope, slope)).save(file, "JPEG")
    return file.getvalue()


class Customer:
    """A client with a key for every provider."""

    def __init__(self, base: str, http: httpx.Client, still: bytes) -> None:
        self.base = base
        self.http = http
        self.image = f"data:image/jpeg;base64,{base64.b64encode(still).decode()}"

    def headers(self, dialect: str, key: str = "a-key") -> dict[str, str]:
        if not key:
            return {}
        return {"Authorization": f"{'Key' if dialect == 'fal' else 'Bearer'} {key}"}

    def submit(
        self, dialect: str, *, key: str = "a-key", **fields: object
    ) -> httpx.Response:
        body: dict[str, object] = {"prompt": "slow dolly in", "resolution": "480p"}
        body["image_url" if dialect == "fal" else "image"] = self.image
        if dialect == "atlas":
            body["model"] = "alibaba/wan-2.2-spicy/image-to-video"
        wanted = {
            name: value for name, value in (body | fields).items() if value is not None
        }
        url = self.base + SUBMIT[dialect]
        return self.http.post(url, json=wanted, headers=self.headers(dialect, key))

    def buy(self, dialect: str, **fields: object) -> str:
        """Submits a job and checks the answer; returns the prediction's id."""
        answer = self.submit(dialect, **fields).raise_for_status().json()
        return answer["request_id"] if dialect == "fal" else answer["data"]["id"]

    def poll(self, dialect: str, prediction: str) -> httpx.Response:
        """Requests the result; at fal this is a different request from the status."""
        url = self.base + POLL[dialect].format(prediction)
        return self.http.get(url, headers=self.headers(dialect))

    def clip_url(self, dialect: str, prediction: str) -> str:
        answer = self.poll(dialect, prediction).raise_for_status().json()
        if dialect == "fal":
            return answer["video"]["url"]
        return answer["data"]["outputs"][0]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def still() -> bytes:
    return photograph(320, 200)


@pytest.fixture(scope="session")
def take_photograph() -> Callable[[int, int], bytes]:
    return photograph


@pytest.fixture
def emulate(still: bytes) -> Iterator[Callable[[Emulator], Customer]]:
    """Starts an emulator on a port and returns a client of it."""
    with ExitStack() as stack:

        def serve(emulator: Emulator) -> Customer:
            base = stack.enter_context(running(emulator))
            return Customer(base, stack.enter_context(httpx.Client()), still)

        yield serve
