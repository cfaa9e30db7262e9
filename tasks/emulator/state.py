"""The world behind every dialect: accounts, predictions, money and luck, against one clock."""

import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from threading import RLock
from typing import Final

from tasks.emulator.accounts import Account, Terms
from tasks.emulator.dialects.predictions import Prediction, Stage, Wanted
from tasks.emulator.faults import Fault, Faults, draw
from tasks.emulator.refusals import (
    AwayError,
    BadInputError,
    BrokenError,
    CappedError,
    GatewayError,
    NoCreditError,
    NotFoundError,
    ThrottledError,
    UnauthorizedError,
)

Clock = Callable[[], float]

RETRY_AFTER_S: Final = 1
"""What Fault.THROTTLE_WITH_RETRY_AFTER asks for."""

PLENTY_USD: Final = Decimal(1_000_000)

LOST_POLLS: Final = 2
"""How many polls Fault.NOT_FOUND_AT_FIRST loses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How the world is to be."""

    latency_s: float
    """How long a prediction runs."""
    jitter: float
    """By which share of that it may run longer or shorter."""
    keys: Collection[str] | None
    """The keys that are good; None takes any."""
    keep_s: float | None
    """How long clips are kept, where a submit does not say; None leaves that to each
    provider's terms."""
    seed: int
    """Decides all luck."""
    credit_usd: Decimal | None = None
    """What an account has paid in before it submits anything; None is more than enough."""


