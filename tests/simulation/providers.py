"""Providers without a network: the emulator's own dialects, called in memory, with a
witness for every sale."""

import io
import struct
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from random import Random
from typing import Any, Final

import av
import httpx
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from manifests.catalogue import loader as catalogue
from tasks.emulator import pages
from tasks.emulator.accounts import Account
from tasks.emulator.api import EmulatedApi
from tasks.emulator.app import DIALECTS
from tasks.emulator.clips import Clips
from tasks.emulator.faults import Fault
from tasks.emulator.predictions import ClipSpec, Prediction
from tasks.emulator.prices import price_list
from tasks.emulator.shared import Shared
from tasks.emulator.state import Rules, State
from tasks.emulator.uploads import Stills
from tests.simulation.loop import EPOCH, Node, VirtualLoop

HOST: Final = "http://emulator"

KEPT_S: Final = 30 * 24 * 3600.0
"""Longer than any night: no clip expires."""

ASKER: ContextVar[tuple[Node | None, float]] = ContextVar("ASKER", default=(None, 0.0))
"""The node whose request is being answered, and when it was sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The properties of one provider on a night."""

    latency_s: float
    slots: int
    submits_per_minute: int | None
    jitter: float = 0.3
    stragglers: float = 0.0
    """The share of jobs that take hours."""
    lag_s: float = 0.0
    """How late its listings are."""
    lists: int | None = None
    """The number of latest jobs that its listings show, whatever is asked."""
    dearer: int = 1
    """How many times the prices of its price list it charges."""
    retry_after: bool = False
    chances: Mapping[Fault, float] = field(default_factory=dict)
    refused: float = 0.0
    """The share of requests that never connect."""
    cut: float = 0.0
    """The share of requests whose connection breaks, before or after they were read."""
    silent: float = 0.0
    """The share of requests that get no answer in time, though they may have been
    read."""
    slow: float = 0.0
    """The share of requests that are answered late, but in time."""


WELL: Final = Terms(latency_s=0.0, slots=0, submits_per_minute=None)


@dataclass(slots=True)
class Luck:
    """The emulator's faults, drawn from a night's own seed; none in a quiet run."""

    random: Random
    chances: Mapping[Fault, float]

    def next(
        self, dialect: str, number: int, *, image: str, prompt: str
    ) -> Fault | None:
        del dialect, number, image, prompt
        drawn = self.random.random()
        for fault, chance in self.chances.items():
            if drawn < chance:
                return fault
            drawn -= chance
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Sale:
    """A submit that a provider accepted."""

    at: float
    sent_at: float
    node: Node | None
    provider: str
    account: Account
    made: Prediction
    dearer: int = 1

    @property
    def prompt(self) -> str:
        return self.made.spec.prompt

    @property
    def more_usd(self) -> Decimal:
        """The part of its charge beyond the price list."""
        return self.made.spec.price_usd * (self.dearer - 1) / self.dearer

    @property
    def refunded(self) -> bool:
        return self.made.stage in self.account.terms.refunds


class Reconciliation(State):
    """One provider's world; every sale has a witness."""

    def __init__(self, provider: "Provider", rules: Rules, luck: Luck) -> None:
        super().__init__(rules, luck, provider.loop.time)  # type: ignore[arg-type]
        self._provider = provider
        self._random = Random(luck.random.random())
        # Made before the night's clock runs, it would date all jobs by the real one, and
        # no listing would contain the time of a doubt.
        self._epoch = EPOCH

    def submit(self, account: Account, spec: ClipSpec, image: str) -> Prediction:
        made = super().submit(account, spec, image)
        self._provider.sell(account, made)
        return made

    def listed(self, account: Account) -> list[Prediction]:
        terms = self._provider.terms
        since = self._clock() - terms.lag_s
        every = [each for each in super().listed(account) if each.accepted_at <= since]
        return every[: terms.lists] if self._provider.lists_now else every

    def _latency_s(self, account: Account, number: int) -> float:
        terms = self._provider.terms
        if self._random.random() < terms.stragglers:
            return 3600.0 * (0.2 + 3.0 * self._random.random())
        spread = 1 + terms.jitter * (2 * self._random.random() - 1)
        return terms.latency_s * spread


class Signed(Shared):
    """Takes every still as readable, and signs each clip with its owner's number."""

    async def still(self, prediction: Prediction) -> Any:
        return prediction

    async def clip(self, prediction: Prediction) -> bytes:
        return signed_clip(prediction.id)


