"""Our accepted submits: a provider's listing must show them beside a submit in doubt."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from manifests.lifecycle import Accepted, Entry, History, Intended
from storage.ledger import entries
from storage.objects import Objects
from tasks.dispatch import DAY_S
from tasks.engine.submit_mark import SubmitMark
from tasks.providers.listings import NEAR_S
from tasks.providers.protocol import Doubt


@dataclass(frozen=True, slots=True)
class AcceptedSubmit:
    """An accepted submit, and the times of its two records (Unix seconds)."""

    mark: SubmitMark
    intended_at: float
    accepted_at: float

    def is_near(self, mark: SubmitMark, at: float) -> bool:
        """Whether a listing of the same account and place has it beside a submit of then."""
        same = (self.mark.account, self.mark.place) == (mark.account, mark.place)
        return (
            same and at - NEAR_S <= self.intended_at <= self.accepted_at <= at + NEAR_S
        )


class OwnSubmits:
    """The accepted submits on record, of all runs, read once for each period."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._by_id = dict[str, AcceptedSubmit]()
        """By the provider's id."""
        self._since = inf
        """All submits recorded since this time (Unix seconds) have been read."""

    def add(self, history: History) -> None:
        """Add a submit that was accepted in this process."""
        if history.ticket is not None:
            self._by_id[history.ticket.id] = AcceptedSubmit(
                SubmitMark.of(history.mark),
                history.submitted_at or 0.0,
                history.accepted_at or 0.0,
            )

    async def doubt(self, history: History) -> Doubt:
        """Everything on record that helps to find the last submit of this history."""
        mark, at = SubmitMark.of(history.mark), history.submitted_at or 0.0
        await self._read(at - DAY_S)
        near = {
            remote: submit
            for remote, submit in self._by_id.items()
            if submit.is_near(mark, at)
        }
        return Doubt(
            mark=mark.name,
            submitted_at=at,
            known=frozenset(self._by_id),
            near=frozenset(near),
            enclosed=any(submit.accepted_at < at for submit in near.values())
            and any(submit.intended_at > at for submit in near.values()),
            route=history.route or "",
        )

    async def _read(self, since: float) -> None:
        if since >= self._since:
            return
        intended = dict[str, tuple[str, float]]()
        async for some in entries(self._objects, since=since):
            self._read_some(some, intended)
        self._since = since

    def _read_some(
        self, some: Sequence[Entry], intended: dict[str, tuple[str, float]]
    ) -> None:
        for entry in some:
            match entry.event:
                case Intended(mark=mark):
                    intended[entry.job] = mark, entry.at
                case Accepted(ticket):
                    # The intent may be older than the entries that are read.
                    mark, at = intended.pop(entry.job, ("", 0.0))
                    self._by_id[ticket.id] = AcceptedSubmit(
                        SubmitMark.of(mark), at, entry.at
                    )
                case _:
                    pass
