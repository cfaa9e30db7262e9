"""The settings: reads and validates nightreel.toml and the environment.

Keys are never settings: the file says where a key is kept, and `resolve_key` fetches it
at the last moment. No message ever repeats a value that stands in the place of a key.
"""

import logging
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import urlsplit

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from flows.config import network
from flows.config.arguments import SettingsError, nearest
from flows.config.emulated import settled_too_early
from flows.config.schema import (
    BLOCK,
    ENV,
    EngineSettings,
    LaneSettings,
    ListenSettings,
    ManifestSettings,
    ReportSettings,
    Settings,
    Table,
)
from flows.logs.masking import conceal

DEFAULT: Final = Path("nightreel.toml")


class Environment(BaseSettings):
    """The environment's settings: NIGHTREEL_CONFIG names the file to read."""

    model_config = SettingsConfigDict(
        env_prefix="NIGHTREEL_", env_ignore_empty=True, frozen=True
    )

    config: Path | None = None


def load(path: Path | None = None, *, lanes: Sequence[str] | None = None) -> Settings:
    """The settings in the file, with all of its lanes or only those named, in that order.

    Without a path it is NIGHTREEL_CONFIG's, or ./nightreel.toml.

    Raises:
        SettingsError: the file cannot be read, or says something that has no meaning.
    """
    path, _ = found(path)
    settings = _read(path)
    chosen = settings.lanes if lanes is None else _chosen(path, settings, lanes)
    if not chosen:
        raise SettingsError(f"{path}: no lanes: add a [lanes.NAME] with route and key")
    early = "" if settings.engine.settle_s else settled_too_early(chosen)
    if early:
        raise SettingsError(f"{path}: {early}")
    urls = [urlsplit(lane.base_url or "") for lane in chosen.values()]
    ready_network(url.hostname for url in urls if url.hostname)
    return settings.model_copy(update={"lanes": chosen})


def ready_network(hosts: Iterable[str] = ()) -> None:
    """Check the environment's proxies and certificates; keep loopback off the proxies.

    `hosts` are addresses that a network in NO_PROXY may contain.

    Raises:
        SettingsError: a variable names what no client can use.
    """
    for complaint in network.complaints(hosts):
        raise SettingsError(complaint)


def listen(path: Path | None = None) -> ListenSettings:
    """The webhook settings of the file; it needs no lanes for them.

    Raises:
        SettingsError: as `load`.
    """
    return _read(found(path)[0]).listen


def found(path: Path | None) -> tuple[Path, str]:
    """The file to read, and the source of its name: the caller, the environment, or the
    default."""
    if path is not None:
        return path, "--config"
    if (named := Environment().config) is not None:
        return named, "NIGHTREEL_CONFIG"
    return DEFAULT, "default"


async def resolve_key(reference: str, *, lane: str = "") -> str:
    """The key that `env:NAME` or `block:NAME` stands for; keep it out of records and logs.

    Raises:
        SettingsError: there is no such key, or it is empty.
    """
    where = f"lane {lane!r}: " if lane else ""
    if match := ENV.fullmatch(reference):
        key = os.environ.get(match[1], "")
        lack = f"environment variable {match[1]} is not set, or empty"
    elif match := BLOCK.fullmatch(reference):
        key = await _secret(match[1])
        lack = f"Prefect Secret block {match[1]!r} does not exist, or holds no text"
    else:
        raise SettingsError(f"{where}a key must be env:NAME or block:NAME")
    if not (key := key.strip()):
        raise SettingsError(f"{where}{lack}")
    if not (key.isascii() and key.isprintable()):
        # A placeholder, or more than one line: no HTTP header can carry it.
        raise SettingsError(f"{where}{reference} holds what is no key")
    conceal(key)
    return key


async def _secret(name: str) -> str:
    # Prefect takes seconds to import, and most lanes read a variable.
    from prefect.blocks.system import Secret  # noqa: PLC0415

    try:
        # Not Secret[Any].aload: that is another block type, of which there are none.
        block = cast("Secret[Any]", await Secret.aload(name))
    except ValueError:  # what Prefect raises where no block has this name
        return ""
    key = block.get()
    return key if isinstance(key, str) else ""


def _read(path: Path) -> Settings:
    document = _document(path)
    try:
        return Settings.model_validate(document)
    except ValidationError as exc:
        found = [_explained(error) for error in exc.errors(include_url=False)]
        raise SettingsError("\n".join(f"{path}: {line}" for line in found)) from None


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"{path.absolute()}: no such file: name one with --config or "
            "NIGHTREEL_CONFIG, or start from examples/nightreel.toml"
        ) from None
    except OSError as exc:
        raise SettingsError(f"{path}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: not UTF-8 text") from None
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"{path}: not TOML: {exc}") from None


