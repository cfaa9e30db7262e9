"""Faults: scripted by still or prompt, or drawn at random from a seed."""

import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum, auto


class Fault(StrEnum):
    """One way in which a submit or a later step fails."""

    THROTTLE = auto()
    """429 before acceptance, without Retry-After."""
    THROTTLE_WITH_RETRY_AFTER = auto()
    REJECT_INPUT = auto()
    UNAUTHORIZED = auto()
    NO_CREDIT = auto()
    DAILY_CAP = auto()
    """The account has used up its submits of the day."""
    DRAIN = auto()
    """Your own GPU accepts nothing for now: it is about to restart."""
    ERROR_BEFORE = auto()
    """The provider's 500; not accepted."""
    GATEWAY_BEFORE = auto()
    """A gateway's 502 page; the request did not reach the provider."""
    ERROR_AFTER = auto()
    """A gateway's 502 page; the provider accepted and charged the request."""
    LOSE_ANSWER = auto()
    """Accepted and charged; the connection closes without an answer."""
    LOSE_ANSWER_MID = auto()
    """Accepted and charged; the connection closes in the middle of the answer."""
    MALFORMED_ACCEPT = auto()
    """Accepted and charged; the answer has status 200 and is not JSON."""
    CACHED_ACCEPT = auto()
    """Not accepted: a gateway repeats the answer to the account's submit before."""
    NOT_FOUND_AT_FIRST = auto()
    """The first two polls find nothing."""
    UNKNOWN_STATUS = auto()
    """The first poll gets an undocumented status word."""
    REFUSE_CONTENT = auto()
    """Accepted, then failed by moderation."""
    FAIL = auto()
    """Accepted, then failed by the provider's fault."""
    STUCK = auto()
    """Accepted and never finished: it keeps its slot for ever."""
    TRUNCATED_CLIP = auto()
    """The first download is short, with a Content-Length to match."""
    CUT_CLIP = auto()
    """The first download's connection closes before Content-Length bytes were sent."""
    HTML_CLIP = auto()
    """The first download is a web page, with status 200."""
    EMPTY_CLIP = auto()
    DRIP_CLIP = auto()
    """The first download brings a byte at a time, and never ends."""
    REFUSED_CLIP = auto()
    """The first seven downloads are refused with 403."""
    PAGE_CLIP = auto()
    """The first seven downloads are the same web page, with status 200."""
    EXPIRED_LINK = auto()
    """The first download finds an expired link; a poll gives a fresh one."""
    FORGET = auto()
    """Accepted and then lost: the server kept it in memory and has restarted."""
    STORE = auto()
    """SGLang moves the clip to a store; its own address answers 400."""
    LOST_CLIP = auto()
    """Accepted and finished, but no link leads to a clip."""


def draw(*facts: str | int) -> float:
    """Return a number in [0, 1) that depends on the facts alone."""
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


Chances = Mapping[Fault, float] | Mapping[str, Mapping[Fault, float]]
"""The probability of each fault: for every provider, or by dialect."""


class Faults:
    """Chooses the fault of the next submit; the script takes precedence over chance."""

    def __init__(
        self,
        scripted: Mapping[str, Sequence[Fault]],
        chances: Chances,
        *,
        seed: int,
    ) -> None:
        self.scripted = {part: list(faults) for part, faults in scripted.items()}
        """Faults by a part of the still's URL or the prompt; each submit takes the first one."""
        self._chances = chances
        self._seed = seed

    def next(
        self, dialect: str, number: int, *, image: str, prompt: str
    ) -> Fault | None:
        """Return the fault of a dialect's submit by its number; None means no fault."""
        for part, left in self.scripted.items():
            if left and (part in image or part in prompt):
                return left.pop(0)
        luck = draw(self._seed, dialect, number, "fault")
        for fault, chance in sorted(_of(self._chances, dialect).items()):
            if luck < chance:
                return fault
            luck -= chance
        return None


def _of(chances: Chances, dialect: str) -> Mapping[Fault, float]:
    own: dict[Fault, float] = {}
    for name, chance in chances.items():
        match chance:
            case float() | int():
                own[Fault(name)] = chance
            case _ if name == dialect:
                own |= chance
            case _:
                pass
    return own


def parse_faults(text: str) -> dict[Fault, float]:
    """Parse probabilities such as `lose_answer=0.02,throttle=0.1`.

    Raises:
        ValueError: a fault is unknown, or a value is no probability.
    """
    chances: dict[Fault, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, chance = part.partition("=")
        if name not in set(Fault):
            raise ValueError(f"faults: no fault {name!r}; there are {', '.join(Fault)}")
        try:
            chances[Fault(name)] = float(chance)
        except ValueError:
            raise ValueError(
                f"faults: {part!r} needs a chance, such as {name}=0.02"
            ) from None
        if not equals or not 0 <= chances[Fault(name)] <= 1:
            raise ValueError(f"faults: {part!r} is not a chance between 0 and 1")
    if (total := sum(chances.values())) > 1:
        raise ValueError(f"faults: the chances add up to {total:g}, over 1")
    return chances
