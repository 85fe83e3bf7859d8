"""The review of invoices: a queue by risk, each invoice with its reasons, and what people say of one.

The queue reads invoices, their lines added up, seals, counters and alerts: its cost grows with the invoices
in review, not with the calls behind them. A page keeps no more in memory than it answers.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from heapq import nsmallest
from typing import Any, Final

import msgspec
from psycopg import errors

from billing import audit
from billing.invoices import no_such_invoice, read_invoice
from billing.issuing import check_reason
from billing.money import currency, format_minor
from billing.periods import check_label
from billing.risk import (
    MONTHS_BEFORE,
    CapHit,
    Deed,
    Facts,
    LateUse,
    MeterUse,
    Mismatch,
    Month,
    Reason,
    Refused,
    reasons,
)
from billing.store import review as store
from billing.store.review import Comment, EarlierRow, ReviewRow, UseRow
from infra.database import Connection, Pool, borrow
from infra.errors import InvalidValueError

MAX_PAGE: Final = 200
MAX_COMMENT_LENGTH: Final = 2000
MAX_COMMENTS: Final = 500
_INVOICES_AT_ONCE: Final = 250
_TIMEOUT_S: Final = 30.0
_FIRST: Final = (-(2**63), "")  # before every place in the queue


class ReviewItem(msgspec.Struct, frozen=True, kw_only=True):
    """An invoice in review and why it should be looked at.

    Attributes:
        content_sha256: what an approval names, in hexadecimal.
        risk: the sum of the reasons' weights.
        position: where it stands in the queue; the last one's of a page asks for the next.
    """

    invoice_id: str
    tenant_id: str
    period: str
    revision: int
    currency: str
    total_minor: int
    total: str
    due_minor: int
    due: str
    content_sha256: str
    prepared_by: tuple[str, ...]
    risk: int
    reasons: tuple[Reason, ...]
    position: str


class ReviewPage(msgspec.Struct, frozen=True):
    """A page of the queue, the riskiest first; `in_review` is how many invoices are in it altogether."""

    invoices: tuple[ReviewItem, ...]
    in_review: int
    has_more: bool


async def review_queue(
    pool: Pool, period: str | None = None, after: str | None = None, limit: int = MAX_PAGE
) -> ReviewPage:
    """A page of the invoices in review, of one month `YYYY-MM` or of all, the riskiest first.

    Args:
        after: the `position` of the last invoice of the page before.

    Raises:
        InvalidValueError: the period's label, or no such position.
    """
    if period is not None:
        check_label(period)
    begin = _FIRST if after is None else _place(after)
    in_review, left, page = 0, 0, list[ReviewItem]()
    async for items in _batches(pool, period):
        rest = [item for item in items if _key(item) > begin]
        in_review, left = in_review + len(items), left + len(rest)
        page = nsmallest(min(limit, MAX_PAGE), [*page, *rest], key=_key)
    return ReviewPage(tuple(page), in_review, has_more=left > len(page))


async def comment(pool: Pool, invoice_id: str, actor: str, text: str) -> Comment:
    """Say something of an invoice, in any state: no part of what the invoice says, and never changed.

    Raises:
        NotFoundError: there is no such invoice.
        InvalidValueError: no text, or one too long.
    """
    check_reason(text, "comment", MAX_COMMENT_LENGTH)
    async with borrow(pool) as connection, connection.transaction():
        try:
            written = await store.insert_comment(connection, invoice_id, actor, text)
        except errors.ForeignKeyViolation:
            raise no_such_invoice() from None
        await audit.record(connection, actor, "comment", invoice_id, comment_id=written.comment_id)
    return written


async def comments(pool: Pool, invoice_id: str, after: int = 0, limit: int = MAX_COMMENTS) -> list[Comment]:
    """An invoice's comments in the order in which they were written, a page at a time: `after` is the last id
    of the page before.

    Raises:
        NotFoundError: there is no such invoice.
    """
    async with borrow(pool) as connection:
        await read_invoice(connection, invoice_id)
        return await store.read_comments(connection, invoice_id, after, min(limit, MAX_COMMENTS))


async def _batches(pool: Pool, period: str | None) -> AsyncGenerator[list[ReviewItem]]:
    after = ""
    while True:
        async with borrow(pool, use_timeout_s=_TIMEOUT_S) as connection:
            rows = await store.read_in_review(connection, period, after, _INVOICES_AT_ONCE)
            facts = await _read_facts(connection, rows)
        yield [_item(row, facts[row.invoice_id]) for row in rows]
        if len(rows) < _INVOICES_AT_ONCE:
            return
        after = rows[-1].invoice_id


async def _read_facts(connection: Connection, rows: Sequence[ReviewRow]) -> dict[str, Facts]:
    ids = [row.invoice_id for row in rows]
    earlier = await store.read_earlier(connection, ids, MONTHS_BEFORE)
    uses = _grouped(await store.read_uses(connection, [*ids, *(one.invoice_id for one in earlier)]))
    before = dict[str, list[Month]]()
    for one in earlier:
        before.setdefault(one.of_invoice, []).append(_month(one, uses.get(one.invoice_id, [])))
    mismatches = _grouped(await store.read_mismatches(connection, ids))
    caps_hit = _grouped(await store.read_caps_hit(connection, ids))
    refused = _grouped(await store.read_refused(connection, ids))
    deeds = _grouped(await store.read_deeds(connection, ids))
    return {
        row.invoice_id: Facts(
            currency=row.currency,
            revision=row.revision,
            due_minor=row.due_minor,
            now=_month(row, uses.get(row.invoice_id, [])),
            before=before.get(row.invoice_id, []),
            lines_minor=row.lines_minor,
            late=[
                LateUse(use.usage_period, use.calls, use.amount_minor)
                for use in uses.get(row.invoice_id, [])
                if use.usage_period != row.period
            ],
            mismatches=_as(Mismatch, mismatches.get(row.invoice_id, [])),
            caps_hit=_as(CapHit, caps_hit.get(row.invoice_id, [])),
            refused=_as(Refused, refused.get(row.invoice_id, [])),
            deeds=_as(Deed, deeds.get(row.invoice_id, [])),
        )
        for row in rows
    }


def _item(row: ReviewRow, facts: Facts) -> ReviewItem:
    found = reasons(facts)
    risk, unit = sum(reason.weight for reason in found), currency(row.currency)
    return ReviewItem(
        invoice_id=row.invoice_id,
        tenant_id=row.tenant_id,
        period=row.period,
        revision=row.revision,
        currency=row.currency,
        total_minor=row.total_minor,
        total=format_minor(row.total_minor, unit),
        due_minor=row.due_minor,
        due=format_minor(row.due_minor, unit),
        content_sha256=row.content_sha256.hex(),
        prepared_by=tuple(row.prepared_by),
        risk=risk,
        reasons=tuple(found),
        position=f"{risk}.{row.invoice_id}",
    )


def _month(row: ReviewRow | EarlierRow, uses: Iterable[UseRow]) -> Month:
    """An invoice's own usage, without what came late."""
    meters = {
        use.meter: MeterUse(use.units, use.amount_minor, tuple(use.price_version_ids), use.reached_from_units)
        for use in uses
        if use.usage_period == row.period
    }
    return Month(row.period, row.subtotal_minor, meters)


def _key(item: ReviewItem) -> tuple[int, str]:
    return -item.risk, item.invoice_id


def _place(position: str) -> tuple[int, str]:
    risk, _, invoice_id = position.partition(".")
    if not (risk.isascii() and risk.isdigit() and len(risk) < 10):
        raise InvalidValueError("Give the position of the last invoice of the page before.", "after")
    return -int(risk), invoice_id


def _grouped(rows: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row.invoice_id, []).append(row)
    return found


def _as(kind: type[Any], rows: Iterable[msgspec.Struct]) -> list[Any]:
    """Rows as what `billing.risk` takes: the same fields, but for the invoice's id."""
    return [kind(**{name: getattr(row, name) for name in kind.__struct_fields__}) for row in rows]
