"""`aiaas invoice verify` and `aiaas invoice calls`: down from an invoice to the usage behind it."""

from collections.abc import Awaitable, Callable
from typing import Any

import click
import msgspec

from billing.differences import describe
from billing.drilldown import MAX_PAGE, CallsPage, calls_csv, find_line, line_calls
from billing.invoices import Invoice, InvoiceLine, show_invoice
from billing.proofs import Proof, verify, verify_month
from gateway.commands.progress import Progress
from gateway.commands.running import as_json, echo_json, table, with_pool
from infra.database import Pool
from infra.errors import InvalidValueError

_MOST_SHOWN = 100


class _MonthProof(msgspec.Struct):
    """What came of proving a month's invoices; `proofs` are of those that are not ok, a hundred at most."""

    period: str
    ok: bool = True
    invoices: int = 0
    not_ok: int = 0
    usage_rows: int = 0
    detached: list[str] = []
    proofs: list[Proof] = []


@click.command("verify")
@click.argument("invoice_id", required=False)
@click.option("--period", help="All invoices of a month, YYYY-MM.")
@as_json
def invoice_verify(invoice_id: str | None, period: str | None, json: bool) -> None:
    """Compute INVOICE_ID anew from usage rows and prices; status 1 when it differs, each place named."""
    if (invoice_id is None) == (period is None):
        raise InvalidValueError("Say which: an invoice's id, or --period YYYY-MM.")
    if invoice_id is not None:
        proof = with_pool(lambda pool: verify(pool, invoice_id))
        _show(proof, json, _describe(proof))
        return
    month = with_pool(lambda pool: _verify_month(pool, period or ""))
    said = [_describe(proof) for proof in month.proofs]
    _show(month, json, "\n".join([*said, f"{month.invoices} invoices, {month.not_ok} of them differ."]))


@click.command("calls")
@click.argument("invoice_id")
@click.option("--line", type=click.IntRange(min=1), help="Only this line's. [default: every line's]")
@click.option("--csv", "as_csv", is_flag=True, help="All of them as CSV, from which digests can be computed.")
@click.option("--limit", type=click.IntRange(1, MAX_PAGE), default=100, show_default=True, help="Of a line.")
@click.option("--after", help="With --line: the `next` of the page before.")
@as_json
def invoice_calls(
    invoice_id: str, line: int | None, as_csv: bool, limit: int, after: str | None, json: bool
) -> None:
    """List the calls behind INVOICE_ID's lines, in the order of their digests."""
    if after is not None and line is None:
        raise InvalidValueError("Say with --line whose next page it is.", "after")
    if as_csv:
        with_pool(_printing_csv(invoice_id, line))
        return

    async def read(pool: Pool) -> list[tuple[InvoiceLine, CallsPage]]:
        lines = _lines(await show_invoice(pool, invoice_id), line)
        return [
            (one, await line_calls(pool, invoice_id, one.line, after=after, limit=limit)) for one in lines
        ]

    found = with_pool(read)
    if json:
        echo_json({"invoice_id": invoice_id, "lines": [_page_fields(*page) for page in found]})
        return
    for one, page in found:
        more = f"\nmore: --line {one.line} --after {page.next}" if page.next else ""
        click.echo(f"line {one.line}, {one.meter}, usage of {one.usage_period}\n{_rows(page)}{more}\n")


def _printing_csv(invoice_id: str, line: int | None) -> Callable[[Pool], Awaitable[None]]:
    async def printing(pool: Pool) -> None:
        async for piece in calls_csv(pool, await show_invoice(pool, invoice_id), line):
            click.echo(piece, nl=False)

    return printing


def _lines(invoice: Invoice, line: int | None) -> list[InvoiceLine]:
    if line is not None:
        return [find_line(invoice, line)]
    return [one for one in invoice.lines if one.meter is not None]


def _page_fields(line: InvoiceLine, page: CallsPage) -> dict[str, Any]:
    fields = ("line", "meter", "usage_period", "row_count", "calls", "units", "digest")
    return {name: getattr(line, name) for name in fields} | {"rows": page.rows, "next": page.next}


def _rows(page: CallsPage) -> str:
    rows = [
        [
            row.call_id.hex,
            str(row.slice),
            str(row.entry),
            str(row.calls),
            str(row.units),
            row.occurred_at.isoformat(),
            row.model,
        ]
        for row in page.rows
    ]
    return table(["CALL", "SLICE", "ENTRY", "CALLS", "UNITS", "AT", "MODEL"], rows)


async def _verify_month(pool: Pool, period: str) -> _MonthProof:
    month, progress = _MonthProof(period), Progress()
    async for one in verify_month(pool, period):
        proof = one.proof
        month.invoices, month.usage_rows = one.done, month.usage_rows + proof.usage_rows
        month.detached = sorted({*month.detached, *proof.detached})
        if not proof.ok:
            month.ok, month.not_ok = False, month.not_ok + 1
            month.proofs += [proof] if len(month.proofs) < _MOST_SHOWN else []
        progress.show(f"{one.done} invoices verified, {month.not_ok} differ")
    return month


def _describe(proof: Proof) -> str:
    name = proof.number or proof.invoice_id
    lines = [f"{name}: {describe(one)}" for one in proof.differences]
    if proof.ok:
        lines = [f"{name}: equal, computed anew from {proof.usage_rows} usage rows."]
    if proof.detached:
        lines.append(
            f"{name}: usage rows in {', '.join(proof.detached)} are detached and were not read: calls, units "
            "and digests were taken from the seals made when the month was closed."
        )
    return "\n".join(lines)


def _show(found: Proof | _MonthProof, json: bool, text: str) -> None:
    if json:
        echo_json(found)
    else:
        click.echo(text)
    if not found.ok:
        raise SystemExit(1)