class Provider:
    """One provider: its desk, and the wire to it."""

    def __init__(
        self, loop: VirtualLoop, name: str, terms: Terms, luck: Random
    ) -> None:
        self.loop = loop
        self.name = name
        self.terms = terms
        self.random = luck
        self.sales: list[Sale] = []
        self.told: list[Any] = []
        self.under_way: Counter[Node] = Counter()
        """Submits of each node that have no answer yet."""
        self.asked: list[Any] = []
        self.lists_now = False
        """Whether the request that is being answered is for a listing."""
        self.luck = Luck(Random(luck.random()), terms.chances)
        dialect = next(each for each in DIALECTS if each.name == name)
        own = replace(
            dialect.terms,
            slots=terms.slots,
            submits_per_minute=dialect.terms.submits_per_minute
            and terms.submits_per_minute,
            retry_after=terms.retry_after,
        )
        rules = Rules(
            latency_s=terms.latency_s, jitter=0.0, keys=None, keep_s=KEPT_S, seed=0
        )
        self.world = Reconciliation(self, rules, self.luck)
        self.desk = EmulatedApi(
            dialect,
            terms=own,
            offers=_charged(name, terms.dearer),
            shared=Signed(self.world, Stills(), Clips(clip())),
        )
        self._routes = _pages(self.desk)
        self._asked_for: dict[tuple[str, str], Any] = {}

    def calm(self) -> None:
        """End all faults from now on."""
        self.luck.chances = {}
        self.terms = replace(
            self.terms,
            stragglers=0.0,
            refused=0.0,
            cut=0.0,
            silent=0.0,
            slow=0.0,
        )

    def submits(self, method: str, path: str) -> bool:
        """Whether it is the request that costs."""
        return self._page(method, path)[1] == "submit"

    @contextmanager
    def counted(self, node: Node) -> Generator[None]:
        """Count a submit while it is under way."""
        self.under_way[node] += 1
        for tell in self.asked:
            tell(node, self.name, self.under_way[node])
        try:
            yield
        finally:
            self.under_way[node] -= 1

    def sell(self, account: Account, made: Prediction) -> None:
        node, sent_at = ASKER.get()
        dearer, now = self.terms.dearer, self.loop.time()
        sale = Sale(now, sent_at, node, self.name, account, made, dearer)
        self.sales.append(sale)
        for tell in self.told:
            tell(sale)

    def answer(self, request: httpx.Request, body: bytes, path: str) -> Response:
        """The desk's answer, without any wait."""
        page, kind, found = self._page(request.method, path)
        if page is None:
            return Response(status_code=404)
        self.lists_now = kind == "list"
        asked = page(_received(request, body, self.name, found))
        try:
            asked.send(None)
        except StopIteration as end:
            return end.value
        raise RuntimeError(f"{request.method} {path} waits for something")

    def _page(self, method: str, path: str) -> tuple[Any, str, dict[str, str]]:
        """The page for the path, its kind, and the path's parameters."""
        if (known := self._asked_for.get((method, path))) is None:
            known = self._asked_for[method, path] = next(
                (
                    (page, kind, found.groupdict())
                    for methods, pattern, page, kind in self._routes
                    if method in methods and (found := pattern.match(path))
                ),
                (None, "", {}),
            )
        return known


def _pages(desk: EmulatedApi) -> list[Any]:
    """Method, path, page and kind of every page of a desk."""
    kinds: list[str] = []
    named = desk.route

    def route(method: str, path: str, kind: str, handler: Any) -> Any:
        kinds.append(kind)
        return named(method, path, kind, handler)

    desk.route = route  # type: ignore[method-assign]
    routes: list[Any] = pages.routes(desk)
    return [
        (route.methods or set(), route.path_regex, route.endpoint, kind)
        for route, kind in zip(routes, kinds, strict=True)
    ]


def _received(
    request: httpx.Request, body: bytes, name: str, found: dict[str, str]
) -> Request:
    url = request.url
    scope = {
        "type": "http",
        "method": request.method,
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path,
        "root_path": f"/{name}",
        "query_string": url.query,
        "headers": [(key.lower(), value) for key, value in request.headers.raw],
        "server": (url.host, 80),
        "path_params": found,
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive)


@cache
def prices() -> Any:
    return price_list(catalogue.load().routes.values())


def _charged(name: str, times: int) -> dict[str, Any]:
    """The offers of a provider that charges a multiple of its price list."""
    return {
        model: replace(
            offer, prices_usd={kind: times * p for kind, p in offer.prices_usd.items()}
        )
        for model, offer in prices()[name].items()
    }


@cache
def clip() -> bytes:
    """A real MP4, as small as possible."""
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as file:
        stream = file.add_stream("libx264", rate=16)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for shade in range(0, 80, 10):
            image = Image.new("RGB", (64, 48), (shade, 90, 90))
            file.mux(stream.encode(av.VideoFrame.from_image(image)))
        file.mux(stream.encode())
    return out.getvalue()


NAMED: Final = 8 + 32


def signed_clip(remote_id: str) -> bytes:
    """The same clip for every prediction, except a box with its owner's number."""
    name = remote_id.encode().ljust(32)[:32]
    return clip() + struct.pack(">I4s", NAMED, b"free") + name


def whose(mp4: bytes) -> str:
    return mp4[-32:].decode().strip()
