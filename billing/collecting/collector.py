"""The job: read both sides, do the next step, record it, until nothing is left to do.

An invoice is claimed by moving its due time ahead, as a message of the outbox is; if the worker dies, it
comes due again by itself. Two that work on it at once do no harm: each step is asked of Stripe under an
idempotency key of its own, and what is there is looked for before anything is made. Stripe forgets the keys
after a day; what is there, it does not forget.
"""

import logging
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Final

import msgspec

from billing import audit
from billing.collecting.client import StripeApi, StripeAwayError, StripeRefusedError
from billing.collecting.crediting import MismatchError, credit, missing_notes
from billing.collecting.items import (
    INVOICE_KEY,
    REVISION_KEY,
    Order,
    differences,
    order_of,
    payment_differences,
)
from billing.collecting.remote import RemoteInvoice, RemoteLine
from billing.collecting.steps import Step, look_again_in, next_step, state_of
from billing.deliveries import FIRST_RETRY_MS, retry_pause
from billing.invoices import read_invoice
from billing.issuing import settle
from billing.store import collecting as store
from billing.store import issuing as issuing_store
from billing.store import jobs
from billing.store import stripe_events as events_store
from billing.store.collecting import CollectionRow, State
from billing.store.credit_notes import NoteRow
from infra.database import Pool, borrow, delete_in_pages
from infra.logs import event

MOST_ATTEMPTS: Final = 100  # two days, once the pauses no longer grow
_GROWS_FOR: Final = 6  # attempts: then the pause is half an hour
_MOST_STEPS: Final = 12  # of one run; the longest way there is takes seven
_LEASE_TIMEOUTS: Final = 10
_AT_ONCE: Final = 1000
_MADE_BEFORE: Final = timedelta(days=1)  # how far the two clocks may be apart
_EVENTS_KEPT: Final = timedelta(days=90)
_PAGE: Final = 1000


class _Sight(msgspec.Struct, frozen=True):
    """Both sides of an invoice, and what is to be done next."""

    row: CollectionRow
    found: RemoteInvoice | None
    lines: Sequence[RemoteLine]
    notes: Sequence[NoteRow]
    step: Step