class World:
    """What providers know of their customers. Safe to ask from any thread."""

    def __init__(
        self, rules: Rules, faults: Faults, clock: Clock = time.monotonic
    ) -> None:
        self.faults = faults
        self._rules = rules
        self._clock = clock
        self._epoch = time.time() - clock()
        self._lock = RLock()
        self._submits: dict[str, int] = {}
        self._accounts: dict[tuple[str, str], Account] = {}
        self._predictions: dict[str, tuple[Account, Prediction]] = {}

    @property
    def keys(self) -> Collection[str] | None:
        """The keys that are good; None takes any."""
        return self._rules.keys

    def account(self, dialect: str, key: str, terms: Terms) -> Account:
        """The account behind a key.

        Raises:
            UnauthorizedError: there is no key, or it is none of ours.
        """
        if not key or (self._rules.keys is not None and key not in self._rules.keys):
            raise UnauthorizedError("bad key")
        with self._lock:
            account = self._accounts.get((dialect, key))
            if account is None:
                account = Account(dialect, key, terms)
                self._accounts[dialect, key] = account
            return account

    def submit(self, account: Account, wanted: Wanted, image: str) -> Prediction:
        """Accept and charge, or raise why not."""
        with self._lock:
            now = self._clock()
            number = self._submits.get(account.dialect, 0)
            try:
                account.admit(now)
                self._submits[account.dialect] = number + 1
                known_as = f"{wanted.image} {image}"
                fault = self.faults.next(
                    account.dialect, number, image=known_as, prompt=wanted.prompt
                )
                _refuse(fault)
                limited = self._rules.credit_usd is not None
                if limited and wanted.price_usd > self.credit_usd(account):
                    raise NoCreditError("insufficient credits")
            except ThrottledError:
                account.peaks.throttled += 1
                raise
            prediction = Prediction(
                id=wanted.named or secrets.token_hex(16),
                wanted=wanted,
                image=image,
                seed=self._drawn_seed(account, number, wanted),
                fault=fault,
                accepted_at=now,
                accepted_date=self._date(now),
                latency_s=self._latency_s(account, number),
            )
            if before := self._predictions.pop(prediction.id, None):
                # Out of sight, and on the bill all the same.
                self._predictions[secrets.token_hex(16)] = before
            self._predictions[prediction.id] = account, prediction
            account.take(prediction, now)
            return prediction

    def poll(self, account: Account, prediction_id: str) -> tuple[Prediction, Stage]:
        """How a prediction stands, as far as a client is told.

        Raises:
            NotFoundError: it is not this account's, or cannot be seen yet.
        """
        with self._lock:
            prediction = self.find(account, prediction_id)
            prediction.polls += 1
            account.advance(self._clock())
            match prediction.fault:
                case Fault.NOT_FOUND_AT_FIRST if prediction.polls <= LOST_POLLS:
                    raise NotFoundError(f"no prediction {prediction_id} yet")
                case Fault.UNKNOWN_STATUS if prediction.polls == 1:
                    return prediction, Stage.ODD
                case _:
                    return prediction, prediction.stage

    def find(self, account: Account, prediction_id: str) -> Prediction:
        match self._predictions.get(prediction_id):
            case (owner, prediction) if owner is account and _is_known(prediction):
                return prediction
            case _:
                raise NotFoundError(f"no prediction {prediction_id}")

    def position(self, account: Account, prediction: Prediction) -> int:
        with self._lock:
            waiting = prediction.stage is Stage.WAITING
            return account.position(prediction) if waiting else 0

    def download(self, prediction_id: str) -> Prediction:
        """The prediction whose clip is fetched.

        Raises:
            NotFoundError: there is no clip, or not any more.
        """
        with self._lock:
            now = self._clock()
            owner, made = self._predictions.get(prediction_id, (None, None))
            if owner is None or made is None:
                raise NotFoundError("no such clip")
            owner.advance(now)
            if made.stage is not Stage.SUCCEEDED or made.ended_at is None:
                raise NotFoundError("no such clip")
            linked_at = made.renewed_at or made.ended_at
            if now > linked_at + self.keep_s(owner, made):
                raise NotFoundError("this clip has expired")
            made.downloads += 1
            if made.fault is Fault.LOST_CLIP:
                raise NotFoundError("this clip is not there")
            if made.fault is Fault.EXPIRED_LINK and made.downloads == 1:
                raise NotFoundError("this link has expired")
            return made

    def renew(self, prediction: Prediction) -> None:
        """Give its clip a fresh link, which lives as long as the first."""
        with self._lock:
            prediction.renewed_at = self._clock()

    def submitted_today(self, account: Account) -> int:
        """How many were accepted in the last 24 hours."""
        with self._lock:
            return account.today(self._clock())

    def keep_s(self, account: Account, prediction: Prediction) -> float:
        """How long after its end a prediction's clip is kept."""
        if prediction.wanted.keep_s is not None:
            return prediction.wanted.keep_s
        rule = self._rules.keep_s
        return account.terms.keep_s if rule is None else rule

    def expired(self, account: Account, prediction: Prediction) -> bool:
        """Whether its clip is gone for good."""
        with self._lock:
            ended = prediction.ended_at
            return ended is not None and self._clock() > ended + self.keep_s(
                account, prediction
            )

    def listed(self, account: Account) -> list[Prediction]:
        """All that this account ever had accepted, the newest first."""
        with self._lock:
            account.advance(self._clock())
            mine = [
                made
                for owner, made in self._predictions.values()
                if owner is account and _is_known(made)
            ]
            return mine[::-1]

    def referred(self, account: Account, reference: str) -> Prediction:
        """The prediction that the customer calls so. Raises NotFoundError."""
        for made in self.listed(account):
            if made.wanted.reference == reference:
                return made
        raise NotFoundError(f"no prediction called {reference}")

    def credit_usd(self, account: Account) -> Decimal:
        """What is left of what the account paid in."""
        kept = account.terms.refunds
        used = [p.wanted.price_usd for p in self.listed(account) if p.stage not in kept]
        paid = self._rules.credit_usd
        return (PLENTY_USD if paid is None else paid) - sum(used, Decimal(0))

    def _latency_s(self, account: Account, number: int) -> float:
        luck = draw(self._rules.seed, account.dialect, number, "latency")
        return self._rules.latency_s * (1 + self._rules.jitter * (2 * luck - 1))

    def _drawn_seed(self, account: Account, number: int, wanted: Wanted) -> int:
        if wanted.seed is not None:
            return wanted.seed
        return int(draw(self._rules.seed, account.dialect, number, "seed") * 2**31)

    def _date(self, at: float) -> str:
        """A moment of the world's clock, as providers write it."""
        moment = datetime.fromtimestamp(self._epoch + at, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def everything(self) -> list[tuple[Account, Prediction]]:
        """All that was ever accepted, in that order."""
        with self._lock:
            for account in self._accounts.values():
                account.advance(self._clock())
            return list(self._predictions.values())

    def accounts(self) -> list[Account]:
        with self._lock:
            return list(self._accounts.values())


def _is_known(prediction: Prediction) -> bool:
    return prediction.fault is not Fault.FORGET


def _refuse(fault: Fault | None) -> None:
    match fault:
        case Fault.THROTTLE:
            raise ThrottledError("too many requests")
        case Fault.THROTTLE_WITH_RETRY_AFTER:
            raise ThrottledError("too many requests", RETRY_AFTER_S)
        case Fault.REJECT_INPUT:
            said = "image: the image is too small"
            raise BadInputError("image", "image_too_small", said)
        case Fault.UNAUTHORIZED:
            raise UnauthorizedError("this key has been revoked")
        case Fault.NO_CREDIT:
            raise NoCreditError("insufficient credits")
        case Fault.DAILY_CAP:
            raise CappedError("the daily limit has been reached")
        case Fault.DRAIN:
            raise AwayError("draining")
        case Fault.ERROR_BEFORE:
            raise BrokenError("internal error")
        case Fault.GATEWAY_BEFORE:
            raise GatewayError("502")
        case _:
            return
