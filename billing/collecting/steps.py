"""What is to be done next about an invoice, from how it stands here and how it stands at Stripe. Pure.

There is no other state of the work: a collector that died at any moment finds the next step here again.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from billing.collecting.remote import RemoteInvoice
from billing.store.collecting import CollectionRow, State

_AFTER_DUE: Final = timedelta(minutes=1)
_AFTER_PAYMENT: Final = timedelta(hours=1)


class Step(StrEnum):
    """The next thing to do."""

    CREATE = "create"  # find it at Stripe or make it there
    DELETE = "delete"  # a draft of what is not to be collected any more
    ADD_ITEMS = "items"
    FINALISE = "finalise"  # once it is compared
    DELIVER = "deliver"  # send, or charge; once it is compared again
    CREDIT = "credit"  # a credit note that is not there yet
    PAY_OUT_OF_BAND = "paid"
    VOID = "void"
    WRITE_OFF = "uncollectible"
    SETTLE = "settle"  # it is paid there: pay it here
    NOTE = "note"  # nothing; note how it stands
    MISMATCH = "mismatch"  # the two contradict each other: somebody must see


_STEPS: Final[Mapping[tuple[str, str], Step]] = {
    # (here, at Stripe)
    ("issued", "draft"): Step.FINALISE,
    ("paid", "draft"): Step.DELETE,
    ("void", "draft"): Step.DELETE,
    ("uncollectible", "draft"): Step.DELETE,
    ("issued", "open"): Step.DELIVER,
    ("paid", "open"): Step.PAY_OUT_OF_BAND,
    ("void", "open"): Step.VOID,
    ("uncollectible", "open"): Step.WRITE_OFF,
    ("issued", "paid"): Step.SETTLE,
    ("paid", "paid"): Step.NOTE,
    ("uncollectible", "paid"): Step.SETTLE,
    ("issued", "uncollectible"): Step.NOTE,  # to write it off here too is for people
    ("paid", "uncollectible"): Step.PAY_OUT_OF_BAND,
    ("void", "uncollectible"): Step.VOID,
    ("uncollectible", "uncollectible"): Step.NOTE,
    ("void", "void"): Step.NOTE,
}


def next_step(row: CollectionRow, found: RemoteInvoice | None, line_count: int, note_count: int = 0) -> Step:
    """The next step.

    Args:
        found: the invoice at Stripe; None where none is on record.
        line_count: how many lines it has.
        note_count: how many credit notes it lacks; it takes none as a draft or when it is written off.
    """
    if found is None:
        return Step.CREATE
    step = _STEPS.get((row.invoice_status, found.status), Step.MISMATCH)
    if step is Step.FINALISE and not line_count:
        return Step.ADD_ITEMS
    if note_count and found.status in ("open", "paid") and step is not Step.MISMATCH:
        return Step.CREDIT
    if step is Step.DELIVER and row.delivered_at:
        return Step.NOTE
    return step


def state_of(row: CollectionRow, found: RemoteInvoice, now: datetime) -> State:
    """How the collection of a final invoice stands."""
    if found.status in ("paid", "uncollectible", "void"):
        return found.status
    if found.has_payment("requires_action"):
        return "action_required"
    if row.method == "charge":
        return "open" if found.has_payment("processing") else "payment_failed"
    if found.due_date is not None and found.due_date <= now.timestamp():
        return "past_due"
    return "payment_failed" if found.attempt_count else "open"


def look_again_in(found: RemoteInvoice, now: datetime) -> timedelta | None:
    """When to look again by ourselves: when an open invoice becomes due, or is charged again."""
    if found.status != "open":
        return None
    moments = [(found.due_date, _AFTER_DUE), (found.next_payment_attempt, _AFTER_PAYMENT)]
    waits = [
        timedelta(seconds=at - int(now.timestamp())) + later
        for at, later in moments
        if at is not None and at > now.timestamp()
    ]
    return min(waits, default=None)
