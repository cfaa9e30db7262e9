"""The command `config show`: what is in force, from where, and which keys are there."""

import asyncio
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, cast

import httpx
import typer
from pydantic import BaseModel
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.commands.command import command
from flows.commands.lanes import LaneRow
from flows.commands.terminal import Config, Json, print_json
from flows.config import LaneSettings, Settings, SettingsError
from flows.config import lanes as lanes_of
from flows.config import settings as settings_of
from tasks.dispatch import Lane

app = typer.Typer(no_args_is_help=True, help="Show the configuration.")

PAPER: Final = 160
"""The width if stdout is not a terminal."""

LIMITS: Final = ("slots", "submits_per_minute", "submits_per_day")
"""Settings of a lane whose defaults are in the catalogue."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting in force, and its source."""

    name: str
    value: Any
    source: str
    key: str | None = None
    """Whether the key exists, if the setting is the place of a key."""


@app.command()
@command
def show(*, config: Config = None, as_json: Json = False) -> None:
    """Print every setting with its source, and whether its key is set; never a key."""
    path, why = settings_of.found(config)
    settings = settings_of.load(path)
    listed = asyncio.run(_all(settings, str(path)))
    listed.insert(0, Setting("file", str(path), why))
    if as_json:
        print_json({"settings": [asdict(setting) for setting in listed]})
        return
    width = None if sys.stdout.isatty() else PAPER
    Console(highlight=False, width=width).print(_shown(listed))


async def _all(settings: Settings, file: str) -> list[Setting]:
    found = [*_table("engine", settings.engine, file)]
    for lane in lanes_of.keyless(settings):
        found += _lane(lane, settings.lanes[lane.name], file)
    found += _table("manifest", settings.manifest, file)
    found += _table("listen", settings.listen, file)
    found += _table("report", settings.report, file)
    found += _leaves("models", settings.models, file)
    found += _leaves("routes", settings.routes, file)
    return [await _with_key(setting) for setting in found]


def _table(name: str, table: BaseModel, file: str) -> Iterator[Setting]:
    """Every setting of a table, whether the file has it or not."""
    for fact, value in table.model_dump(mode="json").items():
        if fact in table.model_fields_set:
            yield from _leaves(f"{name}.{fact}", value, file)
        else:
            yield Setting(f"{name}.{fact}", value, "default")


def _leaves(name: str, value: Any, file: str) -> Iterator[Setting]:
    """The values below a table of the file that are not tables."""
    if isinstance(value, Mapping):
        for key, below in cast("Mapping[str, Any]", value).items():
            yield from _leaves(f"{name}.{key}", below, file)
    else:
        yield Setting(name, value, file)


def _lane(lane: Lane, asked: LaneSettings, file: str) -> Iterator[Setting]:
    """A lane's settings, with its route's for those that it does not set."""
    told = LaneRow(lane=lane.name, route=lane.route, limits=lane.limits).sources
    for setting in _table(f"lanes.{lane.name}", asked, file):
        fact = setting.name.rpartition(".")[2]
        most = getattr(lane.limits, fact) if fact in LIMITS else None
        if setting.value is None and most is not None:
            source = told.get(fact) or told.get("limits") or "catalogue"
            yield Setting(setting.name, most, f"{lane.route.name}: {source}")
        else:
            yield setting


async def _with_key(setting: Setting) -> Setting:
    """The setting with the answer whether its key exists."""
    first, *_, last = setting.name.split(".")
    if not (last == "key" or setting.name.startswith("listen.secrets.")):
        return setting
    if first not in {"lanes", "listen"}:
        return setting
    try:
        await settings_of.resolve_key(setting.value)
    except SettingsError:
        return replace(setting, key="not there")
    except (httpx.HTTPError, RuntimeError) as exc:  # of a block, by its server
        return replace(setting, key=f"cannot be asked for: {type(exc).__name__}")
    return replace(setting, key="there")


def _shown(listed: Iterable[Setting]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for title in ("setting", "value", "from"):
        table.add_column(title, overflow="fold", no_wrap=title == "setting")
    for setting in listed:
        value = "-" if setting.value is None else str(setting.value)
        if setting.key is not None:
            value += f" ({setting.key})"
        style = "red" if setting.key not in {None, "there"} else ""
        dim = "dim" if setting.source == "default" else style
        table.add_row(*map(Text, (setting.name, value, setting.source)), style=dim)
    return table
