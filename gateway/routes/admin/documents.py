"""Invoices as documents, for the vendor: drafts too."""

from litestar import Response, get
from litestar.params import FromPath

from billing.documents.downloads import credit_note_pdf, invoice_lines_csv, invoice_pdf
from gateway.bodies import AnyRequest
from gateway.downloads import CSV, PDF, download
from gateway.routes.documents import LANGUAGE_PARAMETER, Language
from gateway.services import services_of
from gateway.staff import admit_staff, staff_of
from openapi.endpoint import BINARY, STAFF_ERRORS, TEXT, Endpoint

READ_PDF = Endpoint(
    operation_id="adminReadInvoicePdf",
    tag="Admin",
    answer={PDF: BINARY},
    access="staff",
    errors=(400, 404, *STAFF_ERRORS),
    query=(LANGUAGE_PARAMETER,),
)
READ_CREDIT_NOTE = Endpoint(
    operation_id="adminReadCreditNotePdf",
    tag="Admin",
    answer={PDF: BINARY},
    access="staff",
    errors=(400, 404, *STAFF_ERRORS),
    query=(LANGUAGE_PARAMETER,),
)
READ_LINES = Endpoint(
    operation_id="adminReadInvoiceLinesCsv",
    tag="Admin",
    answer={"text/csv": TEXT},
    access="staff",
    errors=(404, *STAFF_ERRORS),
)


@get(
    "/v1/admin/invoices/{invoice_id:str}/pdf",
    before_request=admit_staff("finance"),
    opt={"endpoint": READ_PDF},
)
async def get_any_invoice_pdf(
    request: AnyRequest, invoice_id: FromPath[str], language: Language = None
) -> Response[bytes]:
    """Read any invoice as PDF.

    One that is not issued yet is marked as a draft, one that is void as void.
    """
    services, member = services_of(request), staff_of(request)
    file = await invoice_pdf(
        services.pool, services.typesetter, invoice_id, language=language, reader=member.staff_id
    )
    return download(file, PDF)


@get(
    "/v1/admin/invoices/{invoice_id:str}/lines.csv",
    before_request=admit_staff("finance"),
    opt={"endpoint": READ_LINES},
)
async def get_invoice_lines_csv(request: AnyRequest, invoice_id: FromPath[str]) -> Response[bytes]:
    """Read an invoice's lines as CSV.

    UTF-8 with a byte order mark, for Excel. The exact amount before rounding is a fraction of nanos, in two
    columns; `amount_minor` is what is billed.
    """
    return download(await invoice_lines_csv(services_of(request).pool, invoice_id), CSV)


@get(
    "/v1/admin/credit-notes/{credit_note_id:str}/pdf",
    before_request=admit_staff("finance"),
    opt={"endpoint": READ_CREDIT_NOTE},
)
async def get_any_credit_note_pdf(
    request: AnyRequest, credit_note_id: FromPath[str], language: Language = None
) -> Response[bytes]:
    """Read any credit note as PDF."""
    services, member = services_of(request), staff_of(request)
    file = await credit_note_pdf(
        services.pool, services.typesetter, credit_note_id, language=language, reader=member.staff_id
    )
    return download(file, PDF)


ROUTES = (get_any_invoice_pdf, get_invoice_lines_csv, get_any_credit_note_pdf)
