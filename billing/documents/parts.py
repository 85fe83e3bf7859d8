"""What all kinds of documents share: who, and what proves it."""

from billing.documents.paper import Fact, Party
from billing.documents.words import Texts
from billing.invoices import Party as InvoiceParty


def party(label: str, who: InvoiceParty, say: Texts) -> Party:
    """Who bills or is billed, blank lines left out."""
    tax_id = say("tax_id", tax_id=who.tax_id) if who.tax_id else ""
    lines = (*who.address.splitlines(), tax_id, who.email)
    return Party(say(label), who.name, tuple(line for line in lines if line.strip()))


def hashes(content: str, previous: str | None, chain: str | None, say: Texts) -> tuple[Fact, ...]:
    """The hash of what a document says, and once it is issued its link in the chain."""
    rows = (("content_hash", content), ("previous_hash", previous), ("chain_hash", chain))
    return tuple(Fact(say(label), value) for label, value in rows if value)
