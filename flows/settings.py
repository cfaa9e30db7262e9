"""The settings: what nightreel.toml says, checked, and the only reader of the environment.

Keys are never settings: the file says where a key is kept, and `resolve_key` fetches it
at the last moment. No message ever repeats what stands where a key should.
"""

import difflib
import logging
import os
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Final, Literal, cast
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.routing import Policy

DEFAULT: Final = Path("nightreel.toml")


class SettingsError(ValueError):
    """The settings cannot be used; raised before anything is bought."""


# Upper case only, and no more than a name needs: a key pasted after `env:` by mistake is
# refused here, where it is not repeated, and not later, where its name would be.
_ENV: Final = re.compile(r"env:([A-Z_][A-Z0-9_]*)")
_BLOCK: Final = re.compile(r"block:([a-z0-9][a-z0-9-]*)")


def _reference(key: str) -> str:
    if _ENV.fullmatch(key) or _BLOCK.fullmatch(key):
        return key
    raise ValueError(
        "must be env:NAME (upper case) or block:NAME (a Prefect Secret block), never "
        "the key itself; what stands there is not repeated here, in case it is the key"
    )


def _route(name: str) -> str:
    provider, _, model = name.partition("/")
    if provider and model:
        return name
    raise ValueError("must be provider/model, such as wavespeed/wan-2.2-spicy")


def _base_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # its words may repeat the URL, password and all
        good = False
    if not good or any(mark in url for mark in "@?#"):
        raise ValueError(
            "must be http(s)://host[:port][/path], without user, password or query"
        )
    return url.rstrip("/")


