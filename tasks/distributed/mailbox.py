"""The messages between a batch and the runs of its shards, as objects below the root.

    shards/<batch>/0007.parquet       its rows of the manifest: see `manifests.input.shard_extract`
    shards/<batch>/0007.json          the errand: all else that a run needs; put last, deleted first
    shards/<batch>/0007.02.usage.json the report of its second run: see `quota`
    shards/<batch>/0007.02.last.usage.json  the last report, which no late put replaces
    shards/<batch>/grant.json         the amounts that each run may use

They are deleted when the shard, or the batch, is over. A run that claims its shard and then
finds no errand has come too late.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import orjson

from manifests.accounting.totals import LaneTotals
from manifests.checkpoint.columns import dumped, loaded
from manifests.lifecycle import History
from storage import checksum, layout
from storage.ledger import Holder, LedgerError
from storage.objects import DamagedError, MissingError, Objects
from tasks.dispatch.eligibility import Policy
from tasks.dispatch.rate_limit import LearnedLimits
from tasks.distributed.quota import Hand, Share
from tasks.engine.stats import Rest, Why

LOCAL_S: Final = 0.5
"""Seconds between two reports, if requests to the store are free..."""
REMOTE_S: Final = 3.0
"""... and if they cost money."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """All that a shard's run needs besides its rows."""

    manifest: str
    """The URI of the manifest: the stills of its rows may be relative to it."""
    policy: Policy
    finish_at: float | None
    has_budget: bool
    """Whether the run must be granted money before it spends any."""
    latencies: Mapping[str, Sequence[float]]
    before: Mapping[str, History]
    """The histories of its jobs that have one and are not over."""
    rows: str
    """The SHA-256 of the file with its rows: other rows would make other clips."""

    def dump(self) -> bytes:
        before = {life: dumped(past) for life, past in self.before.items()}
        plain = {
            "manifest": self.manifest,
            "policy": self.policy,
            "finish_at": self.finish_at,
            "has_budget": self.has_budget,
            "latencies": self.latencies,
            "before": before,
            "rows": self.rows,
        }
        return checksum.dump(plain)

    @classmethod
    def load(cls, data: bytes, uri: str) -> "Errand":
        said = checksum.load(data, uri)
        before: dict[str, str] = said["before"]
        said["before"] = {life: loaded(History, text) for life, text in before.items()}
        return cls(**said)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The report of a shard's run: its hand, and its counts so far."""

    hand: Hand
    by: Holder
    """The process of the run."""
    bought: int = 0
    published: int = 0
    rejected: int = 0
    expired: int = 0
    spent_usd: Decimal = Decimal(0)
    bill: Mapping[str, LaneTotals] = field(default_factory=dict[str, LaneTotals])
    """By lane."""
    closed: Mapping[str, str] = field(default_factory=dict[str, str])
    """By lane that no run can use: why."""
    closed_here: Mapping[str, str] = field(default_factory=dict[str, str])
    """By lane that the run closed for itself alone: why."""
    learned: Mapping[str, LearnedLimits] = field(
        default_factory=dict[str, LearnedLimits]
    )
    """By account: the limits that it learned from refusals, within its share."""
    resting: Mapping[str, Rest] = field(default_factory=dict[str, Rest])
    """By job, only in the last report."""
    passed_over: Sequence[Why] = ()
    fault: str | None = None
    """Why it stopped buying on a lane, if our own code failed too often in a row."""

    def dump(self) -> bytes:
        return checksum.dump(asdict(self), default=str)

    @classmethod
    def load(cls, data: bytes, uri: str) -> "Report":
        said = checksum.load(data, uri)
        resting = {
            job: Rest(Why(rest["why"]), rest["reason"])
            for job, rest in said["resting"].items()
        }
        bill = {
            lane: replace(LaneTotals(**counts), usd=Decimal(counts["usd"]))
            for lane, counts in said["bill"].items()
        }
        known: dict[str, Any] = {
            "hand": Hand(**said["hand"]),
            "learned": {
                name: LearnedLimits(**one) for name, one in said["learned"].items()
            },
            "by": Holder(**said["by"]),
            "spent_usd": Decimal(said["spent_usd"]),
            "bill": bill,
            "resting": resting,
            "passed_over": [Why(why) for why in said["passed_over"]],
        }
        return cls(**{**said, **known})


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """The amounts that each shard's run may use, until the next deal."""

    number: int
    shares: Mapping[int, Share]
    lanes: Sequence[str]
    """The batch's lanes; it could not count purchases on others."""
    closed: Mapping[str, str]
    """Lanes that are closed for all, and why."""
    stop: str | None = None
    """Why nothing more may be bought, if so..."""
    grace_s: float = 0.0
    """... and for how many seconds from now clips that are about to finish are waited for."""

    def dump(self) -> bytes:
        return checksum.dump(asdict(self), option=orjson.OPT_NON_STR_KEYS)

    @classmethod
    def load(cls, data: bytes, uri: str) -> "Deal":
        said = checksum.load(data, uri)
        said["shares"] = {int(n): Share(**one) for n, one in said["shares"].items()}
        return cls(**said)


