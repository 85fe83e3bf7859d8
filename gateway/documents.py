"""Documents as downloads."""

from datetime import datetime

from billing.invoices import Invoice

PDF = "application/pdf"
CSV = "text/csv; charset=utf-8"


def created_at(invoice: Invoice) -> datetime:
    """When a document says that it was made: when its invoice was issued; a draft's, when it was drafted."""
    return invoice.issued_at or invoice.drafted_at