def _chosen(
    path: Path, settings: Settings, names: Sequence[str]
) -> dict[str, LaneSettings]:
    for name in names:
        if name not in settings.lanes:
            has = ", ".join(settings.lanes) or "none"
            near = nearest(name, settings.lanes)
            raise SettingsError(f"{path}: no lane {name!r}{near}; its lanes: {has}")
    return {name: settings.lanes[name] for name in names}


def _explained(error: ErrorDetails) -> str:
    """One line for one thing wrong: the table, the key, the value, and what is allowed."""
    # pydantic marks a bad key of a dict by a last part "[key]".
    parts = [str(part) for part in error["loc"] if part != "[key]"]
    table, key = ".".join(parts[:-1]), parts[-1]
    place = f"[{table}] " if table else ""
    match error["type"]:
        case "extra_forbidden":
            allowed = _allowed(parts)
            near = nearest(key, allowed)
            return f"{place}no key {key!r}{near}; allowed: {', '.join(allowed)}"
        case "missing":
            return f"{place}no {key!r}: it must be given"
        case _:
            rule = error["msg"].removeprefix("Value error, ")
            rule = rule.replace("Input should be", "must be")
            rule = re.sub(r"a valid dictionary.*", "a table", rule)
            return f"{place}{key}{_shown(error)}: {rule}{_meant(error)}"


def _meant(error: ErrorDetails) -> str:
    """A question for the word that is nearly the value, where it is one of a few words."""
    if error["type"] != "literal_error" or not isinstance(error["input"], str):
        return ""
    words = re.findall("'([^']+)'", error.get("ctx", {})["expected"])
    return nearest(error["input"], words)


_TABLES: Final[Mapping[str, type[Table]]] = {
    "lanes": LaneSettings,
    "manifest": ManifestSettings,
    "engine": EngineSettings,
    "listen": ListenSettings,
    "report": ReportSettings,
}


def _allowed(parts: Sequence[str]) -> list[str]:
    table = Settings if len(parts) == 1 else _TABLES[parts[0]]
    return list(table.model_fields)


def _shown(error: ErrorDetails) -> str:
    """The value, if the key cannot hold a secret."""
    match error["loc"], error["input"]:
        case ("engine", _) | ("lanes", _, "slots" | "submits_per_minute"), value:
            return f" = {value!r}"
        case ("lanes", _, "submits_per_day" | "usd_per_day" | "risk_usd"), value:
            return f" = {value!r}"
        case ("lanes", _, "route" | "stills" | "user_agent"), str(value):
            return f" = {value!r}"
        case _:
            return ""


_SECRET_NAME: Final = re.compile(
    r"(?i).*(?:^|_)(?:key|secret|token|password|sas|connection_string)"
)


def conceal_environment() -> None:
    """Mask the value of each variable whose name says that it is a secret."""
    for name, value in os.environ.items():
        if _SECRET_NAME.fullmatch(name):
            conceal(value)


def lend(name: str, value: str) -> None:
    """Set a variable that is not set, for this process and those that it starts."""
    os.environ.setdefault(name, value)


def calm_prefect() -> None:
    """Keep Prefect off the terminal, where the command line logs for itself.

    Its handlers are Nightreel's own (`flows/commands/logs.py`).
    """
    # On the console only: a server, if there is one, still gets each line.
    lend("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    lend("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    lend("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    # Retry a server that died, but not for a minute with each request.
    lend("PREFECT_CLIENT_MAX_RETRIES", "3")
    lend("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # Prefect's default of one heartbeat in 180 s is too slow for the automation that takes
    # a run for dead after 90 s. The other name is an old one of the same setting.
    if "PREFECT_RUNNER_HEARTBEAT_FREQUENCY" not in os.environ:
        lend("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "30")
    # On a busy machine Prefect's temporary server takes longer to start than 20 s.
    lend("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    lend("DO_NOT_TRACK", "1")
    # They warn about messages left to send at exit, which are sent all the same.
    for worker in ("EventsWorker", "APILogWorker"):
        logging.getLogger(worker).setLevel(logging.ERROR)


def run_alone() -> None:
    """Have Prefect ignore the configured server, in this process only."""
    from prefect.context import refresh_global_settings_context  # noqa: PLC0415

    os.environ.pop("PREFECT_API_URL", None)
    # The default profile, whatever the user's profile configures.
    os.environ["PREFECT_PROFILE"] = "ephemeral"
    refresh_global_settings_context()
