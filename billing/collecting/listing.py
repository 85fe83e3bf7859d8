"""What finance sees of collecting: where each invoice stands, and what needs somebody."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, get_args

import msgspec

from billing.money import currency, format_minor
from billing.store import collecting as store
from billing.store.collecting import CollectionRow, Method, State
from infra.database import Pool, borrow
from infra.errors import InvalidValueError, NotFoundError

STATES: Final[tuple[State, ...]] = get_args(State)
MAX_PAGE: Final = 500
COMPARED_DAYS: Final = 45  # how far back both sides are compared


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice on its way through Stripe.

    Attributes:
        state: `waiting` to be sent; `failed` or `mismatch`: somebody must see to it, `reason` says why;
            `open`, `past_due`, `payment_failed`, `action_required` (by the customer), `paid`,
            `uncollectible`, `void` as Stripe has it; `withdrawn`: nothing of it is at Stripe any more.
        reason: of a failure or a mismatch, or of the last attempt that will be repeated.
        due_minor: in the ledger's minor units; `due` is the same for people.
        method: `send` or `charge`.
        payment_attempts: as Stripe counts them.
        checked_at: when it was last read from Stripe.
        look_again_at: when it will be, if nothing happens before.
    """

    invoice_id: str
    tenant_id: str
    period: str
    number: str
    invoice_status: str
    state: State
    reason: str | None
    currency: str
    due_minor: int
    due: str
    method: Method
    livemode: bool
    stripe_invoice_id: str | None
    stripe_customer_id: str | None
    entered_at: datetime
    delivered_at: datetime | None
    checked_at: datetime | None
    look_again_at: datetime | None
    failed_attempts: int
    payment_attempts: int


async def list_collections(
    pool: Pool, states: Sequence[State] = STATES, after: str | None = None, limit: int = MAX_PAGE
) -> list[Collection]:
    """A page of those in one of these states, the latest first; `after` is the last of the page before.

    Raises:
        InvalidValueError: there is no such state.
    """
    if not set(states) <= set(STATES):
        raise InvalidValueError(f"A state is one of: {', '.join(STATES)}.", "state")
    async with borrow(pool) as connection:
        rows = await store.read_collections(connection, states, after, min(limit, MAX_PAGE))
    return [_collection(row) for row in rows]


async def show_collection(pool: Pool, invoice_id: str) -> Collection:
    """One invoice's.

    Raises:
        NotFoundError: it is not collected through Stripe.
    """
    async with borrow(pool) as connection:
        row = await store.read_collection(connection, invoice_id)
    if row is None:
        raise NotFoundError("This invoice is not collected through Stripe.", "invoice_id")
    return _collection(row)


def _collection(row: CollectionRow) -> Collection:
    return Collection(
        invoice_id=row.invoice_id,
        tenant_id=row.tenant_id,
        period=row.period,
        number=row.number,
        invoice_status=row.invoice_status,
        state=row.state,
        reason=row.reason,
        currency=row.currency,
        due_minor=row.due_minor,
        due=format_minor(row.due_minor, currency(row.currency)),
        method=row.method,
        livemode=row.livemode,
        stripe_invoice_id=row.stripe_invoice_id,
        stripe_customer_id=row.customer_id,
        entered_at=row.entered_at.astimezone(UTC),
        delivered_at=_utc(row.delivered_at),
        checked_at=_utc(row.checked_at),
        look_again_at=_utc(row.due_at),
        failed_attempts=row.attempts,
        payment_attempts=row.payment_attempts,
    )


def _utc(at: datetime | None) -> datetime | None:
    return at.astimezone(UTC) if at else None
