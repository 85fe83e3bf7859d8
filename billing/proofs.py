"""Proving an invoice (promise 6): all that it says is computed once more and compared with what is on record.

    usage rows                -> calls, units, rows, digests; the seals on record say the same
    price versions, the month -> tiers, discounts, minimum, credit, amounts, exact and rounded
    the invoice's own terms   -> tax, what is carried, totals; a rate or an address that changed since is no
                                 difference
    the content               -> its hash, the hash that was approved, its link in the issuer's chain

A difference is named: where, which field, what is on record, what was computed. Usage rows that were detached
(`billing.retention`) cannot be counted again; then the seals made from them are what an invoice is computed
from, and the proof says so.
"""

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

import msgspec

from billing import drafts
from billing.differences import Difference, differing
from billing.drafts import Material
from billing.invoices import (
    Content,
    Invoice,
    InvoiceLine,
    InvoiceStatus,
    content_sha256,
    list_invoices,
    read_invoice,
)
from billing.issuing import chain_sha256, document_number
from billing.prices import InvalidPriceError
from billing.store import drafts as drafts_store
from billing.store import proofs as store
from billing.store import seals as seals_store
from billing.store.seals import Seal
from infra.database import Connection, Pool, borrow

_TIMEOUT_S: Final = 900.0
_MOST_DIFFERENCES: Final = 1000
_PAGE: Final = 500
_APPROVED: Final = frozenset({"approved", "issued", "paid", "void", "uncollectible"})
_FIRST_LINK: Final = bytes(32)
_NOT_COMPARED: Final = frozenset({"line", "amount"})  # they follow from others that are


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What came of proving one invoice.

    Attributes:
        ok: nothing differs.
        usage_rows: how many were read for it.
        detached: partitions whose usage rows could not be read: calls, units and digests were then taken from
            the seals on record. Attach them to prove the rows too.
        differences: a thousand at most.
    """

    ok: bool
    invoice_id: str
    tenant_id: str
    period: str
    status: InvoiceStatus
    number: str | None
    usage_rows: int
    detached: tuple[str, ...]
    differences: tuple[Difference, ...]


class Progress(msgspec.Struct, frozen=True):
    """One invoice of a month that is proved: the how manyth, and its proof."""

    done: int
    proof: Proof


class _Usage(msgspec.Struct, frozen=True):
    """What usage rows say now; `differences` are the seals on record that say otherwise."""

    seals: list[Seal]
    rows: int
    detached: tuple[str, ...]
    differences: list[Difference]


async def verify(pool: Pool, invoice_id: str) -> Proof:
    """Prove one invoice, all as of one moment.

    A draft of a month that is not sealed is compared with the usage recorded by the time it was made.

    Takes seconds for a million usage rows, and no more memory for them.

    Raises:
        NotFoundError: there is no such invoice.
    """
    async with borrow(pool, use_timeout_s=_TIMEOUT_S) as connection, connection.transaction():
        await store.view_one_moment(connection)
        invoice = await read_invoice(connection, invoice_id)
        usage = await _usage(connection, invoice)
        differences = [
            *usage.differences,
            *await _recomputed(connection, invoice, usage.seals),
            *await _carried(connection, invoice),
            *await _hashes(connection, invoice),
        ]
    return Proof(
        ok=not differences,
        invoice_id=invoice.invoice_id,
        tenant_id=invoice.tenant_id,
        period=invoice.period,
        status=invoice.status,
        number=invoice.number,
        usage_rows=usage.rows,
        detached=usage.detached,
        differences=tuple(differences[:_MOST_DIFFERENCES]),
    )


async def verify_month(pool: Pool, period: str) -> AsyncGenerator[Progress]:
    """Prove all invoices of the month `YYYY-MM`, one after the other.

    Raises:
        InvalidValueError: the period's label.
    """
    after, done = None, 0
    while page := await list_invoices(pool, period=period, limit=_PAGE, after=after):
        for one in page:
            done += 1
            yield Progress(done, await verify(pool, one.invoice_id))
        after = page[-1].invoice_id


async def _usage(connection: Connection, invoice: Invoice) -> _Usage:
    """The month's seals computed anew from usage rows, and those of months before that late usage needs."""
    if not invoice.period_complete:
        return _Usage([], 0, (), [])
    tenant_id, period = invoice.tenant_id, invoice.period
    on_record = await seals_store.read_seals(connection, period, [tenant_id])
    seals = await seals_store.read_proof(connection, tenant_id, period)
    rows = sum(seal.row_count for seal in seals)
    late = {seal.usage_period for seal in (*seals, *on_record)} - {period}
    for earlier in await _earlier(connection, tenant_id, late, period):
        proof = await seals_store.read_proof(connection, tenant_id, earlier)
        rows += sum(seal.row_count for seal in proof)
        seals += [seal for seal in proof if seal.usage_period in late]
    differences = _differing_seals(on_record, seals)
    if differences:
        detached = await store.read_detached(connection, tenant_id, min({period, *late}), period)
        if detached:
            return _Usage(on_record, rows, tuple(detached), [])
    return _Usage(seals, rows, (), differences)


async def _earlier(connection: Connection, tenant_id: str, late: set[str], period: str) -> list[str]:
    """The months on whose invoices usage of `late` months may have been billed before."""
    return await store.read_sealed_between(connection, tenant_id, min(late), period) if late else []


