"""From a line of an invoice down to the calls behind it, page by page, and all of them as CSV.

Rows come in the order of their digest, (call_id, slice, entry), and add up to the line's calls and units. The
CSV holds what the digest is of, so that anybody can compute it again from the file alone:

    1. Of each record take the nine columns after `line`; off a text (key_id, model, engine) that begins with
       an apostrophe take that one apostrophe.
    2. Join them with commas, and end each with a line feed.
    3. Records of one line whose call_id begins with the same eight hexadecimal digits are a chunk: SHA-256
       over the chunk's text, in UTF-8.
    4. The digest is SHA-256 over the chunks' digests, one after the other.

The apostrophe is there where a spreadsheet would take a text for a formula.
"""

import csv
import io
from collections.abc import AsyncGenerator, Iterable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from billing.invoices import Invoice, InvoiceLine, InvoiceStatus, no_such_invoice, show_invoice
from billing.store import drilldown as store
from billing.store.drilldown import FIRST_PLACE, RowPlace, UsageRow
from infra.database import Pool, borrow
from infra.errors import InvalidValueError, NotFoundError

CSV_COLUMNS: Final = (
    "line",
    "call_id",
    "slice",
    "entry",
    "calls",
    "units",
    "occurred_at_us",  # microseconds since 1970, UTC
    "key_id",
    "model",
    "engine",
)
MAX_PAGE: Final = 1000
_CSV_PAGE: Final = 5000
_TIMEOUT_S: Final = 30.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_STARTS_A_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")


class CallsPage(msgspec.Struct, frozen=True):
    """Usage rows of a line; `next` is where the page after this one begins, None at the end."""

    rows: list[UsageRow]
    next: str | None


async def line_calls(
    pool: Pool,
    invoice_id: str,
    line: int,
    *,
    tenant_id: str | None = None,
    statuses: Iterable[InvoiceStatus] | None = None,
    after: str | None = None,
    limit: int = 100,
) -> CallsPage:
    """A page of the usage rows behind a line; none behind one that is not of usage.

    Args:
        tenant_id: whose invoice it must be; None for the vendor.
        statuses: the states that it may be in.
        after: the `next` of the page before.
        limit: a thousand at most.

    Raises:
        NotFoundError: there is no such invoice, or line, or it is not theirs to see.
        InvalidValueError: `after` is no `next`.
    """
    place = _parse_place(after)
    invoice = await visible_invoice(pool, invoice_id, tenant_id, statuses)
    found = find_line(invoice, line)
    limit = max(1, min(limit, MAX_PAGE))
    rows = await _page(pool, invoice, found, place, limit + 1)
    more = len(rows) > limit
    return CallsPage(rows[:limit], _format_place(rows[limit - 1]) if more else None)


async def visible_invoice(
    pool: Pool,
    invoice_id: str,
    tenant_id: str | None = None,
    statuses: Iterable[InvoiceStatus] | None = None,
) -> Invoice:
    """One invoice, as far as a tenant may see it: only their own, and only in these states.

    Raises:
        NotFoundError: there is none, or they may not.
    """
    invoice = await show_invoice(pool, invoice_id, tenant_id)
    if statuses is not None and invoice.status not in statuses:
        raise no_such_invoice()
    return invoice


def find_line(invoice: Invoice, line: int) -> InvoiceLine:
    """A line of an invoice by its number.

    Raises:
        NotFoundError: it has no such line.
    """
    for one in invoice.lines:
        if one.line == line:
            return one
    raise NotFoundError("This invoice has no such line.", "line")


async def calls_csv(pool: Pool, invoice: Invoice, line: int | None = None) -> AsyncGenerator[str]:
    """The usage rows of one line, or of all, as CSV: a piece for each page of rows, the head first.

    No connection is held while a piece is on its way.

    Raises:
        NotFoundError: the invoice has no such line.
    """
    lines = invoice.lines if line is None else (find_line(invoice, line),)
    yield _csv([CSV_COLUMNS])
    for one in lines:
        place: RowPlace | None = FIRST_PLACE
        while place is not None:
            rows = await _page(pool, invoice, one, place, _CSV_PAGE)
            if rows:
                yield _csv(_record(one.line, row) for row in rows)
            place = _place(rows[-1]) if len(rows) == _CSV_PAGE else None


async def _page(
    pool: Pool, invoice: Invoice, line: InvoiceLine, after: RowPlace, limit: int
) -> list[UsageRow]:
    if line.meter is None:
        return []
    month = (invoice.tenant_id, invoice.period, line.meter)
    async with borrow(pool, use_timeout_s=_TIMEOUT_S) as connection:
        if not invoice.period_complete:
            return await store.read_counted_rows(connection, *month, after, limit, recorded_by=line.cutoff_at)
        return await store.read_line_rows(
            connection, *month, after, limit, usage_period=line.usage_period, segment=line.segment
        )


def _record(line: int, row: UsageRow) -> tuple[int | str, ...]:
    moment = (row.occurred_at - _EPOCH) // _MICROSECOND
    texts = (_safe(text) for text in (row.key_id, row.model, row.engine))
    return line, str(row.call_id), row.slice, row.entry, row.calls, row.units, moment, *texts


def _safe(text: str) -> str:
    return f"'{text}" if text.startswith(_STARTS_A_FORMULA) else text


def _csv(records: Iterable[Iterable[int | str]]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(records)
    return written.getvalue()


def _place(row: UsageRow) -> RowPlace:
    return RowPlace(row.call_id, row.slice, row.entry)


def _format_place(row: UsageRow) -> str:
    return f"{row.call_id.hex}.{row.slice}.{row.entry}"


def _parse_place(text: str | None) -> RowPlace:
    if text is None:
        return FIRST_PLACE
    call_id, *numbers = text.split(".")
    try:
        part, entry = (int(number) for number in numbers)
        if not (0 <= part < 2**31 and 0 <= entry < 2**15 and len(text) < 100):
            raise ValueError
        return RowPlace(UUID(hex=call_id), part, entry)
    except ValueError:
        raise InvalidValueError("`after` is the `next` of the page before.", "after") from None
