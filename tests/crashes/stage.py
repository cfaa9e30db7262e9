"""The set-up of a story: rows, a clip, and a store that is not a folder."""

import io
import secrets
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import av
import certifi
import polars as pl
from PIL import Image

from manifests.catalogue import loader as catalogue
from tests.crashes.door import Door
from tests.crashes.points import place

JOBS = 2


def clip() -> bytes:
    """A real MP4, small and quickly decoded."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in (0, 60, 120):
            image = Image.new("RGB", (64, 48), (shade, 90, 90))
            file.mux(stream.encode(av.VideoFrame.from_image(image)))
        file.mux(stream.encode())
    return out.getvalue()


def manifest(folder: Path, route: str) -> str:
    """Some rows that a route can make, with different stills and seeds."""
    made = catalogue.load().route(route).prices_usd
    resolution, seconds = ("480p", 5) if ("480p", 5) in made else next(iter(made))
    rows = []
    for number in range(JOBS):
        Image.new("RGB", (640, 360), (90 * number, 90, 90)).save(
            folder / f"{number}.jpg"
        )
        rows.append(
            {
                "image": f"{number}.jpg",
                "prompt": f"pan {number}",
                "seed": number,
                "resolution": resolution,
                "duration_s": seconds,
            }
        )
    path = folder / "m.parquet"
    pl.DataFrame(rows).write_parquet(path)
    return path.as_uri()


def one_certificate(folder: Path) -> Path:
    """A list of certificate authorities that loads quickly: nothing here uses TLS."""
    path = folder / "authorities.pem"
    end = "-----END CERTIFICATE-----"
    path.write_text(certifi.contents().partition(end)[0] + end + "\n")
    return path


@dataclass
class Store:
    """An S3 server, with a door in front of it."""

    port: int
    door: Door = field(default_factory=lambda: Door(bare=key_of))
    url: str = ""

    def root(self) -> str:
        """A root in a new bucket: this server scans a whole bucket."""
        bucket = f"bucket-{secrets.token_hex(6)}"
        url = f"http://127.0.0.1:{self.port}/{bucket}"
        urllib.request.urlopen(urllib.request.Request(url, method="PUT")).close()
        return f"s3://{bucket}/night"


def key_of(path: str) -> str:
    """The name of a request to the store."""
    _, _, key = path.partition("/night/")
    return place(key or "a list")
