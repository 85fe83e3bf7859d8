"""Invoices in review, and what finance does with them: approve, send back, issue, settle, comment."""

from typing import Annotated

from litestar import get, post
from litestar.params import Parameter

from billing.audit import audit_trail
from billing.corrections import void, write_off
from billing.invoices import Invoice
from billing.issuing import approve, issue, mark_paid, send_back
from billing.review import comment, comments, review_queue
from gateway.admin_routes import (
    ID_PATTERN,
    LIMIT,
    Cursor,
    Limit,
    Position,
    SubjectId,
    action,
    body_of,
    reading,
)
from gateway.bodies import AnyRequest
from gateway.parameters import Period, as_body, period_parameter
from gateway.services import services_of
from gateway.staff import staff_of
from openapi.endpoint import QueryParameter
from openapi.review import (
    ApprovalBody,
    AuditEventBody,
    AuditTrailBody,
    CommentBody,
    CommentListBody,
    InvoiceStateBody,
    NewCommentBody,
    PaymentBody,
    ReviewItemBody,
    ReviewQueueBody,
    VoidBody,
    WhyBody,
)


@get(
    "/v1/admin/review-queue",
    **reading(
        "adminListReviewQueue",
        ReviewQueueBody,
        period_parameter("all"),
        QueryParameter("after", "The `next` of the page before.", {"type": "string"}),
        LIMIT,
    ),
)
async def get_review_queue(
    request: AnyRequest,
    period: Period = None,
    after: Position = None,
    limit: Limit = 50,
) -> ReviewQueueBody:
    """List invoices in review, the riskiest first.

    Each with the reasons why it should be looked at.
    """
    page = await review_queue(services_of(request).pool, period, after, limit)
    return ReviewQueueBody(
        data=[as_body(item, ReviewItemBody) for item in page.invoices],
        in_review=page.in_review,
        next=page.invoices[-1].position if page.has_more else None,
    )


@post(
    "/v1/admin/invoices/{invoice_id:str}/approve",
    **action("adminApproveInvoice", ApprovalBody, InvoiceStateBody),
)
async def post_approval(request: AnyRequest, invoice_id: SubjectId) -> InvoiceStateBody:
    """Approve an invoice.

    By somebody who neither made nor changed it, naming the hash of the content that was looked at: any later
    change voids the approval.
    """
    body = await body_of(request, ApprovalBody)
    pool, actor = services_of(request).pool, staff_of(request).actor
    return _state(await approve(pool, invoice_id, actor, body.content_sha256))


@post(
    "/v1/admin/invoices/{invoice_id:str}/send-back",
    **action("adminSendBackInvoice", WhyBody, InvoiceStateBody),
)
async def post_sending_back(request: AnyRequest, invoice_id: SubjectId) -> InvoiceStateBody:
    """Send an invoice back: it is a draft until the month is run again."""
    body = await body_of(request, WhyBody)
    return _state(
        await send_back(services_of(request).pool, invoice_id, staff_of(request).actor, body.reason)
    )


@post("/v1/admin/invoices/{invoice_id:str}/issue", **action("adminIssueInvoice", None, InvoiceStateBody))
async def post_issue(request: AnyRequest, invoice_id: SubjectId) -> InvoiceStateBody:
    """Issue an approved invoice: it gets its number, and never changes again."""
    return _state(await issue(services_of(request).pool, invoice_id, staff_of(request).actor))


@post("/v1/admin/invoices/{invoice_id:str}/pay", **action("adminPayInvoice", PaymentBody, InvoiceStateBody))
async def post_payment(request: AnyRequest, invoice_id: SubjectId) -> InvoiceStateBody:
    """Note by hand that an invoice was paid."""
    body = await body_of(request, PaymentBody)
    return _state(
        await mark_paid(services_of(request).pool, invoice_id, staff_of(request).actor, body.reference)
    )


@post("/v1/admin/invoices/{invoice_id:str}/void", **action("adminVoidInvoice", VoidBody, InvoiceStateBody))
async def post_void(request: AnyRequest, invoice_id: SubjectId) -> InvoiceStateBody:
    """Void an issued invoice that is not paid.

    Its number stays used. With `reissue` the next run makes the month's next revision, which names this one.
    """
    body = await body_of(request, VoidBody)
    pool, actor = services_of(request).pool, staff_of(request).actor
    return _state(await void(pool, invoice_id, actor, body.reason, reissue=body.reissue))


@post(
    "/v1/admin/invoices/{invoice_id:str}/write-off",
    **action("adminWriteOffInvoice", WhyBody, InvoiceStateBody),
)
async def post_write_off(request: AnyRequest, invoice_id: SubjectId) -> InvoiceStateBody:
    """Write off an issued invoice that is not expected to be paid; it still may be."""
    body = await body_of(request, WhyBody)
    return _state(
        await write_off(services_of(request).pool, invoice_id, staff_of(request).actor, body.reason)
    )


@post(
    "/v1/admin/invoices/{invoice_id:str}/comments",
    **action("adminCommentOnInvoice", NewCommentBody, CommentBody),
)
async def post_comment(request: AnyRequest, invoice_id: SubjectId) -> CommentBody:
    """Comment on an invoice.

    It is no part of what the invoice says, and is never changed.
    """
    body = await body_of(request, NewCommentBody)
    pool, actor = services_of(request).pool, staff_of(request).actor
    return as_body(await comment(pool, invoice_id, actor, body.text), CommentBody)


@get(
    "/v1/admin/invoices/{invoice_id:str}/comments",
    **reading(
        "adminListInvoiceComments",
        CommentListBody,
        QueryParameter("after", "The `next` of the page before.", {"type": "integer"}),
        LIMIT,
        has_id=True,
    ),
)
async def get_comments(
    request: AnyRequest, invoice_id: SubjectId, after: Cursor = None, limit: Limit = 50
) -> CommentListBody:
    """List the comments on an invoice, in the order in which they were written."""
    found = await comments(services_of(request).pool, invoice_id, after or 0, limit + 1)
    page = [as_body(one, CommentBody) for one in found[:limit]]
    return CommentListBody(page, page[-1].comment_id if len(found) > limit else None)


@get(
    "/v1/admin/audit-events",
    **reading(
        "adminListAuditEvents",
        AuditTrailBody,
        QueryParameter(
            "subject", "The id of an invoice or a credit note; all by default.", {"type": "string"}
        ),
        QueryParameter("before", "The `next` of the page before.", {"type": "integer"}),
        LIMIT,
    ),
)
async def get_audit_events(
    request: AnyRequest,
    subject: Annotated[str | None, Parameter(pattern=ID_PATTERN)] = None,
    before: Cursor = None,
    limit: Limit = 50,
) -> AuditTrailBody:
    """List who did what, and what was refused to whom, the latest first."""
    found = await audit_trail(services_of(request).pool, subject, before, limit + 1)
    page = [as_body(one, AuditEventBody) for one in found[:limit]]
    return AuditTrailBody(page, page[-1].event_id if len(found) > limit else None)


def _state(invoice: Invoice) -> InvoiceStateBody:
    return as_body(invoice, InvoiceStateBody)


ROUTES = (
    get_review_queue,
    post_approval,
    post_sending_back,
    post_issue,
    post_payment,
    post_void,
    post_write_off,
    post_comment,
    get_comments,
    get_audit_events,
)
