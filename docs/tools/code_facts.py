"""Parts of pages that are written in the code: states, exit codes, results, routes."""

import textwrap
from collections.abc import Iterator
from dataclasses import fields
from decimal import Decimal
from typing import Final, get_args

from docs.tools.field_docs import field_docs
from docs.tools.markdown import Parts, code, table
from manifests import lifecycle
from manifests.catalogue import Route
from manifests.catalogue import loader as catalogue
from manifests.jobs import AspectRatio
from tasks.batch.summary import ExitCode, Summary
from tasks.providers import OWN_GPUS

RATIOS: Final = sorted(get_args(AspectRatio), key=lambda ratio: ratio != "auto")

SHORTEST_S: Final = 5
"""Prices are shown for clips of this many seconds; every shipped route makes them."""


def states() -> str:
    """The diagram of states and events, from the docstring of manifests/lifecycle.py."""
    lines = (lifecycle.__doc__ or "").splitlines()
    drawn = "\n".join(line for line in lines if line.startswith("    "))
    return f"```text\n{textwrap.dedent(drawn)}\n```"


def exit_codes() -> str:
    """The exit codes of `run`, `demo` and `watch`."""
    docs = field_docs(ExitCode)
    rows = [(code(int(each)), docs[each.name]) for each in ExitCode]
    return table(("code", "meaning"), rows)


def summary_fields() -> str:
    """The fields of what `run --json` prints."""
    docs = field_docs(Summary)
    rows = [(code(each.name), docs[each.name]) for each in fields(Summary)]
    return table(("field", "meaning"), rows)


def routes() -> str:
    """The routes that are shipped, in the order of the catalogue."""
    header = (
        "route",
        "tier, content",
        "seconds",
        f"USD for {SHORTEST_S} s",
        "negative prompt",
        "aspect ratios",
        "slots, submits a minute",
        "keeps a clip",
    )
    known = catalogue.shipped().routes.values()
    return table(header, [_route(each) for each in known if not each.retired])


def retired() -> str:
    """The routes whose model was withdrawn, with the successor."""
    known = catalogue.shipped().routes.values()
    rows = [(code(each.name), each.retired) for each in known if each.retired]
    return table(("route", "withdrawn"), rows)


def _route(route: Route) -> tuple[str, ...]:
    seconds = sorted({seconds for _, seconds in route.prices_usd})
    name = code(route.name)
    if not route.name.endswith(f"/{route.model}"):
        name += f" ({route.model})"
    return (
        name,
        f"{route.tier}, {route.content}",
        ", ".join(map(str, seconds)),
        ", ".join(_prices(route)),
        "yes" if route.takes_negative_prompt else "no",
        ", ".join(each for each in RATIOS if each in route.aspect_ratios),
        f"{route.slots}, {route.submits_per_minute}",
        _kept(route),
    )


def _prices(route: Route) -> Iterator[str]:
    if route.provider in OWN_GPUS:
        yield "0: your own GPU"
        return
    for (resolution, seconds), price in route.prices_usd.items():
        if seconds == SHORTEST_S:
            yield f"{resolution} {_exact(price)}"


def _exact(price: Decimal) -> str:
    """Two decimals, or as many as the price has."""
    exponent = price.normalize().as_tuple().exponent
    decimals = -exponent if isinstance(exponent, int) else 0
    return f"{price:.{max(2, decimals)}f}"


def _kept(route: Route) -> str:
    if route.provider in OWN_GPUS:
        return ""
    if route.keeps_s is None:
        return "not stated"
    hours = route.keeps_s // 3600
    return f"{hours} h" if hours < 48 else f"{hours // 24} d"


PARTS: Final[Parts] = {
    "states": states,
    "exit-codes": exit_codes,
    "summary": summary_fields,
    "routes": routes,
    "retired": retired,
}
