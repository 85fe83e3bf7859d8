"""Invoices for the vendor's finance: all of them, their calls, and whether they can be computed again."""

from typing import Annotated, Any

from litestar import Response, get
from litestar.params import FromPath, FromQuery, Parameter
from litestar.response import Stream

from billing.drilldown import MAX_PAGE
from billing.invoices import STATUSES, InvoiceStatus, show_invoice
from billing.proofs import verify
from gateway.bodies import AnyRequest
from gateway.invoice_answers import (
    AFTER,
    CALLS_MEDIA,
    FORMAT,
    MAX_INVOICES_PAGE,
    PERIOD,
    CallsFormat,
    CallsLimit,
    InvoicesLimit,
    answer_calls,
    answer_list,
    csv_of_calls,
)
from gateway.parameters import Period, as_body, limit_parameter
from gateway.services import services_of
from gateway.staff import admit_staff
from infra.errors import UnavailableError
from openapi.endpoint import STAFF_ERRORS, TEXT, Endpoint, QueryParameter
from openapi.invoices import AdminInvoiceBody, InvoiceList, ProofBody

_ERRORS = (400, 404, *STAFF_ERRORS)
LIST = Endpoint(
    operation_id="adminListInvoices",
    tag="Admin",
    answer={"application/json": InvoiceList},
    access="staff",
    errors=(400, *STAFF_ERRORS),
    query=(
        PERIOD,
        QueryParameter("status", "A state they are in.", {"type": "string", "enum": list(STATUSES)}),
        QueryParameter("tenant", "Whose they are.", {"type": "string"}),
        AFTER,
        limit_parameter(100, MAX_INVOICES_PAGE),
    ),
)
READ = Endpoint(
    operation_id="adminReadInvoice",
    tag="Admin",
    answer={"application/json": AdminInvoiceBody},
    access="staff",
    errors=(404, *STAFF_ERRORS),
)
CALLS = Endpoint(
    operation_id="adminListInvoiceLineCalls",
    tag="Admin",
    answer=CALLS_MEDIA,
    access="staff",
    errors=_ERRORS,
    query=(AFTER, limit_parameter(100, MAX_PAGE), FORMAT),
)
CALLS_CSV = Endpoint(
    operation_id="adminExportInvoiceCalls",
    tag="Admin",
    answer={"text/csv": TEXT},
    access="staff",
    errors=(404, *STAFF_ERRORS),
)
VERIFY = Endpoint(
    operation_id="adminVerifyInvoice",
    tag="Admin",
    answer={"application/json": ProofBody},
    access="staff",
    errors=(404, *STAFF_ERRORS),
)


@get("/v1/admin/invoices", before_request=admit_staff("finance"), opt={"endpoint": LIST})
async def get_invoices(
    request: AnyRequest,
    period: Period = None,
    status: FromQuery[InvoiceStatus | None] = None,
    tenant: Annotated[str | None, Parameter(max_length=100)] = None,
    after: FromQuery[str | None] = None,
    limit: InvoicesLimit = 100,
) -> InvoiceList:
    """List invoices of all tenants, the newest months first."""
    statuses = STATUSES if status is None else (status,)
    return await answer_list(services_of(request).pool, tenant, period, statuses, after, limit)


@get("/v1/admin/invoices/{invoice_id:str}", before_request=admit_staff("finance"), opt={"endpoint": READ})
async def get_invoice(request: AnyRequest, invoice_id: FromPath[str]) -> AdminInvoiceBody:
    """Read an invoice, with its lines and its way to being issued."""
    return as_body(await show_invoice(services_of(request).pool, invoice_id), AdminInvoiceBody)


@get(
    "/v1/admin/invoices/{invoice_id:str}/lines/{line:int}/calls",
    before_request=admit_staff("finance"),
    opt={"endpoint": CALLS},
)
async def get_line_calls(
    request: AnyRequest,
    invoice_id: FromPath[str],
    line: FromPath[int],
    after: FromQuery[str | None] = None,
    limit: CallsLimit = 100,
    format: FromQuery[CallsFormat] = "json",
) -> Response[Any]:
    """List the calls behind a line.

    They add up to the line's calls and units, and its digest can be computed again from the CSV.
    """
    return await answer_calls(services_of(request).pool, invoice_id, line, after, limit, format)


@get(
    "/v1/admin/invoices/{invoice_id:str}/calls.csv",
    before_request=admit_staff("finance"),
    opt={"endpoint": CALLS_CSV},
)
async def get_calls_csv(request: AnyRequest, invoice_id: FromPath[str]) -> Stream:
    """Export all calls behind an invoice.

    The first column names the line. A text that a spreadsheet would take for a formula has an apostrophe
    before it.
    """
    pool = services_of(request).pool
    return csv_of_calls(pool, await show_invoice(pool, invoice_id))


@get(
    "/v1/admin/invoices/{invoice_id:str}/verify",
    before_request=admit_staff("finance"),
    opt={"endpoint": VERIFY},
)
async def get_proof(request: AnyRequest, invoice_id: FromPath[str]) -> ProofBody:
    """Compute an invoice once more, from usage rows and price versions.

    Says equal, or names each difference. Takes seconds where a million usage rows are behind it; one at a
    time in each worker.
    """
    services = services_of(request)
    if services.proving.locked():
        raise UnavailableError("Another invoice is being verified. Try again in some seconds.", None, 5)
    async with services.proving:
        return as_body(await verify(services.pool, invoice_id), ProofBody)


ROUTES = (get_invoices, get_invoice, get_line_calls, get_calls_csv, get_proof)
