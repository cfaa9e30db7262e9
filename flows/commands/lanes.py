"""The lanes command: what each lane can make, for how much, and whether it would."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, get_args

import typer
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.commands import lanes_check
from flows.commands.terminal import Config, Json, LaneNames, chosen, print_json
from flows.config import Settings
from flows.config import lanes as lanes_of
from flows.config import settings as settings_of
from flows.views.terminal_table import terminal_table
from manifests.catalogue import Route
from manifests.catalogue import loader as catalogue
from manifests.jobs import AspectRatio
from tasks.dispatch import Limits, usd

TO_A_LINE = 2
"""Prices: the third would not fit into 100 columns."""

FOOTER = (
    "Prices are US dollars for one clip; auto is the shape of the still. Limits hold for "
    "all models of an account together, unless it says each model. Where it says queues, "
    "what is over them waits at the provider; elsewhere it is refused."
)


def lanes(  # noqa: PLR0913 - each is an option
    config: Config = None,
    lanes: LaneNames = None,
    *,
    every: Annotated[
        bool, typer.Option("--all", help="Show all routes of the catalogue.")
    ] = False,
    sources: Annotated[
        bool,
        typer.Option("--sources", help="Show the source and the date of each fact."),
    ] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Ask the providers, for free, whether key, credit, model, prices and limits are right.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what each lane makes, its prices and its limits."""
    if check and (every or sources):
        misuse = "asks the lanes in use what is true now: not with --all or --sources"
        raise typer.BadParameter(misuse, param_hint="--check")
    if check:
        code = lanes_check.check_lanes(chosen(config, lanes), as_json=as_json)
        raise typer.Exit(code)
    settings = _settings(config, lanes) if every else chosen(config, lanes)
    shown = [*in_use(settings), *(_idle(settings) if every else ())]
    if as_json:
        print_json({"lanes": [one.plain() for one in shown]})
        return
    console = Console(highlight=False)
    console.print(_table([one for one in shown if not one.route.retired]))
    for one in shown:
        if why := one.route.retired:
            told = f"{one.route.name} is retired: {why}"
            console.print("", Text(told, style="yellow"), sep="\n")
    console.print("", Text(FOOTER, style="dim"), sep="\n")
    if sources:
        console.print(*map(_sources, shown))


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRow:
    """A route as it is in use, or as it would be."""

    lane: str = ""
    """Empty where no lane uses it."""
    route: Route
    limits: Limits
    usd_per_day: Decimal | None = None

    @property
    def sources(self) -> Mapping[str, str]:
        """The source of each fact; the lane's own settings come before the catalogue's."""
        told = _limits(self.limits)
        sources = {
            fact: f"[lanes.{self.lane}]"
            for fact, most in _limits(_own(self.route)).items()
            if told[fact] != most
        }
        for line in self.route.source.splitlines():
            fact, _, source = line.partition(": ")
            sources.setdefault(fact if source else "", source or line)
        return sources

    def plain(self) -> dict[str, Any]:
        route = self.route
        return {
            "lane": self.lane or None,
            "route": route.name,
            "provider": route.provider,
            "supplier": route.supplier,
            "model": route.model,
            "tier": route.tier,
            "content": route.content,
            "retired": route.retired or None,
            "kind": route.kind,
            "hours_utc": _hours(route) or None,
            "fps": route.fps,
            "prices": [
                {"resolution": resolution, "seconds": seconds, "usd": float(price)}
                for (resolution, seconds), price in route.prices_usd.items()
            ],
            "aspect_ratios": sorted(route.aspect_ratios),
            "negative_prompt": route.takes_negative_prompt,
            "min_still_px": route.min_still_px,
            **_limits(self.limits),
            "usd_per_day": None
            if self.usd_per_day is None
            else float(self.usd_per_day),
            "limits_per": route.limits_per,
            "queues": self.limits.queues,
            "sources": {**self.sources},
        }


def _settings(config: Config, lanes: str | None) -> Settings:
    """The settings; empty without a nightreel.toml, so that the catalogue can be shown."""
    named = config or settings_of.Environment().config
    if named is None and lanes is None and not settings_of.DEFAULT.exists():
        return Settings()
    return chosen(config, lanes)


