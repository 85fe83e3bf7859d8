"""A charge, what became of it, and how it is refused."""

from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from billing.meters import CREDIT, MONEY, check_meter
from infra.errors import DomainError, InvalidValueError, UnavailableError

MAX_UNITS_PER_CHARGE: Final = 10**12  # 31 years of audio: beyond it something is wrong


class Charge(msgspec.Struct, frozen=True, kw_only=True):
    """One call, or one slice of a live session, to be charged.

    Attributes:
        call_id: a UUID version 7. It never changes when the charge is sent again.
        slice: counts up within a live session; 0 for a call charged at once.
        units: whole units of the meter; 0 is a call all the same.
        occurred_at: an instant with a time zone. It decides the period, so it never changes either.
    """

    call_id: UUID
    tenant_id: str
    key_id: str
    meter: str
    units: int
    model: str
    engine: str
    occurred_at: datetime
    slice: int = 0


class KeptAnswer(msgspec.Struct, frozen=True):
    """An answer that is kept with its charge, to be given again when the request is repeated."""

    claim: bytes
    media_type: str
    body: bytes


class KeptRequest(msgspec.Struct, frozen=True):
    """A request that is kept with its charge, to be known again when its client tries it again."""

    claim: bytes
    fingerprint: bytes
    kept_s: float


class Charged(msgspec.Struct, frozen=True):
    """A committed charge.

    Attributes:
        period: the month it counts in, `YYYY-MM`.
        units_before: the month's units of this meter before it.
        is_repeat: the same call had been charged before; it is counted once.
    """

    period: str
    units_before: int
    is_repeat: bool


class LedgerUnavailableError(UnavailableError):
    """The charge was not confirmed in time. Whether it was written is unknown; its id settles it."""

    code = "ledger_unavailable"


class LedgerOverloadedError(UnavailableError):
    """The ledger's queue is full. Nothing was written."""

    code = "ledger_overloaded"


class UnknownAccountError(DomainError):
    """The tenant has no billing account. Nothing was written."""

    code = "billing_account_missing"


class CallIdReusedError(DomainError):
    """Another call was charged under this id. Nothing was written."""

    code = "call_id_reused"


class CapReachedError(DomainError):
    """The call would pass a cap of its tenant or of its key. Nothing was written.

    Args:
        cap: whose cap it is and what it counts: `tenant money`, `key asr.audio_ms`, `tenant credit`.
    """

    code = "insufficient_quota"

    def __init__(self, cap: str) -> None:
        super().__init__(_refusal(cap))
        self.cap = cap


def _refusal(cap: str) -> str:
    owner, _, measure = cap.partition(" ")
    if measure == CREDIT:
        return (
            "Your account's prepaid credit does not cover this call. Add credit; repeating it does not help."
        )
    whose, which = ("Your account", "the cap") if owner == "tenant" else ("This API key", "the key's cap")
    what = "on spending" if measure == MONEY else f"on {measure}"
    return (
        f"{whose} has a monthly cap {what}, which leaves no room for this call. "
        f"Have {which} raised, or wait for the next month; repeating the call does not help."
    )


class ChargeRejectedError(DomainError):
    """The database refuses this charge by itself. Nothing was written."""

    code = "charge_rejected"


def check_charge(charge: Charge) -> None:
    """Refuse what could never be charged, before it meets its batch-mates.

    Raises:
        InvalidValueError: an unknown meter, units out of range, or an instant without a time zone.
    """
    check_meter(charge.meter)
    if not 0 <= charge.units <= MAX_UNITS_PER_CHARGE:
        raise InvalidValueError(f"A charge has 0 to {MAX_UNITS_PER_CHARGE} units.", "units")
    if charge.occurred_at.tzinfo is None:
        raise InvalidValueError("The moment of a charge needs a time zone.", "occurred_at")
