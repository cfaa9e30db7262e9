"""The tables of nightreel.toml: the keys of each, their types and their defaults.

Values are not converted. Messages never repeat the value of a key, in case it is a secret.
The docstrings of the fields are the descriptions in docs/reference/configuration.md.
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

from storage.source_policy import policy
from tasks.dispatch import OnDearer, Policy
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


def _user_agent(text: str) -> str:
    # httpx refuses other characters in a header, and a proxy may cut a longer one.
    if text.strip() == text and re.fullmatch(r"[ -~]{1,200}", text):
        return text
    raise ValueError(
        "must be 1 to 200 printable ASCII characters, without spaces around them"
    )


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


def _exact(value: object) -> Decimal:
    # 0.12 is what was written, not the float that comes nearest to it.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return amount(str(value) if number or isinstance(value, str) else "")


_Usd = Annotated[Decimal, BeforeValidator(_exact)]


class Table(BaseModel):
    """A table of the file: values are not converted, and an unknown key is an error."""

    model_config = ConfigDict(
        strict=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )


def _places(allow: list[str]) -> list[str]:
    policy(allow)
    return allow


class LaneSettings(Table):
    """A route in use, with a key and limits."""

    route: Annotated[str, AfterValidator(_route)]
    """The route, as `provider/model`; `nightreel lanes --all` lists them."""
    paid: bool = True
    """Set it to `false` for your own GPU: a repeated submit costs nothing there."""
    key: Annotated[str, AfterValidator(_keyed)] = Field("", validate_default=True)
    """The place of the API key: `env:NAME` or `block:NAME`. Required if `paid`."""
    base_url: Annotated[str, AfterValidator(_base_url)] | None = None
    """Overrides the scheme, host and path prefix of the provider's API. Required for
    your own GPU."""
    user_agent: Annotated[str, AfterValidator(_user_agent)] | None = None
    """The `User-Agent` of the lane's requests and downloads, for a host that refuses
    Nightreel's own. Default: `nightreel/VERSION`."""
    slots: Annotated[int, Field(ge=1)] | None = None
    """The clips in progress at once. Default: the limit of a new account."""
    submits_per_minute: Annotated[int, Field(ge=1)] | None = None
    """The submits in a minute. Default: the limit of a new account."""
    submits_per_day: Annotated[int, Field(ge=1)] | None = None
    """The submits in any 24 hours, over all runs on a root. Default: the route's limit,
    if it has one."""
    usd_per_day: _Usd | None = None
    """The money in any 24 hours, over all runs on a root. Default: no limit."""
    on_dearer: OnDearer = "tell"
    """The answer to a bill above the lane's price. `tell`: the rest of the run reserves
    at the dearer rate. `close`: the lane closes for the run, too."""
    risk_usd: _Usd = Decimal(0)
    """The money that a batch may spend on submitting jobs in doubt of this lane again.
    Each of them may be paid for twice."""
    stills: Literal["upload", "presign", "link"] | None = None
    """How stills reach the provider. Default: `https` links are passed on; stills in
    `s3`, `gs` and `az` are signed for six hours; others are uploaded, or sent within the
    submit if the provider has no upload."""


def _settled(seconds: float) -> float:
    # A run that was fenced out may still send a recorded submit for 30 seconds. Asked
    # sooner, the provider answers that it has nothing. An emulator charges nothing.
    if 0 < seconds < SEND_WITHIN_S:
        raise ValueError(f"must be at least {SEND_WITHIN_S:g}, or 0 on an emulator")
    return seconds


