"""Decides which lanes can make a job, and which of them should. Pure.

A lane can make a job if its route serves the job's model, content class, resolution,
duration and aspect ratio, at a price within the row's limit. A row that names several models
gets the first one that is available.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Literal, Protocol, TypeVar

from manifests.catalogue import Route
from manifests.jobs import Job, Kind, Order
from tasks.providers import OWN_GPUS

Policy = Literal["cheapest", "fastest", "balanced"]
"""`cheapest`: the least money that the deadline allows. `fastest`: the least time.
`balanced`: at each moment the cheapest lane that is free."""


class Routed(Protocol):
    """Anything with a route and a name: a lane, or the plan of one."""

    @property
    def name(self) -> str: ...
    @property
    def route(self) -> Route: ...


R = TypeVar("R", bound=Routed)


def standing_for(kind: Kind) -> Order:
    """A sample order of this kind, to apply the rules to."""
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
    """Whether the route can make the job within the `max_usd` of its rows."""
    if route.complaint(order.job) is not None:
        return False
    return order.max_usd is None or route.price_usd(order.job) <= order.max_usd


def able(order: Order, lanes: Iterable[R]) -> list[R]:
    """Every lane that can make the job: by the row's preferences, then the cheapest first.

    A row that asks for no model and no content class does not go to a model for adults if
    a general one is in use, open or closed.
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
    """The lanes of the model that the row prefers, among `lanes`."""
    best = min((lane.route.rank(order.job) or 0 for lane in lanes), default=0)
    return [lane for lane in lanes if (lane.route.rank(order.job) or 0) == best]


def candidates(order: Order, lanes: Iterable[R]) -> list[R]:
    """The lanes that would make the job if all were open, cheapest first."""
    return foremost(order, able(order, lanes))


def elsewhere(
    lanes: Sequence[R], failed: Route | None, tried: Collection[str] = ()
) -> list[R]:
    """The lanes that go first after a failed attempt; all lanes if it leaves none.

    They are lanes of another supplier than the failed route's. All own GPUs with one engine
    are one supplier, so for them it is another lane. `tried` names the lanes on which an
    attempt at the job failed.
    """
    untried = [lane for lane in lanes if lane.name not in tried]
    if failed is None:
        return untried or list(lanes)
    others = [
        lane
        for lane in untried
        if lane.route.supplier != failed.supplier
        or (tried and lane.route.provider in OWN_GPUS)
    ]
    return others or untried or list(lanes)
