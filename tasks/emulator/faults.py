"""What goes wrong: scripted by still or prompt, or drawn at random from a seed."""

import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum, auto


class Fault(StrEnum):
    """One way in which a submit, or what comes after it, goes wrong."""

    THROTTLE = auto()
    """429 before acceptance, without saying for how long."""
    THROTTLE_WITH_RETRY_AFTER = auto()
    REJECT_INPUT = auto()
    UNAUTHORIZED = auto()
    NO_CREDIT = auto()
    DAILY_CAP = auto()
    """The account has had its share of the day."""
    DRAIN = auto()
    """A GPU of one's own takes nothing for now: it is about to restart."""
    ERROR_BEFORE = auto()
    """The provider's own 500, not accepted."""
    GATEWAY_BEFORE = auto()
    """A gateway's 502 page; nothing behind it was reached."""
    ERROR_AFTER = auto()
    """A gateway's 502 page; the request behind it was accepted and charged."""
    LOSE_ANSWER = auto()
    """Accepted and charged; the connection closes without an answer."""
    LOSE_ANSWER_MID = auto()
    """Accepted and charged; the connection closes in the middle of the answer."""
    MALFORMED_ACCEPT = auto()
    """Accepted and charged; the answer is good by its status, but is not JSON."""
    NOT_FOUND_AT_FIRST = auto()
    """The first two polls find nothing."""
    UNKNOWN_STATUS = auto()
    """The first poll meets a status word that nobody documented."""
    REFUSE_CONTENT = auto()
    """Accepted, then failed by moderation."""
    FAIL = auto()
    """Accepted, then failed on the provider's side."""
    STUCK = auto()
    """Accepted, and never finished: it keeps its slot for ever."""
    TRUNCATED_CLIP = auto()
    """The first download is short, and its Content-Length says so too."""
    CUT_CLIP = auto()
    """The first download's connection closes before its Content-Length is reached."""
    HTML_CLIP = auto()
    """The first download is a web page, with status 200."""
    EMPTY_CLIP = auto()
    EXPIRED_LINK = auto()
    """The first download finds that its link has died; a poll gives a fresh one."""
    FORGET = auto()
    """Accepted, and never heard of again: whoever had it in memory has restarted."""
    STORE = auto()
    """SGLang has put the clip into a store: at its own address there is 400."""
    LOST_CLIP = auto()
    """Accepted, and done by every poll's word; but whatever link, there is no clip."""


def draw(*facts: str | int) -> float:
    """A number in [0, 1) that the facts alone decide."""
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


Chances = Mapping[Fault, float] | Mapping[str, Mapping[Fault, float]]
"""How often each fault comes by chance: at every provider alike, or by dialect."""


class Faults:
    """Which fault the next submit gets, if any; a script goes before chance."""

    def __init__(
        self,
        scripted: Mapping[str, Sequence[Fault]],
        chances: Chances,
        *,
        seed: int,
    ) -> None:
        self.scripted = {part: list(faults) for part, faults in scripted.items()}
        """By a part of the still's URL or of the prompt; each submit takes the first left."""
        self._chances = chances
        self._seed = seed

    def next(
        self, dialect: str, number: int, *, image: str, prompt: str
    ) -> Fault | None:
        """The fault of this dialect's submit with this number."""
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
    mine: dict[Fault, float] = {}
    for name, chance in chances.items():
        match chance:
            case float() | int():
                mine[Fault(name)] = chance
            case _ if name == dialect:
                mine |= chance
            case _:
                pass
    return mine


def parse_faults(text: str) -> dict[Fault, float]:
    """Chances from words like `lose_answer=0.02,throttle=0.1`.

    Raises:
        ValueError: an unknown fault, or chances that are not chances.
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
