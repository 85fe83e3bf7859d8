"""The outbox: that an invoice is to be collected is written in the transaction that issues it.

Whether it is, the database says, and the billing worker tells it so at its start: an invoice that is issued
from a shell without Stripe's key is collected all the same, as long as a worker has the key. What was issued
while collection was off is never sent by itself: it is collected by hand, or added by `enter`.
"""

from billing import audit
from billing.invoices import Invoice, read_invoice
from billing.store import collecting as store
from billing.store import issuing as issuing_store
from billing.store.collecting import Method
from infra.database import Connection, Pool, borrow
from infra.errors import DomainError


class CollectionStateError(DomainError):
    """This invoice is not one that Stripe can collect, or not now."""

    code = "collection_state"


async def set_collector(pool: Pool, method: Method | None, livemode: bool) -> None:
    """Say how invoices that are issued from now on are collected; no method: by hand."""
    async with borrow(pool) as connection, connection.transaction():
        if await store.set_collector(connection, method, livemode):
            await audit.record(
                connection, audit.WORKER, "collector", "stripe", method=method, livemode=livemode
            )


async def collect_issued(connection: Connection, invoice: Invoice) -> None:
    """Have an invoice that is being issued collected, if there is a collector and something to collect."""
    collector = await store.read_collector(connection)
    if collector.method and invoice.due_minor:
        await store.insert_collection(connection, invoice.invoice_id, collector.method, collector.livemode)


async def enter(pool: Pool, invoice_id: str, actor: str) -> None:
    """Have an invoice collected that was issued when collection was off.

    Raises:
        NotFoundError: there is no such invoice.
        CollectionStateError: collection is off, or there is nothing to collect of it, or it is collected.
    """
    async with (
        audit.refusals_recorded(pool, actor, "collect", invoice_id),
        borrow(pool) as connection,
        connection.transaction(),
    ):
        await issuing_store.lock_invoice(connection, invoice_id)
        invoice = await read_invoice(connection, invoice_id)
        if invoice.status != "issued" or not invoice.due_minor:
            raise CollectionStateError("Only what is due of an issued invoice is collected.")
        collector = await store.read_collector(connection)
        if not collector.method:
            raise CollectionStateError(
                "Collection through Stripe is off: start a billing worker with STRIPE_API_KEY set."
            )
        if not await store.insert_collection(connection, invoice_id, collector.method, collector.livemode):
            raise CollectionStateError("This invoice is collected through Stripe already.")
        await audit.record(connection, actor, "collect", invoice_id, livemode=collector.livemode)


async def retry(pool: Pool, invoice_id: str, actor: str) -> None:
    """Begin anew with an invoice that failed, or that differed at Stripe, now that somebody saw to it.

    Raises:
        CollectionStateError: it neither failed nor differed.
    """
    async with (
        audit.refusals_recorded(pool, actor, "retry_collection", invoice_id),
        borrow(pool) as connection,
        connection.transaction(),
    ):
        await issuing_store.lock_invoice(connection, invoice_id)
        row = await store.read_collection(connection, invoice_id)
        if row is None or row.state not in ("failed", "mismatch"):
            raise CollectionStateError("Only a collection that failed or mismatched is begun anew.")
        await store.set_retried(connection, invoice_id)
        await audit.record(connection, actor, "retry_collection", invoice_id, after=row.reason)
