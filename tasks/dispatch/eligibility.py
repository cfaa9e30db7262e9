"""Which lanes may make a job, and which of them should: pure.

A lane can make a job if its route serves the job's model, content class, resolution,
duration and aspect, at a price within the row's limit. A row that names several models
gets the first of them that is to be had.
"""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Literal, NamedTuple, Protocol, TypeVar

from manifests.catalogue.routes import Route
from manifests.jobs import AspectRatio, Content, Job, Order, Resolution

Policy = Literal["cheapest", "fastest", "balanced"]
"""The least money that the deadline allows; the least time; or at each moment the
cheapest lane that is free."""


class Routed(Protocol):
    """Whatever has a route and a name: a lane, or the plan of one."""

    @property
    def name(self) -> str: ...
    @property
    def route(self) -> Route: ...


R = TypeVar("R", bound=Routed)


class Kind(NamedTuple):
    """All that decides which lanes can make a job, and at what price."""

    model: str
    content: Content | Literal[""]
    resolution: Resolution
    duration_s: int
    aspect_ratio: AspectRatio
    negative: bool
    max_usd: Decimal | None


def kind_of(order: Order) -> Kind:
    job = order.job
    return Kind(
        job.model,
        job.content,
        job.resolution,
        job.duration_s,
        job.aspect_ratio,
        bool(job.negative_prompt),
        order.max_usd,
    )


def standing_for(kind: Kind) -> Order:
    """An order of this kind, to ask the rules about."""
    job = Job(
        image="",
        prompt="",
        model=kind.model,
        content=kind.content,
        resolution=kind.resolution,
        duration_s=kind.duration_s,
        aspect_ratio=kind.aspect_ratio,
        negative_prompt="any" if kind.negative else "",
    )
    return Order(job=job, still="", max_usd=kind.max_usd)


def serves(route: Route, order: Order) -> bool:
    """Whether the route can make the job for what its rows will pay."""
    if route.complaint(order.job) is not None:
        return False
    return order.max_usd is None or route.price_usd(order.job) <= order.max_usd


def able(order: Order, lanes: Iterable[R]) -> list[R]:
    """Every lane that can make the job: by the row's own wishes, then the cheapest first.

    A row that asks for no model and no class of content is not shown to a model for
    adults where a general one is in use, open or closed.
    """
    serving = [lane for lane in lanes if serves(lane.route, order)]
    if not order.job.model and not order.job.content:
        general = [lane for lane in serving if lane.route.content == "general"]
        serving = general or serving
    job = order.job
    return sorted(
        serving,
        key=lambda lane: (
            lane.route.rank(job) or 0,
            lane.route.price_usd(job),
            lane.name,
        ),
    )


def foremost(order: Order, lanes: Sequence[R]) -> list[R]:
    """Of these lanes, those of the model that the row likes best."""
    best = min((lane.route.rank(order.job) or 0 for lane in lanes), default=0)
    return [lane for lane in lanes if (lane.route.rank(order.job) or 0) == best]


def candidates(order: Order, lanes: Iterable[R]) -> list[R]:
    """The lanes that would make the job if all are open, cheapest first."""
    return foremost(order, able(order, lanes))


def elsewhere(lanes: Sequence[R], failed: Route | None) -> list[R]:
    """The lanes of another supplier than the one that failed, if there are any."""
    if failed is None:
        return list(lanes)
    others = [lane for lane in lanes if lane.route.supplier != failed.supplier]
    return others or list(lanes)
