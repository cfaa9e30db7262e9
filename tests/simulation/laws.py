"""The laws of a night, each with a name, and the witness that checks them.

The witness knows true time: when each record became durable, and when each provider
took each submit. It compares our code's own statements with that.
"""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import median
from typing import Any, Final

import orjson

from manifests.lifecycle import (
    NEW,
    OVER,
    Accepted,
    Discarded,
    Doubted,
    Entry,
    Generated,
    History,
    IllegalTransitionError,
    Intended,
    Published,
    Refused,
    Rejected,
    Risked,
    State,
)
from storage.ledger import SILENT_S
from storage.ledger.codec import Open, Seal, unpack
from tests.simulation.loop import EPOCH, Node, VirtualLoop
from tests.simulation.plan import Run, Script
from tests.simulation.providers import Provider, Sale, whose
from tests.simulation.store import Store, Write

LAWS: Final = {
    "write-ahead": "a provider takes no submit that is not on record before it is sent",
    "once": "no attempt is taken twice",
    "free": "what is on record as not charged was not charged",
    "paid-once": "no job is charged twice without Discarded or Risked on record",
    "ticket": "a ticket is that of the job's own submit",
    "legal": "the ledger tells a life that can happen",
    "replay": "whoever reads the ledger knows what its writer knows",
    "kept": "what was durable is read for ever",
    "budget": "no run spends more than its budget, but for what was under way when the "
    "first bill above its price came",
    "risk": "no more is risked on a lane than its owner allows",
    "day": "no lane takes more in a day than its cap",
    "slots": "no more is under way on a lane than its slots and what it may queue",
    "volley": "no more is on its way to a lane than a volley",
    "rate": "no more is sent in a minute than a lane's rate and one volley",
    "damage": "who finds the record damaged names the object, and has bought nothing",
    "whole": "what is published is there, clip and sidecar, and is the job's own",
    "ends": "every job ends, or says why",
    "unbroken": "nothing breaks that nobody foresaw",
    "noticed": "a clip that is ready is noticed while it is fresh",
    "held": "nobody takes over a root that is held, but by leave",
    "bill": "what was charged was counted, as far as the provider stated it",
    "dearer": "a lane whose bill was above its price is reserved at the bill's rate",
    "summary": "a run's summary is what is on record",
    "done": "when all is well again, all that can be done is done",
    "stuck": "a night ends",
}

LATE_S: Final = 60.0
"""How late a clip may be noticed, beyond its own duration or the duration of others on
its lane as their buyer sees it, which includes the wait at a provider that queues."""

DEARER_S: Final = 60.0
"""How long after a dearer bill is on record a submit may still be recorded at the old
price: it was reserved before, and its still was handed over meanwhile."""

_CLAIM: Final = re.compile(r"ledger/epochs/(\d{6})\.json")
_SEGMENT: Final = re.compile(
    r"(?P<stream>ledger/(?P<epoch>\d{6})-.+)/(?P<number>\d{10})\.jsonl\.zst"
)
_SIDECAR: Final = re.compile(r"clips/../([0-9a-f]{32})\.json")


@dataclass(frozen=True, slots=True)
class Breach:
    """A broken law."""

    law: str
    at: float
    text: str

    def __str__(self) -> str:
        return f"{self.law} at {self.at:.3f} s: {self.text}"


@dataclass(slots=True)
class Attempt:
    """A submit that was recorded as intended, and its outcome."""

    life: str
    number: int
    lane: str
    price_usd: Decimal
    node: Node | None
    at: float
    sale: Sale | None = None
    doubted: bool = False
    freed: str = ""
    """The recorded reason for no charge."""
    billed: bool = False
    """Whether the charge that the provider stated is on record."""