def in_use(settings: Settings) -> list[LaneRow]:
    """Every lane of the settings with its route and limits."""
    return [
        LaneRow(
            lane=lane.name,
            route=lane.route,
            limits=lane.limits,
            usd_per_day=lane.usd_per_day,
        )
        for lane in lanes_of.keyless(settings)
    ]


def _idle(settings: Settings) -> Iterator[LaneRow]:
    """The other routes of the catalogue; retired ones at the end."""
    known = catalogue.load({"models": settings.models, "routes": settings.routes})
    used = {lane.route for lane in settings.lanes.values()}
    rest = [route for name, route in known.routes.items() if name not in used]
    for route in sorted(rest, key=lambda each: bool(each.retired)):
        yield LaneRow(route=route, limits=_own(route))


def _own(route: Route) -> Limits:
    return Limits(
        slots=route.slots,
        submits_per_minute=route.submits_per_minute,
        submits_per_day=route.submits_per_day,
        queues=route.queues,
    )


def _limits(limits: Limits) -> dict[str, int | None]:
    return {
        "slots": limits.slots,
        "submits_per_minute": limits.submits_per_minute,
        "submits_per_day": limits.submits_per_day,
    }


# As people read it


def _table(shown: Sequence[LaneRow]) -> Table:
    named = any(one.lane for one in shown)
    columns = (*(["lane"] if named else []), "route", "prices", "takes", "limits")
    table = terminal_table(*columns, folds=("takes",), row_gap=1)
    if named:
        table.columns[0].style = "bold"
    for one in shown:
        cells = [_what(one.route), _prices(one.route), _takes(one.route), _bears(one)]
        table.add_row(*([one.lane] if named else []), *cells)
    return table


def _what(route: Route) -> Text:
    facts = [f"{route.tier}, {route.content}"]
    if not route.name.endswith(f"/{route.model}"):
        facts.append(f"makes {route.model}")
    if route.kind != "live":
        facts.append(" ".join([route.kind.replace("_", "-"), _hours(route)]))
    if route.supplier != route.provider:
        facts.append(f"made by {route.supplier}")
    return Text.assemble(route.name, ("\n".join(["", *facts]), "dim"))


def _prices(route: Route) -> Text:
    return Text("\n".join(_priced(route)))


def _priced(route: Route) -> Iterator[str]:
    for resolution in dict.fromkeys(made for made, _ in route.prices_usd):
        clips = [
            f"{seconds} s {usd(price)}"
            for (made, seconds), price in sorted(route.prices_usd.items())
            if made == resolution
        ]
        head = resolution
        for n in range(0, len(clips), TO_A_LINE):
            yield f"{head:5} {', '.join(clips[n : n + TO_A_LINE])}"
            head = ""


def _takes(route: Route) -> Text:
    known = sorted(get_args(AspectRatio), key=lambda each: each != "auto")
    ratios = [each for each in known if each in route.aspect_ratios]
    lines = [", ".join(ratios)]
    if route.takes_negative_prompt:
        lines.append("negative prompt")
    return Text("\n".join(lines))


def _bears(one: LaneRow) -> Text:
    limits = one.limits
    lines = [f"{limits.slots} at once", f"{limits.submits_per_minute} a minute"]
    if limits.queues:
        lines[0] += ", queues"
    if limits.submits_per_day:
        lines.append(f"{limits.submits_per_day} a day")
    if one.usd_per_day is not None:
        lines.append(f"{usd(one.usd_per_day)} USD a day")
    if one.route.limits_per == "model":
        lines.append("each model")
    return Text("\n".join(lines))


def _hours(route: Route) -> str:
    if route.hours_utc is None:
        return ""
    begins, ends = (f"{at // 60:02d}:{at % 60:02d}" for at in route.hours_utc)
    return f"{begins}-{ends} UTC"


def _sources(one: LaneRow) -> RenderableType:
    facts = Table.grid(padding=(0, 2, 0, 0))
    for fact, source in one.sources.items():
        facts.add_row(Text(fact, style="dim"), Text(source))
    head = Text(" ".join(filter(None, [one.lane, one.route.name])), style="bold")
    return Group("", head, Padding(facts, (0, 0, 0, 2)))
