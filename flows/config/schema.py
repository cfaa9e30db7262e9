"""The tables of nightreel.toml: what may stand in each, and what is meant where nothing does.

Nothing is converted, and what stands where a key should is never repeated.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
)
from pydantic_core import PydanticCustomError

from tasks.dispatch.eligibility import Policy
from tasks.engine.job import SEND_WITHIN_S

# Upper case only, and no more than a name needs: a key pasted after `env:` by mistake is
# refused here, where it is not repeated, and not later, where its name would be.
ENV: Final = re.compile(r"env:([A-Z_][A-Z0-9_]*)")
BLOCK: Final = re.compile(r"block:([a-z0-9][a-z0-9-]*)")


def _reference(key: str) -> str:
    if ENV.fullmatch(key) or BLOCK.fullmatch(key):
        return key
    raise ValueError(
        "must be env:NAME (upper case) or block:NAME (a Prefect Secret block), never "
        "the key itself; what stands there is not repeated here, in case it is the key"
    )


def _keyed(key: str, info: ValidationInfo) -> str:
    if key:
        return _reference(key)
    if info.data.get("paid", True):
        raise PydanticCustomError("missing", "must be given")
    return key


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


class Table(BaseModel):
    """A table of the file: nothing is converted, and no unknown key is passed over."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )


class LaneSettings(Table):
    """A route in use: whose key, and how much of it at once."""

    route: Annotated[str, AfterValidator(_route)]
    paid: bool = True
    """False of GPUs of one's own: then a clip is made again rather than doubted."""
    key: Annotated[str, AfterValidator(_keyed)] = Field("", validate_default=True)
    """Where the key is kept, for `resolve_key`; GPUs of one's own may have none."""
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


def _settled(seconds: float) -> float:
    # Whoever was shut out may yet send what it had put on record: asked sooner, a provider
    # says in good faith that it has nothing. On an emulator nobody pays for that.
    if 0 < seconds < SEND_WITHIN_S:
        said = f"must be at least {SEND_WITHIN_S:g}, or 0 on an emulator"
        raise ValueError(said)
    return seconds


class EngineSettings(Table):
    """How hard a batch is driven."""

    policy: Policy = "balanced"
    """Which of the lanes that could make a job does: see routing."""
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.3
    """The share of a lane's jobs that may come to nothing before it buys no more."""
    settle_s: Annotated[
        float, Field(ge=0, allow_inf_nan=False), AfterValidator(_settled)
    ] = 60
    """How old a doubt is before its provider is asked about it."""

    runner: Literal["here", "pool", "ray", "dask"] = "here"
    """Where shards are run: in the batch's own process, by workers of a work pool, or as
    tasks on Ray or Dask."""
    workers: Annotated[int, Field(ge=1)] = 3
    """Shards that run at once, where that is not here."""
    address: str | None = None
    """Of a Ray or Dask cluster; without it one is started on this machine."""
    shard_rows: Annotated[int, Field(ge=1, le=1000)] = 500
    attempts: Annotated[int, Field(ge=1)] = 3
    deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600
    """How long an accepted job may take."""
    grace_s: Annotated[float, Field(ge=0, le=25)] = 20
    """How long a run that is told to stop waits for clips that should be done by then;
    Prefect kills what it cancelled after 30 seconds."""
    downloads: Annotated[int, Field(ge=1)] = 16
    decode: bool = True


class ListenSettings(Table):
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


class ReportSettings(Table):
    """What a batch shows in the Prefect UI."""

    public_url: Annotated[str, AfterValidator(_base_url)] | None = None
    """Where a browser finds what is under the root, if it can."""


class Settings(Table):
    """The whole of nightreel.toml; `models` and `routes` are the catalogue's to read."""

    lanes: dict[Annotated[str, AfterValidator(_lane_name)], LaneSettings] = Field(
        default_factory=dict[str, LaneSettings]
    )
    models: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    routes: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    engine: EngineSettings = EngineSettings()
    listen: ListenSettings = ListenSettings()
    report: ReportSettings = ReportSettings()