class Collector:
    """Collects what is due through Stripe. One event loop; any number of processes over one database.

    Args:
        timeout_s: what a call to Stripe takes at most.
        first_retry_ms: the first pause after a failure.
    """

    def __init__(
        self, pool: Pool, api: StripeApi, *, timeout_s: float, first_retry_ms: int = FIRST_RETRY_MS
    ) -> None:
        self._pool = pool
        self._api = api
        self._lease = timedelta(seconds=_LEASE_TIMEOUTS * timeout_s)
        self._first_retry_ms = first_retry_ms

    async def take_up_due(self) -> int:
        """Have workers see to the invoices that are due; returns how many there are."""
        async with borrow(self._pool) as connection:
            due = await store.read_due(connection, self._api.livemode, _AT_ONCE)
            for invoice_id in due:
                await jobs.defer_collecting(connection, invoice_id)
        return len(due)

    async def forget_events(self) -> int:
        """Delete events that were handled 90 days ago; returns how many."""
        return await delete_in_pages(
            self._pool, _PAGE, lambda connection: events_store.delete_events(connection, _EVENTS_KEPT, _PAGE)
        )

    async def look_again(self, invoice_id: str) -> None:
        """See to an invoice now, due or not."""
        async with borrow(self._pool) as connection, connection.transaction():
            await store.wake(connection, [invoice_id])
        await self.collect(invoice_id)

    async def collect(self, invoice_id: str) -> None:
        """Do all that can be done now about an invoice, if it is due and nobody else is at it."""
        async with borrow(self._pool) as connection, connection.transaction():
            claimed = await store.claim(connection, invoice_id, self._api.livemode, self._lease)
        if not claimed:
            return
        refused: Step | None = None
        for _ in range(_MOST_STEPS):
            row = await self._read(invoice_id)
            step: Step | None = None
            try:
                sight = await self._look(row)
                step = sight.step
                is_done = await self._take(sight)
            except MismatchError as error:
                is_done = await self._stop(row, "mismatch", error.reason)
            except StripeAwayError as error:
                is_done = await self._try_later(row, error)
            except StripeRefusedError as error:
                # Somebody else may have done it meanwhile: what is there now says.
                is_new = step is not None and step is not refused
                is_done = False if is_new else await self._stop(row, "failed", error.reason)
                refused = step
            if is_done:
                return
        await self._stop(await self._read(invoice_id), "failed", "no_end")

    async def _read(self, invoice_id: str) -> CollectionRow:
        async with borrow(self._pool) as connection:
            row = await store.read_collection(connection, invoice_id)
        assert row is not None, "it was claimed, and none is deleted"
        return row

    async def _look(self, row: CollectionRow) -> _Sight:
        if row.stripe_invoice_id is None:
            return _Sight(row, None, (), (), next_step(row, None, 0))
        try:
            found = await self._api.read_invoice(row.stripe_invoice_id)
        except StripeRefusedError as error:
            if not error.is_missing:
                raise
            if row.invoice_status == "issued":
                raise MismatchError([f"{row.stripe_invoice_id} is gone at Stripe"]) from None
            return _Sight(row, None, (), (), Step.DELETE)
        lines: Sequence[RemoteLine] = ()
        if found.status == "draft" or not row.delivered_at:
            lines = await self._api.read_lines(found.id)
        notes = await missing_notes(self._pool, self._api, row.invoice_id, found)
        return _Sight(row, found, lines, notes, next_step(row, found, len(lines), len(notes)))

    async def _take(self, sight: _Sight) -> bool:
        """Do the next step; returns whether it was the last one for now."""
        row, found = sight.row, sight.found
        if sight.step is Step.CREATE:
            return await self._create(row)
        if sight.step is Step.DELETE:
            return await self._delete(row, found)
        assert found is not None, "only these two do without"
        match sight.step:
            case Step.ADD_ITEMS:
                items = (await self._order(row)).items
                await self._api.add_items(found.id, items, _key(row, "items"))
            case Step.FINALISE:
                await self._compare(sight)
                await self._api.finalise(found.id, _key(row, "finalise"))
            case Step.DELIVER:
                await self._compare(sight)
                await self._deliver(row, found)
            case Step.CREDIT:
                note = sight.notes[0]
                await credit(self._api, note, found, _key(row, f"credit:{note.credit_note_id}"))
            case Step.PAY_OUT_OF_BAND:
                await self._api.pay(found.id, _key(row, "paid"), out_of_band=True)
            case Step.VOID:
                await self._api.void(found.id, _key(row, "void"))
            case Step.WRITE_OFF:
                await self._api.mark_uncollectible(found.id, _key(row, "uncollectible"))
            case Step.SETTLE:
                await self._settle(row, found)
            case Step.NOTE:
                return await self._note(row, found)
            case _:
                said = f"the invoice is {row.invoice_status} here, {found.status} at Stripe"
                raise MismatchError([said])
        return False

    async def _create(self, row: CollectionRow) -> bool:
        """Find the invoice at Stripe, or make it: a draft, without items as yet."""
        customer_id = row.customer_id or await self._customer(row)
        if customer_id is None:
            return await self._withdraw(row)
        found = await self._find(row, customer_id)
        if found is None and row.invoice_status != "issued":
            return await self._withdraw(row)
        if found is None:
            order = await self._order(row)
            async with borrow(self._pool) as connection:
                contact = await store.read_contact(connection, row.tenant_id)
            if row.method == "send" and not contact.email:
                return await self._stop(row, "failed", "no_email: the billing profile has none")
            await self._api.update_customer(customer_id, contact)
            found = await self._api.create_invoice(order, customer_id, _key(row, "create"))
        async with borrow(self._pool) as connection, connection.transaction():
            await store.set_stripe_invoice(connection, row.invoice_id, found.id)
        return False

    async def _customer(self, row: CollectionRow) -> str | None:
        """The tenant's customer: found, made, or None where nothing is to be collected of it any more."""
        customer_id = await self._api.find_customer(row.tenant_id) if row.attempts > 1 or row.series else None
        if customer_id is None and row.invoice_status != "issued":
            return None
        if customer_id is None:
            key = f"aiaas:{row.tenant_id}:customer" + (f":{row.series}" if row.series else "")
            customer_id = await self._api.create_customer(row.tenant_id, key)
        async with borrow(self._pool) as connection, connection.transaction():
            return await store.set_customer(connection, row.tenant_id, row.livemode, customer_id)

    async def _find(self, row: CollectionRow, customer_id: str) -> RemoteInvoice | None:
        """The invoice among the customer's: made by an attempt that did not live to record it."""
        ours = {INVOICE_KEY: row.invoice_id, REVISION_KEY: str(row.revision)}
        found = [
            one
            async for one in self._api.list_invoices(row.entered_at - _MADE_BEFORE, customer_id)
            if ours.items() <= one.metadata.items()
        ]
        found = [one for one in found if one.status != "void"] or found[:1]
        if len(found) > 1:
            raise MismatchError([f"{len(found)} invoices at Stripe: {', '.join(one.id for one in found)}"])
        return found[0] if found else None

    async def _delete(self, row: CollectionRow, found: RemoteInvoice | None) -> bool:
        """Take back a draft of what is paid, void or written off here."""
        if found is not None:
            await self._api.delete(found.id)
        return await self._withdraw(row)

    async def _compare(self, sight: _Sight) -> None:
        """Raises: MismatchError: what Stripe has is not what was ordered."""
        assert sight.found is not None, "there is something to compare"
        order, row = await self._order(sight.row), sight.row
        said = differences(order, row.customer_id, row.livemode, sight.found, sight.lines)
        if said:
            raise MismatchError(said)

    async def _deliver(self, row: CollectionRow, found: RemoteInvoice) -> None:
        """Send it, or charge it once; what comes after is Stripe's, as its account is set up."""
        if row.method == "send":
            await self._api.send(found.id, _key(row, "send"))
        else:
            try:
                await self._api.pay(found.id, _key(row, "pay"))
            except StripeRefusedError as error:
                event("collecting", logging.INFO, "charge_refused", _fields(row, error.reason))
        if (await self._api.read_invoice(found.id)).status == "open":
            await self._api.advance(found.id)
        async with borrow(self._pool) as connection, connection.transaction():
            await store.set_delivered(connection, row.invoice_id)

    async def _settle(self, row: CollectionRow, found: RemoteInvoice) -> None:
        """Pay here what is paid at Stripe, if it is what was due."""
        said = payment_differences(await self._order(row), found)
        if said:
            raise MismatchError(said)
        async with borrow(self._pool) as connection, connection.transaction():
            await issuing_store.lock_invoice(connection, row.invoice_id)
            if (await read_invoice(connection, row.invoice_id)).status in ("issued", "uncollectible"):
                detail: dict[str, Any] = {"by": "stripe", "stripe_invoice_id": found.id}
                await settle(connection, row.invoice_id, "paid", audit.WORKER, **detail)
            await events_store.set_events_applied(connection, row.invoice_id, row.read_at)

    async def _note(self, row: CollectionRow, found: RemoteInvoice) -> bool:
        async with borrow(self._pool) as connection, connection.transaction():
            state = state_of(row, found, row.read_at)
            await store.set_state(connection, row.invoice_id, state, None, found.attempt_count)
            await events_store.set_events_applied(connection, row.invoice_id, row.read_at)
            await store.release(connection, row.invoice_id, row.due_at, look_again_in(found, row.read_at))
        return True

    async def _withdraw(self, row: CollectionRow) -> bool:
        """It is not collected any more, and nothing of it is at Stripe."""
        async with borrow(self._pool) as connection, connection.transaction():
            await store.set_stripe_invoice(connection, row.invoice_id, None)
            await store.set_state(connection, row.invoice_id, "withdrawn", None)
            await events_store.set_events_applied(connection, row.invoice_id, row.read_at)
            await store.release(connection, row.invoice_id, row.due_at, None)
        return True

    async def _stop(self, row: CollectionRow, state: State, reason: str) -> bool:
        """Leave it to somebody who sees why; on record once, however often it is found again."""
        async with borrow(self._pool) as connection, connection.transaction():
            if await store.set_state(connection, row.invoice_id, state, reason):
                await audit.record(
                    connection, audit.WORKER, f"collection_{state}", row.invoice_id, reason=reason
                )
                event("collecting", logging.WARNING, f"collection_{state}", _fields(row, state))
            await events_store.set_events_applied(connection, row.invoice_id, row.read_at)
            await store.release(connection, row.invoice_id, row.due_at, None)
        return True

    async def _try_later(self, row: CollectionRow, error: StripeAwayError) -> bool:
        if row.attempts >= MOST_ATTEMPTS:
            return await self._stop(row, "failed", f"gave up: {error.reason}")
        pause = retry_pause(min(row.attempts, _GROWS_FOR), self._first_retry_ms)
        due_in = max(pause, timedelta(seconds=error.retry_after_s))
        async with borrow(self._pool) as connection, connection.transaction():
            await store.set_retry(
                connection, row.invoice_id, row.due_at, due_in, error.reason, error.is_answered
            )
        event("collecting", logging.INFO, "collection_tried_later", _fields(row, error.reason))
        return True

    async def _order(self, row: CollectionRow) -> Order:
        async with borrow(self._pool) as connection:
            return order_of(await read_invoice(connection, row.invoice_id), row.method)


def _key(row: CollectionRow, step: str) -> str:
    """The idempotency key of a step: the same for the same revision, until Stripe answered it for good."""
    return f"aiaas:{row.invoice_id}:{row.revision}:{step}" + (f":{row.series}" if row.series else "")


def _fields(row: CollectionRow, reason: str) -> dict[str, object]:
    return {"invoice_id": row.invoice_id, "attempts": row.attempts, "reason": reason}
