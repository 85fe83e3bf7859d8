"""What both APIs of invoices answer with: the tenants' own, and the vendor's."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from litestar import Response
from litestar.params import Parameter
from litestar.response import Stream

from billing.drilldown import MAX_PAGE, calls_csv, find_line, line_calls, visible_invoice
from billing.invoices import Invoice, InvoiceStatus, InvoiceSummary, list_invoices
from gateway.parameters import as_body, period_parameter
from infra.database import Pool
from infra.ids import format_call_id
from openapi.endpoint import TEXT, Media, QueryParameter
from openapi.invoices import InvoiceList, InvoiceSummaryBody, LineCallBody, LineCallList

CSV = "text/csv; charset=utf-8"
MAX_INVOICES_PAGE = 500
InvoicesLimit = Annotated[int, Parameter(ge=1, le=MAX_INVOICES_PAGE)]
CallsLimit = Annotated[int, Parameter(ge=1, le=MAX_PAGE)]
CallsFormat = Literal["json", "csv"]

CALLS_MEDIA: Media = {"application/json": LineCallList, "text/csv": TEXT}
AFTER = QueryParameter("after", "The `next` of the page before.", {"type": "string"})
PERIOD = period_parameter("all")
FORMAT = QueryParameter(
    "format", "`csv` gives all the line's calls at once.", {"type": "string", "enum": ["json", "csv"]}
)


async def answer_list(
    pool: Pool,
    tenant_id: str | None,
    period: str | None,
    statuses: Sequence[InvoiceStatus],
    after: str | None,
    limit: int,
) -> InvoiceList:
    """A page of invoices."""
    found = await list_invoices(pool, tenant_id, period, statuses, limit + 1, after)
    page = found[:limit]
    return InvoiceList([_summary(one) for one in page], page[-1].invoice_id if len(found) > limit else None)


async def answer_calls(
    pool: Pool,
    invoice_id: str,
    line: int,
    after: str | None,
    limit: int,
    format: CallsFormat,
    *,
    tenant_id: str | None = None,
    statuses: Sequence[InvoiceStatus] | None = None,
) -> Response[Any]:
    """The calls behind one line: a page of them, or all as CSV."""
    if format == "csv":
        invoice = await visible_invoice(pool, invoice_id, tenant_id, statuses)
        return csv_of_calls(pool, invoice, line)
    page = await line_calls(
        pool, invoice_id, line, tenant_id=tenant_id, statuses=statuses, after=after, limit=limit
    )
    data = [
        as_body({**msgspec.structs.asdict(row), "call_id": format_call_id(row.call_id)}, LineCallBody)
        for row in page.rows
    ]
    return Response(LineCallList(invoice_id, line, data, page.next))


def csv_of_calls(pool: Pool, invoice: Invoice, line: int | None = None) -> Stream:
    """The calls behind one line of an invoice, or behind all, as a file that is sent as it is read.

    Raises:
        NotFoundError: there is no such line.
    """
    what = "calls"
    if line is not None:
        what = f"line-{find_line(invoice, line).line}-calls"
    disposition = f'attachment; filename="{invoice.invoice_id}-{what}.csv"'
    pieces = calls_csv(pool, invoice, line)
    return Stream(pieces, media_type=CSV, headers={"content-disposition": disposition})


def _summary(one: InvoiceSummary) -> InvoiceSummaryBody:
    return as_body(one, InvoiceSummaryBody)
