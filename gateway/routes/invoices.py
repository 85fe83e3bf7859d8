"""A tenant's own invoices, once they are issued."""

from typing import Any

from litestar import Response, get
from litestar.params import FromPath, FromQuery

from billing.drilldown import MAX_PAGE, visible_invoice
from billing.invoices import ISSUED_STATUSES
from gateway.auth import admit, caller_of
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
)
from gateway.parameters import Period, as_body, limit_parameter
from gateway.services import services_of
from openapi.endpoint import Endpoint
from openapi.invoices import InvoiceBody, InvoiceList

LIST = Endpoint(
    operation_id="listInvoices",
    tag="Invoices",
    answer={"application/json": InvoiceList},
    query=(PERIOD, AFTER, limit_parameter(100, MAX_INVOICES_PAGE)),
)
READ = Endpoint(operation_id="readInvoice", tag="Invoices", answer={"application/json": InvoiceBody})
CALLS = Endpoint(
    operation_id="listInvoiceLineCalls",
    tag="Invoices",
    answer=CALLS_MEDIA,
    query=(AFTER, limit_parameter(100, MAX_PAGE), FORMAT),
)


@get("/v1/invoices", before_request=admit(None), opt={"endpoint": LIST})
async def get_invoices(
    request: AnyRequest,
    period: Period = None,
    after: FromQuery[str | None] = None,
    limit: InvoicesLimit = 100,
) -> InvoiceList:
    """List invoices.

    Those that were issued to the key's tenant, void ones too, the newest months first.
    """
    tenant_id = caller_of(request).tenant_id
    return await answer_list(services_of(request).pool, tenant_id, period, ISSUED_STATUSES, after, limit)


@get("/v1/invoices/{invoice_id:str}", before_request=admit(None), opt={"endpoint": READ})
async def get_invoice(request: AnyRequest, invoice_id: FromPath[str]) -> InvoiceBody:
    """Read an invoice, with its lines and the tiers behind them."""
    pool, tenant_id = services_of(request).pool, caller_of(request).tenant_id
    return as_body(await visible_invoice(pool, invoice_id, tenant_id, ISSUED_STATUSES), InvoiceBody)


@get(
    "/v1/invoices/{invoice_id:str}/lines/{line:int}/calls",
    before_request=admit(None),
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
    return await answer_calls(
        services_of(request).pool,
        invoice_id,
        line,
        after,
        limit,
        format,
        tenant_id=caller_of(request).tenant_id,
        statuses=ISSUED_STATUSES,
    )


ROUTES = (get_invoices, get_invoice, get_line_calls)
