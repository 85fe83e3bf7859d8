"""Credit notes, told to Stripe: what is open of the invoice there is less, as it is here.

What was paid already goes back outside of Stripe: it is carried into the next invoice, or somebody refunds
it.
"""

from collections.abc import Sequence
from typing import Final

from billing.collecting.client import StripeApi
from billing.collecting.items import provider_amount
from billing.collecting.remote import RemoteInvoice
from billing.money import currency
from billing.store import credit_notes as store
from billing.store.credit_notes import NoteRow
from infra.database import Pool, borrow

NOTE_KEY: Final = "aiaas_credit_note_id"
_MOST_NOTES: Final = 500  # of one invoice: each takes at least one minor unit off a line


class MismatchError(Exception):
    """The two sides contradict each other: somebody must see."""

    def __init__(self, said: Sequence[str]) -> None:
        super().__init__("; ".join(said))
        self.reason = "; ".join(said)[:1000]


async def missing_notes(pool: Pool, api: StripeApi, invoice_id: str, found: RemoteInvoice) -> list[NoteRow]:
    """Issued credit notes of an invoice that Stripe does not have, the first one first."""
    async with borrow(pool) as connection:
        notes = await store.read_notes(connection, invoice_id=invoice_id, limit=_MOST_NOTES)
    issued = [note for note in reversed(notes) if note.status == "issued"]
    if not issued:
        return []
    there = {one.metadata.get(NOTE_KEY) for one in await api.list_credit_notes(found.id)}
    return [note for note in issued if note.credit_note_id not in there]


async def credit(api: StripeApi, note: NoteRow, found: RemoteInvoice, key: str) -> None:
    """Make a credit note at Stripe.

    It is for no more than the invoice there, which is less than ours where it was lowered by what was carried
    into it.

    Raises:
        MismatchError: what it took off what was open here is not open there.
    """
    assert note.reduces_minor is not None, "it is issued"
    unit = currency(note.currency)
    total, reduces = (provider_amount(minor, unit) for minor in (note.total_minor, note.reduces_minor))
    credited = found.pre_payment_credit_notes_amount + found.post_payment_credit_notes_amount
    amount = min(total, found.total - credited)
    if min(amount, found.amount_remaining) != reduces:
        open_there = f"{found.amount_remaining} {found.currency} is open at Stripe"
        raise MismatchError(
            [f"credit note {note.number} takes {reduces} off what is open here; {open_there}"]
        )
    metadata = {NOTE_KEY: note.credit_note_id}
    await api.create_credit_note(found.id, amount, amount - reduces, f"{note.number}", metadata, key)