class Witness:
    """Sees every write, every sale and every answer, in true time."""

    def __init__(
        self,
        loop: VirtualLoop,
        store: Store,
        providers: Mapping[str, Provider],
        script: Script,
    ) -> None:
        self.breaches: list[Breach] = []
        self.trace: list[str] = []
        self.entries: list[Entry] = []
        self.histories: dict[str, History] = {}
        self.attempts: dict[str, list[Attempt]] = defaultdict(list)
        self.runs: dict[Node, Run] = {}
        self._heads: dict[Node, Node] = {}
        self._loop = loop
        self._store = store
        self._providers = providers
        self._jobs = {job.prompt: job.id for job in script.jobs}
        self._prompts = {job.id: job.prompt for job in script.jobs}
        self._script = script
        self._sales: dict[str, Sale] = {}
        self._claims: dict[int, Node | None] = {}
        self._claimed_at: dict[Node, float] = {}
        self._sealed: set[int] = set()
        self._writers: dict[str, Node | None] = {}
        self._shut_out: set[Node | None] = set()
        self._next: dict[str, int] = defaultdict(lambda: 1)
        self._early: dict[tuple[str, int], Write] = {}
        self._ended: set[str] = set()
        self._beats: dict[Node, float] = {}
        self._dearer_since: dict[tuple[Node, str], float] = {}
        self._risked: dict[tuple[Node | None, str], Decimal] = defaultdict(Decimal)
        self._bought: dict[Node, list[Sale]] = defaultdict(list)
        self._on_lane: dict[tuple[Node, str], list[Attempt]] = defaultdict(list)
        store.written.append(self.wrote)
        for provider in providers.values():
            provider.told.append(self.sold)
            provider.asked.append(self.submitting)

    def joins(self, node: Node, head: Node, run: Run) -> None:
        """Let a process run a shard for another; both share one set of limits."""
        self.runs[node] = run
        self._heads[node] = head

    def _head(self, node: Node) -> Node:
        return self._heads.get(node, node)

    def breach(self, law: str, text: str) -> None:
        self.breaches.append(Breach(law, self._loop.time(), text))
        self.note(f"BREACH {law}: {text}")

    def note(self, text: str) -> None:
        self.trace.append(f"{self._loop.time():12.3f} {text}")

    # Checks of writes

    def wrote(self, write: Write) -> None:
        self.note(f"{write.node} wrote {write.key}")
        if claim := _CLAIM.fullmatch(write.key):
            self._claimed(int(claim[1]), write)
        elif segment := _SEGMENT.fullmatch(write.key):
            self._segment(segment["stream"], int(segment["number"]), write)
        elif write.key == "ledger/holder.json" and write.node is not None:
            self._beats[write.node] = write.at

    def _claimed(self, epoch: int, write: Write) -> None:
        if epoch in self._claims:
            self.breach("held", f"epoch {epoch} is claimed a second time")
        before = self._claims.get(epoch - 1)
        self._claims[epoch] = write.node
        if write.node is not None:
            self._claimed_at[write.node] = write.at
        if write.node is None or before is None or epoch - 1 in self._sealed:
            return
        self._beats[write.node] = write.at
        run = self.runs.get(write.node)
        quiet_s = write.at - self._beats.get(before, -math.inf)
        told = self._script.clocks_agree and not self._script.store.away
        alive = before.alive and not before.paused and quiet_s < 0.6 * SILENT_S
        if run and not run.take_over and told and alive:
            self.breach("held", f"{write.node} took epoch {epoch} from {before}")

    def _segment(self, stream: str, number: int, write: Write) -> None:
        """A segment is on record once all segments before it in its stream are."""
        if stream in self._ended:
            return
        if number < self._next[stream]:
            self.breach("kept", f"{write.key} is written a second time")
        self._early[stream, number] = write
        while found := self._early.pop((stream, self._next[stream]), None):
            self._next[stream] += 1
            self._recorded(stream, found)

    def _recorded(self, stream: str, write: Write) -> None:
        for record in unpack(write.data, write.key):
            writer = self._writers.setdefault(stream, write.node)
            if isinstance(record, Seal):
                self._ended.add(stream)
                if writer is not write.node:
                    self._shut_out.add(writer)
                if stream.endswith("/main"):
                    self._sealed.add(int(stream.split("/")[1][:6]))
                continue
            if isinstance(record, Open):
                continue
            event = record.event
            self.note(f"{write.node} recorded {record.job[:8]} {_told(event)}")
            self.entries.append(record)
            history = self.histories.get(record.job, NEW)
            try:
                self.histories[record.job] = history.after(record)
            except IllegalTransitionError as exc:
                self.breach("legal", str(exc))
                continue
            self._follow(record, history, write)

    def _follow(self, entry: Entry, history: History, write: Write) -> None:
        life, event, every = entry.job, entry.event, self.attempts[entry.job]
        latest = every[-1] if every else None
        match event:
            case Intended(lane=lane, price_usd=price):
                attempt = Attempt(
                    life, len(every) + 1, lane, price, write.node, write.at
                )
                every.append(attempt)
                if write.node is not None:
                    self._on_lane[self._head(write.node), lane].append(attempt)
            case Accepted(ticket) if latest is not None:
                self._ticketed(latest, ticket.id)
            case Doubted() if latest is not None:
                latest.doubted = True
            case Generated() if latest is not None:
                self._stated(latest, event, write)
                if latest.node is write.node:
                    self._noticed(latest)
            case Refused(reason) | Rejected(reason, False) if latest is not None:
                latest.freed = reason
                self._free(latest)
            case Risked() if latest is not None:
                self._risk(entry, latest, write.node, history)
            case Published(_, facts):
                self._whole(life, facts.sha256)
            case _:
                pass

    def _stated(self, attempt: Attempt, event: Generated, write: Write) -> None:
        """Check a stated charge, and note since when the writer knows a dearer rate."""
        sale, attempt.billed = attempt.sale, event.usd is not None
        if sale is None or (event.usd is None and sale.dearer == 1):
            return
        if event.usd != sale.made.spec.price_usd:
            self.breach("bill", f"{attempt.life}: {event.usd} USD is on record")
        if write.node is not None and sale.dearer > 1:
            self._dearer_since.setdefault((write.node, attempt.lane), write.at)

    def _reserved(self, attempt: Attempt) -> None:
        """Check that a submit is reserved at the rate that its buyer knows."""
        sale, node = attempt.sale, attempt.node
        if sale is None or node is None:
            return
        since = self._dearer_since.get((node, attempt.lane), math.inf)
        if (
            attempt.at > since + DEARER_S
            and attempt.price_usd < sale.made.spec.price_usd
        ):
            text = f"{node} reserved {attempt.price_usd} USD on {attempt.lane}"
            self.breach("dearer", f"{text} for {sale.made.spec.price_usd} USD")

    def _noticed(self, attempt: Attempt) -> None:
        """Check that the run that bought a clip, idle otherwise, noticed its end in
        time."""
        sale, node = attempt.sale, attempt.node
        run = self.runs.get(node) if node else None
        if sale is None or run is None or not run.quiet:
            return
        sale.account.advance(self._loop.time())
        if sale.made.ended_at is None:
            return
        late_s = self._loop.time() - sale.made.ended_at
        if late_s > LATE_S + max(sale.made.latency_s, self._usual_s(sale.provider)):
            detail = f"{attempt.life}: after {late_s:.0f} s; it took {sale.made.latency_s:.0f}"
            self.breach("noticed", f"{node} on {attempt.lane}: {detail}")

    def _usual_s(self, provider: str) -> float:
        """The median time from a submit to its end, at this provider."""
        made = [(x.at, x.made) for x in self._sales.values() if x.provider == provider]
        return median(
            [each.ended_at - at for at, each in made if each.ended_at is not None]
        )

    def _ticketed(self, attempt: Attempt, remote: str) -> None:
        sale = self._sales.get(remote)
        if sale is None:
            self.breach("ticket", f"{attempt.life}: nobody sold {remote}")
        elif sale.prompt != self._prompts.get(attempt.life):
            self.breach("ticket", f"{attempt.life}: {remote} is for {sale.prompt!r}")
        elif attempt.sale is None:
            attempt.sale = sale
        elif attempt.sale is not sale:
            self.breach(
                "once", f"{attempt.life}: {remote} beside {attempt.sale.made.id}"
            )

    def _free(self, attempt: Attempt) -> None:
        sale = attempt.sale
        if sale is None:
            return
        sale.account.advance(self._loop.time())
        if not sale.refunded:
            detail = f"{attempt.life} attempt {attempt.number}: {attempt.freed}"
            self.breach("free", f"{detail}; {sale.provider} has it, {sale.made.stage}")

    def _risk(
        self, entry: Entry, attempt: Attempt, node: Node | None, history: History
    ) -> None:
        if node is None or (run := self.runs.get(node)) is None:
            return
        head = self._head(node)
        ahead_s = max(each.ahead_s for each in self.runs)
        if entry.at < EPOCH + ahead_s + self._claimed_at[head]:
            # An earlier run risked it, by any clock, and could not record it.
            return
        self._risked[head, attempt.lane] += history.price_usd
        allowed = next(lane.risk_usd for lane in run.lanes if lane.name == attempt.lane)
        if self._risked[head, attempt.lane] > allowed:
            self.breach("risk", f"{node} risked {self._risked[head, attempt.lane]}")

    def _whole(self, job: str, sha256: str) -> None:
        blobs = self._store.blobs
        mp4 = blobs.get(f"clips/{job[:2]}/{job}.mp4")
        raw = blobs.get(f"clips/{job[:2]}/{job}.json")
        if mp4 is None or raw is None:
            self.breach("whole", f"{job}: {'sidecar' if mp4 else 'clip'} is not there")
            return
        sidecar = orjson.loads(raw[0])
        found = hashlib.sha256(mp4[0]).hexdigest()
        if not found == sidecar["sha256"] == sha256:
            self.breach("whole", f"{job}: clip, sidecar and record disagree")
        sale = self._sales.get(whose(mp4[0]))
        if sale is None or sale.prompt != self._prompts.get(job):
            self.breach("whole", f"{job}: the clip is of {sale and sale.prompt!r}")
        elif sidecar["remote_id"] != sale.made.id:
            self.breach("whole", f"{job}: its sidecar tells of another clip")

    # Checks of purchases

    def submitting(self, node: Node, lane: str, under_way: int) -> None:
        """Count a submit on its way to a lane, with `under_way` others."""
        if (run := self.runs.get(node)) is None:
            return
        limit = next(each for each in run.lanes if each.name == lane)
        if under_way > limit.volley:
            self.breach("volley", f"{node}: {under_way} submits on their way to {lane}")

    def sold(self, sale: Sale) -> None:
        self.note(
            f"{sale.node} bought {sale.prompt!r} at {sale.provider}: "
            f"{sale.made.id[:8]} {sale.made.fault or ''}"
        )
        self._sales[sale.made.id] = sale
        job = self._jobs[sale.prompt]
        state = self.histories.get(job, NEW).state
        meant = self.attempts[job][-1] if state is State.IN_DOUBT else None
        if meant is None or meant.lane != sale.provider:
            self.breach(
                "write-ahead", f"{sale.prompt!r} is sold while {job} is {state}"
            )
        elif meant.sale is None:
            meant.sale = sale
            self._reserved(meant)
        else:
            self.breach("once", f"{job} attempt {meant.number} is sold")
        if sale.node is not None and sale.node in self.runs:
            head = self._head(sale.node)
            self._bought[head].append(sale)
            self._limits(head, sale)

    def _limits(self, node: Node, sale: Sale) -> None:
        run, bought = self.runs[node], self._bought[node]
        spent = sum(
            (each.made.spec.price_usd for each in bought if not each.refunded),
            Decimal(0),
        )
        if run.budget_usd is not None and spent > run.budget_usd + self._over(bought):
            self.breach("budget", f"{node} spent {spent} of {run.budget_usd} USD")
        limit = next(lane for lane in run.lanes if lane.name == sale.provider)
        held = [each for each in self._on_lane[node, sale.provider] if self._busy(each)]
        if len(held) > limit.most:
            self.breach("slots", f"{node}: {len(held)} at once on {sale.provider}")

    def _over(self, bought: Sequence[Sale]) -> Decimal:
        """By how much these purchases may exceed a limit: the submits that a run has under
        way on a lane, or in doubt, when its first dearer bill comes cost more than was
        reserved for them."""
        over = Decimal(0)
        heads = {(self._head(each.node), each.provider) for each in bought if each.node}
        for head, lane in heads:
            own = [each for each in bought if each.provider == lane and each.node]
            of = [each for each in own if self._head(each.node) is head]
            more = sorted((each.more_usd for each in of), reverse=True)
            run = self.runs[head]
            most = next(each.most for each in run.lanes if each.name == lane)
            doubted = sum(each.doubted for each in self._on_lane[head, lane])
            over += sum(more[: most * (1 + run.elsewhere) + doubted], Decimal(0))
        return over

    def _rates(self) -> None:
        """Submits are counted by the time they were sent: network delays are not the
        lane's fault."""
        sent: dict[tuple[Node, str], list[float]] = defaultdict(list)
        for sale in self._sales.values():
            if sale.node in self.runs:
                sent[self._head(sale.node), sale.provider].append(sale.sent_at)
        for (node, name), times in sent.items():
            times.sort()
            lane = next(each for each in self.runs[node].lanes if each.name == name)
            # The rate limit grants a turn before it is on record: after a long outage
            # of the store, a volley follows late.
            volleys = 1 + self.runs[node].elsewhere
            most = lane.submits_per_minute + volleys * lane.volley
            for first, last in zip(times, times[most:], strict=False):
                if last - first < 60.0:
                    text = f"{node}: over {most} in {last - first:.1f} s on {name}"
                    self.breach("rate", text)
                    break

    def _busy(self, each: Attempt) -> bool:
        """Whether it certainly occupies a slot, by the answers that its run
        received."""
        if each.sale is None or each.doubted:
            return False
        node, state = each.node, self.histories[each.life].state
        gone = node is None or not node.alive or node in self._shut_out
        if gone and state is State.IN_DOUBT:
            return False
        each.sale.account.advance(self._loop.time())
        young = self._loop.time() - each.sale.at < self._script.deadline_s
        return each.sale.made.ended_at is None and young

    def refuses(self, node: Node, damaged: set[str], error: Exception) -> None:
        """A run ended with an error while objects of the ledger were damaged."""
        if not any(key in str(error) for key in damaged):
            self.breach("damage", f"{node} names none of {sorted(damaged)}: {error}")
        if bought := len(self._bought[self._head(node)]):
            self.breach("damage", f"{node} bought {bought} before: {error}")

    # Checks at the end

    def ended(self, node: Node, batch_run: Any, summary: Any) -> None:
        """A run ended by itself: its summary must match the record."""
        if self._claims[max(self._claims)] is not node:
            # A successor took over, which this run may not have noticed.
            return
        run = self.runs[node]
        self._knows(node, batch_run)
        plan = [job.id for job in self._script.manifests[run.manifest]]
        states = Counter(self._state(job) for job in plan)
        # A row that no lane serves is counted as rejected, and has no record.
        bad = batch_run.plan.bad_rows
        told = {
            "published": summary.published,
            "rejected": summary.rejected - bad,
            "in_doubt": summary.in_doubt,
            "pending": summary.pending + bad,
        }
        counted = {name: states[name] for name in told}
        if counted != told:
            self.breach("summary", f"{node} says {told}, on record are {counted}")
        for (state, reason), count in batch_run.without_clip().jobs.items():
            if reason == "not its turn yet" and not batch_run.engine.stopped:
                self.breach("ends", f"{node}: {count} {state}, and nobody says why")
        for job, waiting in batch_run.engine.tally.waiting_jobs.items():
            if waiting.why == "broken":
                self.breach("unbroken", f"{job}: {waiting.reason}")

    def _state(self, job: str) -> str:
        match self.histories.get(job, NEW).state:
            case State.PUBLISHED | State.REJECTED | State.IN_DOUBT as state:
                return str(state)
            case _:
                return "pending"

    def _knows(self, node: Node, batch_run: Any) -> None:
        """A writer's knowledge at its end must match the store."""
        ledger = batch_run.ledger
        for life, history in self.histories.items():
            known = ledger.history(life)
            if known.state is not history.state:
                self.breach(
                    "replay", f"{node} has {life} {known.state}, not {history.state}"
                )

    def reread(self, entries: Sequence[Entry]) -> None:
        """A fresh reader must find every recorded entry."""
        lost = Counter(map(_plain, self.entries)) - Counter(map(_plain, entries))
        more = Counter(map(_plain, entries)) - Counter(map(_plain, self.entries))
        for what, of in (("lost", lost), ("made up", more)):
            if of:
                text = f"{of.total()} {what}, such as {next(iter(of))[:200]}"
                self.breach("kept", text)
        histories: dict[str, History] = {}
        try:
            for entry in entries:
                history = histories.get(entry.job, NEW)
                histories[entry.job] = history.after(entry)
        except IllegalTransitionError as exc:
            self.breach("legal", f"read: {exc}")
            return
        if histories != self.histories:
            self.breach("replay", "a fresh reader knows other histories")

    def closing(self) -> None:
        """Check the whole night, against the bill and against the record."""
        for every in self.attempts.values():
            for each in every:
                if each.freed:
                    self._free(each)
        charged: dict[str, list[Sale]] = defaultdict(list)
        for sale in self._sales.values():
            sale.account.advance(self._loop.time())
            if not sale.refunded:
                charged[self._jobs[sale.prompt]].append(sale)
        for job, sales in charged.items():
            self._billed(job, sales)
        self._days()
        self._rates()
        for life, history in self.histories.items():
            if history.state is State.PUBLISHED and history.facts is not None:
                self._whole(life, history.facts.sha256)

    def _billed(self, job: str, sales: Sequence[Sale]) -> None:
        history = self.histories.get(job, NEW)
        billed = {
            each.sale.made.id
            for each in self.attempts[job]
            if each.sale is not None and each.billed
        }
        usd = sum(
            (
                sale.made.spec.price_usd
                - (Decimal(0) if sale.made.id in billed else sale.more_usd)
                for sale in sales
            ),
            Decimal(0),
        )
        if usd > history.spent_usd:
            self.breach("bill", f"{job}: charged {usd}, counted {history.spent_usd}")
        if len(sales) > 1 + history.discards + history.risks:
            self.breach("paid-once", f"{job}: charged {len(sales)} times")

    def _days(self) -> None:
        if not self._script.clocks_agree:
            return
        for lane in self._script.lanes:
            if lane.submits_per_day is None and lane.usd_per_day is None:
                continue
            bought = [
                sale
                for sale in self._sales.values()
                if sale.provider == lane.name
                and sale.node in self.runs
                and not self.runs[sale.node].quiet
                and not sale.refunded
            ]
            usd = sum((sale.made.spec.price_usd for sale in bought), Decimal(0))
            if lane.submits_per_day is not None and len(bought) > lane.submits_per_day:
                self.breach("day", f"{lane.name} took {len(bought)}")
            if lane.usd_per_day is not None and usd > lane.usd_per_day + self._over(
                bought
            ):
                self.breach("day", f"{lane.name} took {usd} USD")

    def done(self, reasons: Iterable[tuple[str, str, str]]) -> None:
        """After the quiet runs, no work is left that could be done."""
        for job, why, reason in reasons:
            history = self.histories.get(job, NEW)
            if history.state in OVER:
                continue
            if why in {"doubt", "attempts", "unserved"}:
                continue
            self.breach("done", f"{job} is {history.state}: {why} {reason}")
        waiting_jobs = {job for job, _, _ in reasons}
        for job in self._prompts:
            history = self.histories.get(job, NEW)
            if (
                history.state not in OVER
                and job not in waiting_jobs
                and history.attempts
            ):
                self.breach("done", f"{job} is {history.state}, and nobody says why")


def _plain(entry: Entry) -> str:
    """An entry in words that do not depend on the notation of its numbers."""
    return re.sub(
        r"Decimal\('([^']+)'\)", lambda found: str(float(found[1])), repr(entry)
    )


def _told(event: Any) -> str:
    match event:
        case Intended(lane=lane):
            return f"Intended on {lane}"
        case Accepted(ticket):
            return f"Accepted {ticket.id[:8]}"
        case Published():
            return "Published"
        case Discarded(reason) | Refused(reason) | Risked(reason) | Doubted(reason):
            return f"{type(event).__name__}: {reason[:80]}"
        case _:
            return repr(event)[:100]
