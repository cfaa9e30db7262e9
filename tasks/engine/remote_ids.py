"""The providers' ids of our submits: two submits never have the same one.

A gateway that caches the answers to submits returns one id for several of them. The first
owner keeps the id, because a second job with it would publish the clip of the first.
"""

from collections.abc import Mapping

from manifests.lifecycle import UNBILLED, History, Ticket
from tasks.engine.submit_mark import SubmitMark

_Place = tuple[str, str, str]


class RemoteIds:
    """The owner of each id: the unfinished jobs on record, and every submit of this run."""

    def __init__(self, lives: Mapping[str, History]) -> None:
        self._owners = dict[_Place, tuple[str, int]]()
        for job, history in lives.items():
            if history.ticket is not None:
                self.claim(job, history, history.ticket)

    def claim(self, job: str, history: History, ticket: Ticket) -> str | None:
        """Make a job's latest attempt the owner of the ticket; or return the other owner."""
        attempt = job, history.attempts
        owner = self._owners.setdefault(_place(history, ticket), attempt)
        return None if owner == attempt else owner[0]


def _place(history: History, ticket: Ticket) -> _Place:
    # Two own GPUs may count their jobs alike; a paid provider's ids differ everywhere.
    account = SubmitMark.of(history.mark).account
    own = account if account.startswith(UNBILLED) else ""
    return ticket.provider, own, ticket.id