def beat_s(objects: Objects) -> float:
    """Seconds between two messages."""
    return REMOTE_S if objects.remote else LOCAL_S


async def give(
    objects: Objects, batch: str, shard: int, errand: Errand, slip: Path
) -> None:
    """Write an errand, for the run of the shard."""
    await objects.put_file(layout.shard_rows(batch, shard), slip)
    await objects.put(layout.shard_order(batch, shard), errand.dump())


async def take(objects: Objects, batch: str, shard: int, slip: Path) -> Errand:
    """Read the errand of a shard, and download its rows to the file `slip`.

    Raises:
        LedgerError: there is no such errand, or it was withdrawn.
        DamagedError: the errand, or the file with its rows, is damaged.
    """
    told, rows = layout.shard_order(batch, shard), layout.shard_rows(batch, shard)
    try:
        errand = Errand.load(await objects.get(told), objects.uri(told))
        digest = await objects.get_file(rows, slip)
    except MissingError as error:
        said = f"{objects.root}: shard {shard} of batch {batch!r} is not to be run"
        raise LedgerError(said) from error
    if digest != errand.rows:
        uri = objects.uri(rows)
        raise DamagedError(f"{uri}: damaged: it does not have the rows of this shard")
    return errand


async def is_on(objects: Objects, batch: str, shard: int) -> bool:
    """Whether a shard is still to be run."""
    try:
        await objects.get(layout.shard_order(batch, shard))
    except MissingError:
        return False
    return True


async def withdraw(objects: Objects, batch: str, shard: int) -> None:
    """Withdraw the errand: no run starts the shard any more."""
    await objects.delete(layout.shard_order(batch, shard))
    await objects.delete(layout.shard_rows(batch, shard))


async def clear(objects: Objects, batch: str) -> None:
    """Delete all messages of this batch. A batch that took over has a separate folder."""
    async for stored in objects.list(layout.messages(batch)):
        await objects.delete(stored.key)


async def hands(objects: Objects, batch: str) -> dict[int, list[str]]:
    """By shard: the keys of its runs' reports, the oldest first."""
    found: dict[int, list[str]] = {}
    async for stored in objects.list(layout.messages(batch)):
        if said := layout.USAGE.fullmatch(stored.key):
            found.setdefault(int(said["shard"]), []).append(stored.key)
    return {shard: sorted(keys, key=_age) for shard, keys in found.items()}


def _age(key: str) -> tuple[int, bool]:
    said = layout.USAGE.fullmatch(key)
    return (int(said["generation"]), said["last"] is not None) if said else (0, False)


def slots_of(account: str) -> str:
    """The name of the quota of clips that an account makes at once."""
    return f"slots {account}"


def accounts(quotas: Iterable[str]) -> list[str]:
    """The accounts whose slots are among these quotas."""
    slots = slots_of("")
    return sorted(x.removeprefix(slots) for x in quotas if x.startswith(slots))


def minute_of(account: str) -> str:
    """The name of the quota of submits that an account takes in a minute."""
    return f"minute {account}"


def submits_of(lane: str) -> str:
    """The name of the purse of submits that a lane takes in a day."""
    return f"submits {lane}"


def usd_of(lane: str) -> str:
    """The name of the purse of a lane's money in a day, in millionths of a dollar."""
    return f"usd {lane}"


BUDGET: Final = "budget"
"""The name of the purse of the batch's budget, in millionths of a dollar."""


def millionths(usd: Decimal) -> int:
    return int(usd.scaleb(6))


def dollars(amount: int) -> Decimal:
    return Decimal(amount).scaleb(-6)
