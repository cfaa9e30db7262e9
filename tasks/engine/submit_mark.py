"""The mark of a submit: the account, our own name for the request, and the place.

`Intended.mark` holds it as `ACCOUNT:NAME PLACE`. A doubt belongs to its account and to the
place (base URL) that the submit was sent to: only that place can prove that it is absent.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from manifests.lifecycle import UNBILLED, History
from tasks.dispatch import Lane

ABSENT: Final = "not at its provider: "
"""The beginning of the reason of a `Refused` that settled a doubt."""


@dataclass(frozen=True, slots=True)
class SubmitMark:
    """The parts of a mark; all are empty if the provider cannot be asked."""

    account: str
    name: str
    """The provider's own part: see `Findable.mark`."""
    place: str
    """Empty in a mark of an earlier version, which did not record it."""

    @classmethod
    def of(cls, mark: str) -> "SubmitMark":
        """Read a mark from the ledger."""
        account, _, rest = mark.partition(":")
        name, _, place = rest.partition(" ")
        return cls(account, name, place)

    def __str__(self) -> str:
        return f"{self.account}:{self.name} {self.place}"

    def sent_through(self, lane: Lane) -> bool:
        """Whether the lane uses the account, and certainly also the place, of the submit."""
        if self.account != account_fingerprint(lane):
            return False
        # The fingerprint of an own GPU contains its address.
        return self.account.startswith(UNBILLED) or self.place == lane.endpoint.place


def reference(lane: Lane, job_id: str, history: History) -> str:
    """Our own name for a job's next submit.

    It is new for each attempt. But a submit that was absent may still arrive: if the
    provider refuses a name that is in use, the next submit at the account keeps the name,
    until one of them is accepted. Then only one of the two can be.
    """
    mark = SubmitMark.of(history.mark)
    may_arrive = (history.reason or "").startswith(ABSENT)
    kept = mark.name != f"{job_id}-{history.attempts}"
    if (
        lane.endpoint.provider.unique_references
        and mark.account == account_fingerprint(lane)
        and history.ticket is None
        and (may_arrive or kept)
    ):
        return mark.name
    return f"{job_id}-{history.attempts + 1}"


def account_fingerprint(lane: Lane) -> str:
    """A short hash that tells accounts apart without storing a key."""
    provider = lane.endpoint.provider
    # An own GPU lists only its own jobs, so its address is part of the identity.
    own, place = ("", "") if lane.paid else (UNBILLED, f" {lane.endpoint.base_url}")
    identity = f"{provider.name} {provider.key}{place}".encode()
    return f"{own}{hashlib.blake2b(identity, digest_size=4).hexdigest()}"


def lane_to_ask(lanes: Iterable[Lane], history: History) -> Lane | None:
    """The lane that can ask about the job's last submit, or None.

    All lanes with the account can ask. A lane at the place of the submit goes first, then
    the lane of the submit's own name.
    """
    mark = SubmitMark.of(history.mark)
    asking = [lane for lane in lanes if account_fingerprint(lane) == mark.account]
    return min(
        asking,
        key=lambda lane: (not mark.sent_through(lane), lane.name != history.lane),
        default=None,
    )


def lane_for_ticket(lanes: Iterable[Lane], history: History) -> Lane | None:
    """The lane through which the provider of an accepted job can be asked.

    A lane with the same account or GPU goes first, even if it was renamed. Then any other
    lane of the same provider.
    """
    provider = history.ticket.provider if history.ticket else ""
    account = SubmitMark.of(history.mark).account

    def far(lane: Lane) -> tuple[bool, bool]:
        return account_fingerprint(lane) != account, lane.name != history.lane

    candidates = (lane for lane in lanes if lane.endpoint.provider.name == provider)
    return min(candidates, key=far, default=None)
