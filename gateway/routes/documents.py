"""A tenant's invoices as documents."""

from typing import Annotated

from litestar import Response, get
from litestar.params import FromPath, Parameter

from billing.documents.downloads import credit_note_pdf, invoice_pdf
from billing.documents.words import LANGUAGES
from gateway.auth import admit, caller_of
from gateway.bodies import AnyRequest
from gateway.downloads import PDF, download
from gateway.services import services_of
from openapi.endpoint import BINARY, Endpoint, QueryParameter

Language = Annotated[str | None, Parameter(max_length=16)]
LANGUAGE_PARAMETER = QueryParameter(
    "language", "In the place of the invoice's own.", {"type": "string", "enum": list(LANGUAGES)}
)
READ_PDF = Endpoint(
    operation_id="readInvoicePdf",
    tag="Invoices",
    answer={PDF: BINARY},
    query=(LANGUAGE_PARAMETER,),
)
READ_CREDIT_NOTE = Endpoint(
    operation_id="readCreditNotePdf",
    tag="Invoices",
    answer={PDF: BINARY},
    query=(LANGUAGE_PARAMETER,),
)


@get("/v1/invoices/{invoice_id:str}/pdf", before_request=admit(None), opt={"endpoint": READ_PDF})
async def get_invoice_pdf(
    request: AnyRequest, invoice_id: FromPath[str], language: Language = None
) -> Response[bytes]:
    """Read an invoice as PDF.

    One that was issued to the key's tenant; any other is answered as if it were not there.
    """
    services, tenant_id = services_of(request), caller_of(request).tenant_id
    file = await invoice_pdf(
        services.pool,
        services.typesetter,
        invoice_id,
        language=language,
        tenant_id=tenant_id,
        reader=tenant_id,
    )
    return download(file, PDF)


@get(
    "/v1/credit-notes/{credit_note_id:str}/pdf",
    before_request=admit(None),
    opt={"endpoint": READ_CREDIT_NOTE},
)
async def get_credit_note_pdf(
    request: AnyRequest, credit_note_id: FromPath[str], language: Language = None
) -> Response[bytes]:
    """Read a credit note as PDF.

    One that was issued to the key's tenant; invoices name those that they take over in `carried`.
    """
    services, tenant_id = services_of(request), caller_of(request).tenant_id
    file = await credit_note_pdf(
        services.pool,
        services.typesetter,
        credit_note_id,
        language=language,
        tenant_id=tenant_id,
        reader=tenant_id,
    )
    return download(file, PDF)


ROUTES = (get_invoice_pdf, get_credit_note_pdf)
