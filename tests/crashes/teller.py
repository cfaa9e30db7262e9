"""Runs the stories of one route: rows, providers over HTTP, and processes to kill."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from manifests.catalogue import loader as catalogue
from tasks.emulator import Emulator, running
from tasks.emulator.prices import price_list
from tasks.providers import PROVIDERS
from tasks.providers.protocol import Findable
from tests.crashes.door import Door, Onward
from tests.crashes.forks import Forks
from tests.crashes.stage import Store, clip, manifest, one_certificate
from tests.crashes.stories import NOWHERE, Story, Telling, Told
from tests.tasks.conftest import KEYS
from tests.tasks.conftest import ROUTES as ALL

ROUTES = [route if isinstance(route, str) else route.values[0] for route in ALL]


@dataclass
class Teller:
    """Runs stories of one route, each with a separate root and provider."""

    folder: Path
    route: str
    forks: Forks
    door: Door
    url: str
    store: Store | None = None
    """The place of its roots, if it is not its folder."""
    stall_s: float = 0.03

    def __post_init__(self) -> None:
        self.manifest = manifest(self.folder, self.route)
        self.clip = clip()
        self.count = 0
        every = catalogue.load()
        self.prices = price_list(every.routes.values())
        known = every.route(self.route)
        self.env = {"SSL_CERT_FILE": str(one_certificate(self.folder))}
        if self.store is not None:
            self.env["AWS_ENDPOINT_URL"] = self.store.url
        self.key = KEYS.get(known.provider, "key")
        provider = PROVIDERS[known.provider](known, self.key)
        # These list the jobs that they accepted, but not by our ids.
        unsure = provider.name in {"wavespeed", "vllm-omni"}
        self.tells = isinstance(provider, Findable) and not unsure

    def warm(self) -> None:
        """Let the first child find out which modules all others need."""
        told = self.tell(Story(self.route, (NOWHERE,)))
        assert not told.broken, str(told)
        self.forks.learn(told.imported)
        assert not self.forks.threads, self.forks.threads

    @property
    def doors(self) -> list[Door]:
        return [self.door, self.store.door] if self.store else [self.door]

    def root(self, folder: Path) -> str:
        """The root of the story with this folder."""
        if self.store is None:
            return (folder / "root").as_uri()
        return self.store.root()

    def tell(self, story: Story) -> Told:
        """Run a story, and check every law."""
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        emulator = Emulator(
            latency_s=0.0,
            slots=1000,
            submits_per_minute=100000,
            clip=self.clip,
            prices=self.prices,
        )
        self.door.open(emulator)
        try:
            one = Telling(self, story, folder, emulator)
            told = one.stopped() if story.stopped else one.killed()
            outs = sorted(folder.glob("process-*/out"))
            told.output = "".join(out.read_text() for out in outs)
            return told
        finally:
            shutil.rmtree(folder)


@contextmanager
def telling(route: str, store: Store | None = None) -> Iterator[Teller]:
    """A teller, with providers over HTTP and processes to kill."""
    door = Door()
    memory = Path("/dev/shm")  # where a sync takes no time
    where = memory if os.access(memory, os.W_OK) else None
    with (
        tempfile.TemporaryDirectory(prefix="crashes-", dir=where) as folder,
        running(door) as url,
        closing(Forks()) as forks,
        ExitStack() as stack,
    ):
        if store is not None:
            store.door.open(Onward(store.port))
            store.url = stack.enter_context(running(store.door))
        teller = Teller(Path(folder), route, forks, door, url, store)
        teller.warm()
        yield teller


def points(teller: Teller, *before: str, elsewhere: bool = False) -> list[str]:
    """Every point of the night after these, by name."""
    story = Story(teller.route, (*before, NOWHERE), elsewhere=elsewhere)
    told = teller.tell(story)
    assert not told.broken, str(told)
    return sorted({*told.trace})