class EngineSettings(Table):
    """How a batch is run."""

    policy: Policy = "balanced"
    """The rule that chooses among the lanes that can make a job."""
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.3
    """A lane closes if a greater share of its jobs failed, once it has had 20 jobs, or if
    ten in a row failed. With 1, no failure closes a lane."""
    max_rejected: Annotated[float, Field(ge=0, le=1)] = 0.2
    """A run fails, with exit code 5, if a greater share of its rows was rejected, bad rows
    included. A run whose rows were all rejected always fails."""
    settle_s: Annotated[
        float, Field(ge=0, allow_inf_nan=False), AfterValidator(_settled)
    ] = 60
    """The age of a doubt, in seconds, before the provider is asked about it. At least 30,
    or 0 on an emulator. A provider is asked after 300 seconds at the earliest: so long, a
    submit may be under way."""

    runner: Literal["here", "pool", "ray", "dask"] = "here"
    """The place that runs shards: the batch's own process, a Prefect work pool, or tasks on
    Ray or Dask."""
    workers: Annotated[int, Field(ge=1)] = 3
    """The shards that run at once, unless `runner` is `here`."""
    address: str | None = None
    """The address of a Ray or Dask cluster. Default: a cluster is started on this
    machine."""
    shard_rows: Annotated[int, Field(ge=1, le=1000)] = 500
    """The jobs in one shard."""
    attempts: Annotated[int, Field(ge=1)] = 3
    """How often a provider may accept a job and not deliver it, before its row is left
    pending."""
    deadline_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 3600
    """How long an accepted job is polled, in seconds, before it is left to the next
    run."""
    grace_s: Annotated[float, Field(ge=0, le=25)] = 20
    """How long a stopping run waits, in seconds, for clips that should be done by then.
    Prefect kills a cancelled run after 30 seconds."""
    downloads: Annotated[int, Field(ge=1)] = 16
    """The clips in memory at once."""
    decode: bool = True
    """Decode every frame of a clip before it is published."""


class ListenSettings(Table):
    """Webhooks: the listener's addresses and the secrets that verify deliveries."""

    public_url: Annotated[str, AfterValidator(_base_url)] | None = None
    """The listener's address as providers see it. Default: no provider is asked for
    webhooks."""
    hints_url: Annotated[str, AfterValidator(_base_url)] = "http://127.0.0.1:8501"
    """The listener's address as runs on this machine see it."""
    secrets: dict[
        Literal["wavespeed", "replicate"], Annotated[str, AfterValidator(_reference)]
    ] = Field(default_factory=dict[Literal["wavespeed", "replicate"], str])
    """The place of each account's secret: `env:NAME` or `block:NAME`. fal and Atlas Cloud
    sign with public keys and need none."""

    def hook(self, provider: str) -> str:
        """The address for this provider's webhooks; empty if they cannot be verified."""
        if self.public_url and provider in {*self.secrets, "fal", "atlas"}:
            return f"{self.public_url}/webhooks/{provider}"
        return ""


class ManifestSettings(Table):
    """How manifests are read."""

    carry: list[str] = Field(default_factory=list[str])
    """Your own columns whose names resemble one of Nightreel's, such as `images` or
    `mode`. Without this, such a column is refused as a misspelt name."""
    convert_stills: bool = True
    """Convert stills that providers do not take (WebP, AVIF, TIFF, BMP, CMYK, 16-bit grey)
    to PNG or JPEG. Otherwise their rows are bad."""
    trust: bool = False
    """Let a manifest name every place that this process can read. Only for manifests of
    your own."""
    allow: Annotated[list[str], AfterValidator(_places)] = Field(
        default_factory=list[str]
    )
    """Folders of this machine, and names, addresses and networks (`10.0.0.0/8`) that are
    not on the internet, that a manifest may name."""


class ReportSettings(Table):
    """The artifacts of a batch in the Prefect UI."""

    public_url: Annotated[str, AfterValidator(_base_url)] | None = None
    """The address of the root as a browser sees it. Default: posters do not link to their
    clips."""


class Settings(Table):
    """All of nightreel.toml. The catalogue validates `models` and `routes`."""

    lanes: dict[Annotated[str, AfterValidator(_lane_name)], LaneSettings] = Field(
        default_factory=dict[str, LaneSettings]
    )
    models: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    routes: dict[str, dict[str, Any]] = Field(default_factory=dict[str, dict[str, Any]])
    manifest: ManifestSettings = ManifestSettings()
    engine: EngineSettings = EngineSettings()
    listen: ListenSettings = ListenSettings()
    report: ReportSettings = ReportSettings()
