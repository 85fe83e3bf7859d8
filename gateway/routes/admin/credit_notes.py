"""Credit notes against issued invoices, by two people."""

from litestar import get, post

from billing.credit_notes import (
    CreditNote,
    approve_credit_note,
    create_credit_note,
    issue_credit_note,
    list_credit_notes,
    show_credit_note,
    withdraw_credit_note,
)
from billing.crediting import CreditLine
from gateway.admin_routes import (
    LIMIT,
    Limit,
    Position,
    SubjectId,
    action,
    body_of,
    reading,
)
from gateway.bodies import AnyRequest
from gateway.parameters import as_body
from gateway.services import services_of
from gateway.staff import staff_of
from openapi.credit_notes import CreditNoteBody, CreditNoteListBody, NewCreditNoteBody
from openapi.endpoint import QueryParameter
from openapi.review import ApprovalBody, WhyBody


@post("/v1/admin/credit-notes", **action("adminCreateCreditNote", NewCreditNoteBody, CreditNoteBody))
async def post_credit_note(request: AnyRequest) -> CreditNoteBody:
    """Draft a credit note against an issued invoice.

    It counts once another person has approved and issued it.
    """
    body = await body_of(request, NewCreditNoteBody)
    lines = None
    if body.lines is not None:
        lines = [CreditLine(line.line, line.amount_minor) for line in body.lines]
    pool, actor = services_of(request).pool, staff_of(request).actor
    return _body(await create_credit_note(pool, body.invoice_id, actor, lines, body.reason, body.remedy))


@get(
    "/v1/admin/credit-notes",
    **reading(
        "adminListCreditNotes",
        CreditNoteListBody,
        QueryParameter("invoice", "The invoice that they are against.", {"type": "string"}),
        QueryParameter("tenant", "Whose they are.", {"type": "string"}),
        QueryParameter("after", "The `next` of the page before.", {"type": "string"}),
        LIMIT,
    ),
)
async def get_credit_notes(
    request: AnyRequest,
    invoice: Position = None,
    tenant: Position = None,
    after: Position = None,
    limit: Limit = 50,
) -> CreditNoteListBody:
    """List credit notes, the newest first."""
    found = await list_credit_notes(services_of(request).pool, invoice, tenant, after, limit + 1)
    page = [_body(one) for one in found[:limit]]
    return CreditNoteListBody(page, page[-1].credit_note_id if len(found) > limit else None)


@get(
    "/v1/admin/credit-notes/{credit_note_id:str}",
    **reading("adminReadCreditNote", CreditNoteBody, has_id=True),
)
async def get_credit_note(request: AnyRequest, credit_note_id: SubjectId) -> CreditNoteBody:
    """Read a credit note."""
    return _body(await show_credit_note(services_of(request).pool, credit_note_id))


@post(
    "/v1/admin/credit-notes/{credit_note_id:str}/approve",
    **action("adminApproveCreditNote", ApprovalBody, CreditNoteBody),
)
async def post_credit_note_approval(request: AnyRequest, credit_note_id: SubjectId) -> CreditNoteBody:
    """Approve a credit note that somebody else prepared."""
    body = await body_of(request, ApprovalBody)
    pool, actor = services_of(request).pool, staff_of(request).actor
    return _body(await approve_credit_note(pool, credit_note_id, actor, body.content_sha256))


@post(
    "/v1/admin/credit-notes/{credit_note_id:str}/issue",
    **action("adminIssueCreditNote", None, CreditNoteBody),
)
async def post_credit_note_issue(request: AnyRequest, credit_note_id: SubjectId) -> CreditNoteBody:
    """Issue an approved credit note that somebody else prepared.

    It takes off what is open of its invoice; what was paid already is carried or refunded.
    """
    return _body(await issue_credit_note(services_of(request).pool, credit_note_id, staff_of(request).actor))


@post(
    "/v1/admin/credit-notes/{credit_note_id:str}/withdraw",
    **action("adminWithdrawCreditNote", WhyBody, CreditNoteBody),
)
async def post_credit_note_withdrawal(request: AnyRequest, credit_note_id: SubjectId) -> CreditNoteBody:
    """Withdraw a credit note that is not issued."""
    body = await body_of(request, WhyBody)
    pool, actor = services_of(request).pool, staff_of(request).actor
    return _body(await withdraw_credit_note(pool, credit_note_id, actor, body.reason))


def _body(note: CreditNote) -> CreditNoteBody:
    return as_body(note, CreditNoteBody)


ROUTES = (
    post_credit_note,
    get_credit_notes,
    get_credit_note,
    post_credit_note_approval,
    post_credit_note_issue,
    post_credit_note_withdrawal,
)