def _differing_seals(on_record: Sequence[Seal], computed: Sequence[Seal]) -> list[Difference]:
    kept, made = _by_place(on_record), _by_place(computed)
    found: list[Difference] = []
    for place in sorted(kept.keys() | made.keys()):
        period, usage_period, segment, meter = place
        late = "" if usage_period == period else f", usage of {usage_period}"
        what = f"seal {period} {meter}{late}" + (f", segment {segment}" if segment else "")
        found += differing(None, what, "", _plain(kept.get(place)), _plain(made.get(place)))
    return found


async def _recomputed(connection: Connection, invoice: Invoice, seals: Sequence[Seal]) -> list[Difference]:
    """What the invoice says, against what it comes to under its own terms."""
    try:
        material = await _material(connection, invoice, seals)
        computed = drafts.content(material, invoice.invoice_id, invoice.revision, invoice.replaces)
    except InvalidPriceError as error:
        return [Difference(None, "prices", "tiers", "", str(error))]
    differences: list[Difference] = []
    kept, made = _by_line(invoice.lines), _by_line(computed.lines)
    for place in {**kept, **made}:
        line = kept.get(place)
        differences += differing(
            line.line if line else None,
            _name(line or made[place], invoice.period, is_on_record=line is not None),
            "",
            _plain(line),
            _plain(made.get(place)),
        )
    for field in Content.__struct_fields__:
        if field != "lines":
            on_record, now = (msgspec.to_builtins(getattr(one, field)) for one in (invoice, computed))
            differences += differing(None, "invoice", field, on_record, now)
    return differences


async def _material(connection: Connection, invoice: Invoice, seals: Sequence[Seal]) -> Material:
    """What the invoice was made from: usage and prices as they are now, and its own terms.

    Raises:
        InvalidPriceError: a price version does not price what was used, or not so that it can be charged.
    """
    (month,) = await drafts_store.read_months(connection, invoice.period, [invoice.tenant_id])
    cutoff_at = month.cutoff_at
    if not invoice.period_complete:
        cutoff_at = invoice.lines[0].cutoff_at if invoice.lines else invoice.drafted_at
    month = msgspec.structs.replace(
        month,
        is_sealed=invoice.period_complete,
        cutoff_at=cutoff_at,
        issuer_id=invoice.issuer_id,
        issuer=msgspec.to_builtins(invoice.issuer),
        bill_to=msgspec.to_builtins(invoice.bill_to),
        language=invoice.language,
        tax_name=invoice.tax_name,
        tax_ppm=invoice.tax_ppm,
        carried=await store.read_sources(connection, invoice.invoice_id),
    )
    counters = (
        []
        if month.is_sealed
        else await store.read_counted(connection, month.tenant_id, month.period, cutoff_at)
    )
    (material,) = await drafts.materials(connection, [month], seals, counters)
    for uses in material.uses:
        for use in uses.uses:
            version = uses.segments[use.segment].version
            if use.meter not in version.prices:
                raise InvalidPriceError(f"{version.price_version_id} has no price of {use.meter}.")
    return material


async def _carried(connection: Connection, invoice: Invoice) -> list[Difference]:
    """What is carried in, is carried into this one alone."""
    return [
        Difference(None, "invoice", "carried", f"{source_id}, in {other} too", f"{source_id}, once")
        for source_id, other in await store.read_other_takers(connection, invoice.invoice_id)
    ]


async def _hashes(connection: Connection, invoice: Invoice) -> list[Difference]:
    """The content's hash, the approval of it, and its link to the numbers before and after."""
    digest = content_sha256(invoice)
    found = differing(None, "invoice", "content_sha256", invoice.content_sha256, digest.hex())
    if invoice.status in _APPROVED:
        found += differing(None, "approval", "approved_sha256", invoice.approved_sha256 or "", digest.hex())
    link = await store.read_link(connection, invoice.invoice_id)
    if link is None:
        return found
    before = _FIRST_LINK if link.number_in_issuer == 1 else link.before_sha256 or b""
    made = chain_sha256(before, invoice.number or "", digest).hex()
    number = document_number(link.number_prefix, link.number_in_issuer)
    return [
        *found,
        *differing(None, "chain", "number", invoice.number, number),
        *differing(None, "chain", "previous_chain_sha256", invoice.previous_chain_sha256, before.hex()),
        *differing(None, "chain", "chain_sha256", invoice.chain_sha256, made),
        *differing(None, "chain", "next link", (link.next_sha256 or b"").hex(), made),
    ]


def _plain(value: InvoiceLine | Seal | None) -> Any:
    if value is None:
        return None
    fields: dict[str, Any] = msgspec.to_builtins(value)
    if isinstance(value, Seal):
        fields["digest"] = value.digest.hex()
    return {name: field for name, field in fields.items() if name not in _NOT_COMPARED}


def _by_place(seals: Sequence[Seal]) -> dict[tuple[str, str, int, str], Seal]:
    return {(seal.period, seal.usage_period, seal.segment, seal.meter): seal for seal in seals}


def _by_line(lines: Sequence[InvoiceLine]) -> dict[tuple[str, str, int, str], InvoiceLine]:
    return {(line.kind, line.usage_period, line.segment, line.meter or ""): line for line in lines}


def _name(line: InvoiceLine, period: str, *, is_on_record: bool) -> str:
    late = "" if line.usage_period == period else f", usage of {line.usage_period}"
    number = f"line {line.line}" if is_on_record else "no line"
    return f"{number}, {line.meter or line.kind}{late}"
