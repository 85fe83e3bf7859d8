"""The monthly run: asked for here, worked on by the billing worker."""

from datetime import UTC, datetime

import msgspec
from litestar import get, post
from litestar.params import FromPath

from billing.runs import request_run, show_run
from gateway.bodies import AnyRequest, read_json
from gateway.parameters import as_body
from gateway.services import services_of
from gateway.staff import admit_staff, staff_of
from openapi.endpoint import STAFF_ERRORS, Endpoint
from openapi.invoices import InvoiceRunBody, InvoiceRunRequest

_DECODER = msgspec.json.Decoder(InvoiceRunRequest)
_MAX_BODY_BYTES = 4096
REQUEST = Endpoint(
    operation_id="adminRequestInvoiceRun",
    tag="Admin",
    request={"application/json": InvoiceRunRequest},
    answer={"application/json": InvoiceRunBody},
    access="staff",
    errors=(400, 413, 415, *STAFF_ERRORS),
)
READ = Endpoint(
    operation_id="adminReadInvoiceRun",
    tag="Admin",
    answer={"application/json": InvoiceRunBody},
    access="staff",
    errors=(404, *STAFF_ERRORS),
)


@post(
    "/v1/admin/invoice-runs",
    before_request=admit_staff("finance"),
    status_code=200,
    request_max_body_size=_MAX_BODY_BYTES,
    opt={"endpoint": REQUEST},
)
async def request_invoice_run(request: AnyRequest) -> InvoiceRunBody:
    """Make a month's invoices.

    Answers at once with a run that a worker takes up within seconds. It takes the place of a run of the month
    that is not finished. Of a month that is not over there are drafts only, which nobody can approve.
    """
    body = await read_json(request, _DECODER)
    run = await request_run(
        services_of(request).pool, body.period, staff_of(request).actor, datetime.now(UTC)
    )
    return as_body(run, InvoiceRunBody)


@get("/v1/admin/invoice-runs/{run_id:str}", before_request=admit_staff("finance"), opt={"endpoint": READ})
async def get_invoice_run(request: AnyRequest, run_id: FromPath[str]) -> InvoiceRunBody:
    """See how far a run is."""
    return as_body(await show_run(services_of(request).pool, run_id), InvoiceRunBody)


ROUTES = (request_invoice_run, get_invoice_run)