def _lane_name(name: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        return name
    raise ValueError("must be letters, digits, '-', '_' and '.'")


_AMOUNT: Final = re.compile(r"\d+(\.\d+)?")


def amount(written: str) -> Decimal:
    """US dollars as people write them, exactly.

    Raises:
        ValueError: it is no amount.
    """
    if _AMOUNT.fullmatch(written):
        return Decimal(written)
    raise ValueError("must be US dollars, 0 or more, such as 2.50")


def _exact(said: object) -> Decimal:
    # 0.12 is what was written, not the float that comes nearest to it.
    number = isinstance(said, int | float) and not isinstance(said, bool)
    return amount(str(said) if number or isinstance(said, str) else "")


_Usd = Annotated[Decimal, BeforeValidator(_exact)]


class _Table(BaseModel):
    """A table of the file: nothing is converted, and no unknown key is passed over."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )


class LaneSettings(_Table):
    """A route in use: whose key, and how much of it at once."""

    route: Annotated[str, AfterValidator(_route)]
    key: Annotated[str, AfterValidator(_reference)]
    """Where the key is kept, for `resolve_key`."""
    base_url: Annotated[str, AfterValidator(_base_url)] | None = None
    slots: Annotated[int, Field(ge=1)] | None = None
    submits_per_minute: Annotated[int, Field(ge=1)] | None = None
    submits_per_day: Annotated[int, Field(ge=1)] | None = None
    """In any 24 hours, over all runs on one root."""
    usd_per_day: _Usd | None = None
    risk_usd: _Usd = Decimal(0)
    """What a batch may spend on submitting again what this lane left in doubt."""
    stills: Literal["upload", "presign", "link"] | None = None
    """How stills reach the provider; None decides for each still."""


class EngineSettings(_Table):
    """How hard a batch is driven."""

    policy: Policy = "balanced"
    """Which of the lanes that could make a job does: see routing."""
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.3
    """The share of a lane's jobs that may come to nothing before it buys no more."""
    hedge: bool = False
    """Whether a straggler may be paid for twice so that the batch is done in time."""
    settle_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60
    """How old a doubt is before its provider is asked about it."""

    shard_rows: Annotated[int, Field(ge=1, le=1000)] = 500
    attempts: Annotated[int, Field(ge=1)] = 3
    deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600
    """How long an accepted job may take."""
    downloads: Annotated[int, Field(ge=1)] = 16
    decode: bool = True


class ListenSettings(_Table):
    """Webhooks: where the world finds the listener, and what proves who posts there."""

    public_url: Annotated[str, AfterValidator(_base_url)] | None = None
    """Without it no provider is asked to post anything."""
    hints_url: Annotated[str, AfterValidator(_base_url)] = "http://127.0.0.1:8501"
    secrets: dict[
        Literal["wavespeed", "replicate"], Annotated[str, AfterValidator(_reference)]
    ] = Field(default_factory=dict[Literal["wavespeed", "replicate"], str])
    """Where each is kept, for `resolve_key`; the others sign with public keys."""

    def hook(self, provider: str) -> str:
        """Where this provider may post, or "" where nobody would believe it."""
        if self.public_url and provider in {*self.secrets, "fal", "atlas"}:
            return f"{self.public_url}/webhooks/{provider}"
        return ""


class ReportSettings(_Table):
    """What a batch shows in the Prefect UI."""

    public_url: Annotated[str, AfterValidator(_base_url)] | None = None
    """Where a browser finds what is under the root, if it can."""


class Settings(_Table):
    """The whole of nightreel.toml; `models` and `routes` are the catalogue's to read."""

    lanes: dict[Annotated[str, AfterValidator(_lane_name)], LaneSettings] = Field(
        default_factory=dict[str, LaneSettings]
    )
    models: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    routes: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    engine: EngineSettings = EngineSettings()
    listen: ListenSettings = ListenSettings()
    report: ReportSettings = ReportSettings()


class Environment(BaseSettings):
    """What the environment may say: NIGHTREEL_CONFIG names the file to read."""

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
    path = path or Environment().config or DEFAULT
    settings = _read(path)
    chosen = settings.lanes if lanes is None else _chosen(path, settings, lanes)
    if not chosen:
        raise SettingsError(f"{path}: no lanes: add a [lanes.NAME] with route and key")
    return settings.model_copy(update={"lanes": chosen})


def listen(path: Path | None = None) -> ListenSettings:
    """What the file says of webhooks; it needs no lanes for that.

    Raises:
        SettingsError: as `load`.
    """
    return _read(path or Environment().config or DEFAULT).listen


async def resolve_key(reference: str, *, lane: str = "") -> str:
    """The key that `env:NAME` or `block:NAME` stands for; keep it out of records and logs.

    Raises:
        SettingsError: there is no such key, or it is empty.
    """
    where = f"lane {lane!r}: " if lane else ""
    if match := _ENV.fullmatch(reference):
        key = os.environ.get(match[1], "")
        lack = f"environment variable {match[1]} is not set, or empty"
    elif match := _BLOCK.fullmatch(reference):
        key = await _secret(match[1])
        lack = f"Prefect Secret block {match[1]!r} does not exist, or holds no text"
    else:
        raise SettingsError(f"{where}a key must be env:NAME or block:NAME")
    if not key.strip():
        raise SettingsError(f"{where}{lack}")
    return key.strip()


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
            near = _nearest(name, settings.lanes)
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
            near = _nearest(key, allowed)
            return f"{place}no key {key!r}{near}; allowed: {', '.join(allowed)}"
        case "missing":
            return f"{place}no {key!r}: it must be given"
        case _:
            rule = error["msg"].removeprefix("Value error, ")
            rule = rule.replace("Input should be", "must be")
            rule = re.sub(r"a valid dictionary.*", "a table", rule)
            return f"{place}{key}{_shown(error)}: {rule}"


_TABLES: Final[Mapping[str, type[_Table]]] = {
    "lanes": LaneSettings,
    "engine": EngineSettings,
    "listen": ListenSettings,
    "report": ReportSettings,
}


def _allowed(parts: Sequence[str]) -> list[str]:
    table = Settings if len(parts) == 1 else _TABLES[parts[0]]
    return list(table.model_fields)


def _shown(error: ErrorDetails) -> str:
    """The value, where it is certain that nobody put a secret there."""
    match error["loc"], error["input"]:
        case ("engine", _) | ("lanes", _, "slots" | "submits_per_minute"), value:
            return f" = {value!r}"
        case ("lanes", _, "submits_per_day" | "usd_per_day" | "risk_usd"), value:
            return f" = {value!r}"
        case ("lanes", _, "route" | "stills"), str(value):
            return f" = {value!r}"
        case _:
            return ""


def _nearest(name: str, names: Iterable[str]) -> str:
    match difflib.get_close_matches(name, list(names), n=1):
        case [near]:
            return f" (did you mean {near!r}?)"
        case _:
            return ""


def lend(name: str, value: str) -> None:
    """Set a variable that nobody has set, for this process and those it starts."""
    os.environ.setdefault(name, value)


def calm_prefect() -> None:
    """At a terminal the command line speaks: what goes wrong it says itself, once."""
    # On the console only: a server, if there is one, is still told.
    lend("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    lend("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    lend("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    # On a busy machine its own server takes longer to start than the 20 s it is given.
    lend("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
    lend("DO_NOT_TRACK", "1")
    # They warn of what they have still to send when we are done: it is sent all the same.
    for worker in ("EventsWorker", "APILogWorker"):
        logging.getLogger(worker).setLevel(logging.ERROR)
