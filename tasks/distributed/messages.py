"""The messages between a batch and the runs of its shards; `mailbox` stores them."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from typing import Any

import orjson

from manifests.accounting import LaneTotals
from manifests.checkpoint import dumped, loaded
from manifests.lifecycle import History
from manifests.plain_json import plain
from storage import checksum
from storage.ledger import Holder
from tasks.dispatch import Bill, LearnedLimits, Policy
from tasks.distributed.usage import Grant, Usage
from tasks.engine.stats import WaitingJob, WaitReason
from tasks.engine.trouble import Trouble


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOrder:
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
        before = {life: dumped(history) for life, history in self.before.items()}
        fields = {
            "manifest": self.manifest,
            "policy": self.policy,
            "finish_at": self.finish_at,
            "has_budget": self.has_budget,
            "latencies": self.latencies,
            "before": before,
            "rows": self.rows,
        }
        return checksum.dump(fields)

    @classmethod
    def load(cls, data: bytes, uri: str) -> "ShardOrder":
        fields = checksum.load(data, uri)
        before: dict[str, str] = fields["before"]
        fields["before"] = {
            life: loaded(History, text) for life, text in before.items()
        }
        return cls(**fields)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardReport:
    """The report of a shard's run: its usage, and its counts so far."""

    usage: Usage
    by: Holder
    """The process of the run."""
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
    waiting_jobs: Mapping[str, WaitingJob] = field(
        default_factory=dict[str, WaitingJob]
    )
    """By job, only in the last report."""
    passed_over: Sequence[WaitReason] = ()
    dearest: Mapping[str, Bill] = field(default_factory=dict[str, Bill])
    """By lane whose prices rose: the bill that raised them."""
    troubles: Sequence[Trouble] = ()
    """The troubles of its jobs."""
    fault: str | None = None
    """Why it stopped buying on a lane, if our own code failed too often in a row."""

    def dump(self) -> bytes:
        return checksum.dump(asdict(self), default=plain)

    @classmethod
    def load(cls, data: bytes, uri: str) -> "ShardReport":
        fields = checksum.load(data, uri)
        waiting_jobs = {
            job: WaitingJob(WaitReason(waiting["why"]), waiting["reason"])
            for job, waiting in fields["waiting_jobs"].items()
        }
        bill = {
            lane: replace(LaneTotals(**counts), usd=Decimal(counts["usd"]))
            for lane, counts in fields["bill"].items()
        }
        parsed: dict[str, Any] = {
            "usage": Usage(**fields["usage"]),
            "learned": {
                name: LearnedLimits(**limits)
                for name, limits in fields["learned"].items()
            },
            "by": Holder(**fields["by"]),
            "spent_usd": Decimal(fields["spent_usd"]),
            "bill": bill,
            "waiting_jobs": waiting_jobs,
            "passed_over": [WaitReason(why) for why in fields["passed_over"]],
            "dearest": _bills(fields["dearest"]),
            "troubles": [Trouble.load(one) for one in fields["troubles"]],
        }
        return cls(**{**fields, **parsed})


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """The amounts that each shard's run may use, until the next grants."""

    number: int
    grants: Mapping[int, Grant]
    lanes: Sequence[str]
    """The batch's lanes; it could not count purchases on others."""
    closed: Mapping[str, str]
    """Lanes that are closed for all, and why."""
    dearest: Mapping[str, Bill] = field(default_factory=dict[str, Bill])
    """By lane whose prices rose: the bill that raised them."""
    stop: str | None = None
    """Why nothing more may be bought, if so..."""
    grace_s: float = 0.0
    """... and for how many seconds from now clips that are about to finish are waited for."""

    def dump(self) -> bytes:
        option = orjson.OPT_NON_STR_KEYS
        return checksum.dump(asdict(self), default=plain, option=option)

    @classmethod
    def load(cls, data: bytes, uri: str) -> "Grants":
        fields = checksum.load(data, uri)
        fields["grants"] = {
            int(shard): Grant(**grant) for shard, grant in fields["grants"].items()
        }
        fields["dearest"] = _bills(fields["dearest"])
        return cls(**fields)


def _bills(bills: Mapping[str, Sequence[str]]) -> dict[str, Bill]:
    return {
        lane: (Decimal(listed), Decimal(usd)) for lane, (listed, usd) in bills.items()
    }
