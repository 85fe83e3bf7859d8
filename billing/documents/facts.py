"""What a document is made from: the invoice, and what explains it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from fractions import Fraction
from itertools import groupby

import msgspec

from billing.credit_notes import no_such_note, read_credit_note
from billing.documents.credit_note import CreditFacts
from billing.invoices import ISSUED_STATUSES, Invoice, no_such_invoice, read_invoice
from billing.prices import PriceVersion
from billing.store import documents as store
from billing.store import drafts as drafts_store
from billing.store import usage as usage_store
from billing.store.drafts import MonthPrice
from billing.store.prices import read_price_versions
from billing.store.usage import DayRow
from infra.database import Connection, Pool, borrow

_READ_ONE_MOMENT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"


class MonthPart(msgspec.Struct, frozen=True):
    """A part of a month under one price version.

    Attributes:
        starts_at: when its prices began to hold.
        share: of the month's time.
        month_us: the length of the whole month, in microseconds.
    """

    version: PriceVersion
    starts_at: datetime
    share: Fraction
    month_us: int


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice and what explains it.

    Attributes:
        days: the month's usage by day and meter; empty days are left out.
        parts: by month, the price versions that held in it, one after the other.
        replaced_number: of the invoice that this one replaces.
    """

    invoice: Invoice
    days: tuple[DayRow, ...] = ()
    parts: Mapping[str, tuple[MonthPart, ...]]
    replaced_number: str | None = None


async def read_facts(pool: Pool, invoice_id: str, tenant_id: str | None = None) -> Facts:
    """All that an invoice's document is made from, as of one moment.

    Args:
        tenant_id: only if it is that tenant's, and was issued: drafts are the vendor's.

    Raises:
        NotFoundError: there is no such invoice, it is another tenant's, or not issued to the tenant yet.
    """
    async with borrow(pool) as connection, connection.transaction():
        await connection.execute(_READ_ONE_MOMENT)
        invoice = await read_invoice(connection, invoice_id)
        check_may_read(invoice, tenant_id)
        return Facts(
            invoice=invoice,
            days=tuple(await usage_store.read_days(connection, invoice.tenant_id, invoice.period)),
            parts=await _read_parts(connection, invoice),
            replaced_number=await store.read_number(connection, invoice.tenant_id, invoice.replaces),
        )


async def read_credit_facts(pool: Pool, credit_note_id: str, tenant_id: str | None = None) -> CreditFacts:
    """A credit note and its invoice, as of one moment.

    Args:
        tenant_id: only if it is that tenant's, and was issued.

    Raises:
        NotFoundError: there is no such credit note, it is another tenant's, or not issued yet.
    """
    async with borrow(pool) as connection, connection.transaction():
        await connection.execute(_READ_ONE_MOMENT)
        note = await read_credit_note(connection, credit_note_id)
        if tenant_id is not None and (note.tenant_id != tenant_id or note.status != "issued"):
            raise no_such_note()
        return CreditFacts(note, await read_invoice(connection, note.invoice_id))


def check_may_read(invoice: Invoice, tenant_id: str | None) -> None:
    """Refuse a tenant what is another's, or not issued.

    Raises:
        NotFoundError: see above; the same as for an invoice that is not there.
    """
    if tenant_id is None:
        return
    if invoice.tenant_id != tenant_id or invoice.status not in ISSUED_STATUSES:
        raise no_such_invoice()


async def _read_parts(connection: Connection, invoice: Invoice) -> dict[str, tuple[MonthPart, ...]]:
    labels = sorted({invoice.period, *(line.usage_period for line in invoice.lines)})
    held = await drafts_store.read_month_prices(connection, [(invoice.tenant_id, label) for label in labels])
    versions = await read_price_versions(connection, sorted({one.price_version_id for one in held}))
    bounds = {one.period: one for one in await store.read_bounds(connection, invoice.tenant_id, labels)}
    by_month = groupby(held, lambda one: one.period)
    return {label: tuple(_parts(list(of_month), versions, bounds[label])) for label, of_month in by_month}


def _parts(
    held: Sequence[MonthPrice], versions: Mapping[str, PriceVersion], bounds: store.MonthBounds
) -> Iterator[MonthPart]:
    month_us = (bounds.ends_at - bounds.starts_at) // timedelta(microseconds=1)
    before = Fraction(0)
    for one in held:
        share = Fraction(one.held_us, one.of_us)
        starts_at = bounds.starts_at + timedelta(microseconds=int(before * month_us))
        yield MonthPart(versions[one.price_version_id], starts_at, share, month_us)
        before += share
