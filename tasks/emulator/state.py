"""The state behind all dialects: accounts, predictions and money, by one clock."""

import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from threading import RLock
from typing import Final

from tasks.emulator.accounts import Account, Terms
from tasks.emulator.faults import Fault, Faults, draw
from tasks.emulator.predictions import ClipSpec, Prediction, Stage
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
"""The Retry-After of `Fault.THROTTLE_WITH_RETRY_AFTER`."""

PLENTY_USD: Final = Decimal(1_000_000)

LOST_POLLS: Final = 2
"""The polls that find nothing under `Fault.NOT_FOUND_AT_FIRST`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """The settings of the emulator."""

    latency_s: float
    """The usual duration of a prediction."""
    jitter: float
    """The share by which a duration varies, up and down."""
    keys: Collection[str] | None
    """The valid keys; None accepts any key."""
    keep_s: float | None
    """How long clips are kept if a submit does not say; None uses each provider's terms."""
    seed: int
    """The seed of everything random."""
    credit_usd: Decimal | None = None
    """The credit of a new account; None is more than enough."""


class State:
    """Everything that providers know about their customers. Thread-safe."""

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
        """The valid keys; None accepts any key."""
        return self._rules.keys

    def account(self, dialect: str, key: str, terms: Terms) -> Account:
        """Return the account of a key.

        Raises:
            UnauthorizedError: there is no key, or it is not valid.
        """
        if not key or (self._rules.keys is not None and key not in self._rules.keys):
            raise UnauthorizedError("bad key")
        with self._lock:
            account = self._accounts.get((dialect, key))
            if account is None:
                account = Account(dialect, key, terms)
                self._accounts[dialect, key] = account
            return account

    def submit(self, account: Account, spec: ClipSpec, image: str) -> Prediction:
        """Accept and charge a submit.

        Raises:
            RefusedError: the provider refuses it.
        """
        with self._lock:
            now = self._clock()
            number = self._submits.get(account.dialect, 0)
            try:
                account.admit(now)
                self._submits[account.dialect] = number + 1
                fault = self._drawn_fault(account, number, spec, image)
            except ThrottledError:
                account.peaks.throttled += 1
                raise
            if fault is Fault.CACHED_ACCEPT and (before := self.listed(account)):
                return before[0]
            limited = self._rules.credit_usd is not None
            if limited and spec.price_usd > self.credit_usd(account):
                raise NoCreditError("insufficient credits")
            prediction = Prediction(
                id=spec.custom_id or secrets.token_hex(16),
                spec=spec,
                image=image,
                seed=self._drawn_seed(account, number, spec),
                fault=fault,
                accepted_at=now,
                accepted_date=self._date(now),
                latency_s=self._latency_s(account, number),
            )
            self._keep(account, prediction)
            account.take(prediction, now)
            return prediction

    def _drawn_fault(
        self, account: Account, number: int, spec: ClipSpec, image: str
    ) -> Fault | None:
        """Return the fault of a submit. Raises the refusal that it may be."""
        names = f"{spec.image} {image}"
        fault = self.faults.next(
            account.dialect, number, image=names, prompt=spec.prompt
        )
        _refuse(fault)
        return fault

    def _keep(self, account: Account, prediction: Prediction) -> None:
        if hidden := self._predictions.pop(prediction.id, None):
            # A second job with the same id hides the first, which stays on the bill.
            self._predictions[secrets.token_hex(16)] = hidden
        self._predictions[prediction.id] = account, prediction

    def poll(self, account: Account, prediction_id: str) -> tuple[Prediction, Stage]:
        """Return a prediction and the stage that a poll sees.

        Raises:
            NotFoundError: it is not this account's, or is not listed yet.
        """
        with self._lock:
            prediction = self.find(account, prediction_id)
            prediction.polls += 1
            account.advance(self._clock())
            match prediction.fault:
                case Fault.NOT_FOUND_AT_FIRST if prediction.polls <= LOST_POLLS:
                    raise NotFoundError(f"no prediction {prediction_id} yet")
                case Fault.UNKNOWN_STATUS if prediction.polls == 1:
                    return prediction, Stage.UNDOCUMENTED
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
        """Return the prediction whose clip is downloaded.

        Raises:
            NotFoundError: there is no clip, or it has expired.
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
        """Make a new link to the clip, which lives as long as the first."""
        with self._lock:
            prediction.renewed_at = self._clock()

    def submitted_today(self, account: Account) -> int:
        """Return the number of submits in the last 24 hours."""
        with self._lock:
            return account.today(self._clock())

    def keep_s(self, account: Account, prediction: Prediction) -> float:
        """Return how long after its end a prediction's clip is kept."""
        if prediction.spec.keep_s is not None:
            return prediction.spec.keep_s
        rule = self._rules.keep_s
        return account.terms.keep_s if rule is None else rule

    def expired(self, account: Account, prediction: Prediction) -> bool:
        """Whether a prediction's clip is deleted."""
        with self._lock:
            ended = prediction.ended_at
            return ended is not None and self._clock() > ended + self.keep_s(
                account, prediction
            )

    def listed(self, account: Account) -> list[Prediction]:
        """Return all predictions of an account, newest first."""
        with self._lock:
            account.advance(self._clock())
            listed = [
                made
                for owner, made in self._predictions.values()
                if owner is account and _is_known(made)
            ]
            return listed[::-1]

    def referred(self, account: Account, reference: str) -> Prediction:
        """Return the prediction with a customer's reference. Raises NotFoundError."""
        for made in self.listed(account):
            if made.spec.reference == reference:
                return made
        raise NotFoundError(f"no prediction called {reference}")

    def credit_usd(self, account: Account) -> Decimal:
        """Return the account's remaining credit."""
        refunds = account.terms.refunds
        used = [
            made.spec.price_usd
            for made in self.listed(account)
            if made.stage not in refunds
        ]
        paid = self._rules.credit_usd
        return (PLENTY_USD if paid is None else paid) - sum(used, Decimal(0))

    def _latency_s(self, account: Account, number: int) -> float:
        luck = draw(self._rules.seed, account.dialect, number, "latency")
        return self._rules.latency_s * (1 + self._rules.jitter * (2 * luck - 1))

    def _drawn_seed(self, account: Account, number: int, spec: ClipSpec) -> int:
        if spec.seed is not None:
            return spec.seed
        return int(draw(self._rules.seed, account.dialect, number, "seed") * 2**31)

    def _date(self, at: float) -> str:
        """Return a moment of the emulator's clock as providers write it."""
        moment = datetime.fromtimestamp(self._epoch + at, UTC)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

    def everything(self) -> list[tuple[Account, Prediction]]:
        """Return all predictions in the order of acceptance."""
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
            message = "image: the image is too small"
            raise BadInputError("image", "image_too_small", message)
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
