"""Once a day, all invoices of both sides against each other: what an event that was lost would have told.

What only needs doing is done: an invoice that goes on at Stripe is read again and goes on here. What is left
is a difference, for somebody to see: on record in the audit trail, each day anew until it is gone.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final, Literal

import msgspec

from billing import audit
from billing.collecting.client import StripeApi, StripeRefusedError
from billing.collecting.collector import Collector
from billing.collecting.items import INVOICE_KEY, provider_amount
from billing.collecting.remote import RemoteInvoice
from billing.collecting.steps import Step, next_step, state_of
from billing.money import currency
from billing.store import collecting as store
from billing.store import stripe_events as events_store
from billing.store.audit import NewEvent, insert_events
from billing.store.collecting import CollectionRow
from infra.database import Pool, borrow

_CLOCKS_APART: Final = timedelta(days=1)
_LONG: Final = timedelta(days=1)
_PAGE: Final = 500
MOST_RECORDED: Final = 1000


_Kind = Literal[
    "missing_here", "duplicate", "missing_there", "amount", "status", "not_sent", "failed", "mismatch"
]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """What is otherwise on the two sides.

    Attributes:
        kind: `missing_here`: an invoice with our mark that is not ours; `duplicate`: one beside ours;
            `missing_there`; `amount`; `status`; `not_sent`: for longer than a day; `failed`, `mismatch`: see
            `Collection.state`.
    """

    kind: _Kind
    invoice_id: str | None
    stripe_invoice_id: str | None
    detail: str


class Comparison(msgspec.Struct, frozen=True):
    """Both sides, compared. `others`: invoices at Stripe without our mark, which are none of our business."""

    here: int
    there: int
    others: int
    differences: list[Difference]


async def compare(pool: Pool, api: StripeApi, collector: Collector, now: datetime, days: int) -> Comparison:
    """Compare what was collected in so many days, and whatever is not settled, on both sides.

    Raises:
        StripeAwayError, StripeRefusedError: Stripe did not tell.
    """
    since = now - timedelta(days=days)
    there: dict[str, RemoteInvoice] = {}
    others = 0
    async for one in api.list_invoices(since - _CLOCKS_APART):
        if INVOICE_KEY in one.metadata:
            there[one.id] = one
        else:
            others += 1
    here, known, found = 0, set[str](), list[Difference]()
    after = ""
    while True:
        async with borrow(pool) as connection:
            rows = await store.read_unsettled_or_since(connection, api.livemode, since, after, _PAGE)
        for row in rows:
            found += await _compare_one(pool, api, collector, row, there)
            known.add(row.stripe_invoice_id or "")
        here += len(rows)
        if len(rows) < _PAGE:
            break
        after = rows[-1].invoice_id
    for one in there.values():
        if one.id not in known:
            found += await _unknown(pool, one)
    await _record(pool, found)
    return Comparison(here, len(there), others, found)


async def _compare_one(
    pool: Pool, api: StripeApi, collector: Collector, row: CollectionRow, there: dict[str, RemoteInvoice]
) -> list[Difference]:
    remote = await _read(api, row, there)
    if row.attempts == 0 and _is_news(row, remote):
        await collector.look_again(row.invoice_id)
        async with borrow(pool) as connection:
            row = await store.read_collection(connection, row.invoice_id) or row
        remote = await _read(api, row, {})
    return _differences(row, remote)


async def _read(api: StripeApi, row: CollectionRow, there: dict[str, RemoteInvoice]) -> RemoteInvoice | None:
    if row.stripe_invoice_id is None:
        return None
    if row.stripe_invoice_id in there:
        return there[row.stripe_invoice_id]
    try:
        return await api.read_invoice(row.stripe_invoice_id)
    except StripeRefusedError as error:
        if error.is_missing:
            return None
        raise


def _is_news(row: CollectionRow, remote: RemoteInvoice | None) -> bool:
    """Whether looking at it would change something; a listed invoice says less of its payments."""
    if remote is None:
        return row.state not in ("withdrawn", "failed", "mismatch")
    if row.state in ("failed", "mismatch"):
        return False
    if next_step(row, remote, line_count=1) is not Step.NOTE or _credited(row) != _credited_there(
        row, remote
    ):
        return True
    return remote.status == "open" or state_of(row, remote, row.read_at) != row.state


def _differences(row: CollectionRow, remote: RemoteInvoice | None) -> list[Difference]:
    found: tuple[_Kind, str] | None
    if row.state in ("failed", "mismatch"):
        found = row.state, row.reason or ""
    elif remote is None:
        found = _why_not_there(row)
    else:
        found = _what_differs(row, remote)
    if found is None:
        return []
    kind, detail = found
    return [
        Difference(
            kind=kind, invoice_id=row.invoice_id, stripe_invoice_id=row.stripe_invoice_id, detail=detail
        )
    ]


def _why_not_there(row: CollectionRow) -> tuple[_Kind, str] | None:
    if row.stripe_invoice_id:
        return "missing_there", f"{row.stripe_invoice_id} is not at Stripe"
    if row.state == "waiting" and row.read_at - row.entered_at > _LONG:
        return "not_sent", row.reason or "it still waits"
    return None


def _what_differs(row: CollectionRow, remote: RemoteInvoice) -> tuple[_Kind, str] | None:
    ours = (provider_amount(row.due_minor, currency(row.currency)), row.currency.lower())
    if remote.status != "draft" and ours != (remote.total, remote.currency):
        return "amount", f"{ours} here, {(remote.total, remote.currency)} at Stripe"
    if _credited(row) != _credited_there(row, remote):
        return "amount", f"{_credited(row)} credited here, {_credited_there(row, remote)} at Stripe"
    if row.attempts == 0 and next_step(row, remote, line_count=1) is not Step.NOTE:
        return "status", f"{row.invoice_status} here, {remote.status} at Stripe"
    return None


def _credited(row: CollectionRow) -> int:
    return provider_amount(row.credited_minor, currency(row.currency))


def _credited_there(row: CollectionRow, remote: RemoteInvoice) -> int:
    """In Stripe's minor unit; where an invoice takes no credit notes, what it would be."""
    return remote.pre_payment_credit_notes_amount if remote.status in ("open", "paid") else _credited(row)


async def _unknown(pool: Pool, remote: RemoteInvoice) -> list[Difference]:
    """An invoice with our mark that is none of those compared."""
    if remote.status == "void":
        return []
    invoice_id = remote.metadata[INVOICE_KEY]
    async with borrow(pool) as connection:
        if await events_store.find_collection(connection, remote.id, None):
            return []
        row = await store.read_collection(connection, invoice_id)
    kind: _Kind = "missing_here"
    if row is not None:
        if row.stripe_invoice_id is None and row.state == "waiting":
            return []  # it is on its way to being recorded
        kind = "duplicate"
    return [
        Difference(
            kind=kind,
            invoice_id=invoice_id[:200],
            stripe_invoice_id=remote.id,
            detail=f"{remote.total} {remote.currency}, {remote.status} at Stripe",
        )
    ]


async def _record(pool: Pool, found: Sequence[Difference]) -> None:
    events = [
        NewEvent(
            audit.WORKER,
            "collection_difference",
            one.invoice_id or one.stripe_invoice_id or "stripe",
            detail=msgspec.to_builtins(one),
        )
        for one in found[:MOST_RECORDED]
    ]
    if events:
        async with borrow(pool) as connection, connection.transaction():
            await insert_events(connection, events)
