"""Runs, approvals, issues, payments, credit notes, voids and write-offs in any order, by several people, over
real PostgreSQL, against an auditor who shares no code and keeps books of their own.

The auditor knows the usage, the tax rate that each invoice names, what was paid and what was credited. From
these alone they say what each tenant owes; the system must say the same: what is open on its invoices, and
what its next invoice takes over.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import msgspec
import psycopg
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from billing.closing import close_month
from billing.corrections import void, write_off
from billing.credit_notes import (
    CreditNote,
    approve_credit_note,
    create_credit_note,
    issue_credit_note,
    show_credit_note,
    withdraw_credit_note,
)
from billing.crediting import CreditLine, Remedy, credit_sha256
from billing.drafts import run_drafts
from billing.invoices import Content, Invoice, content_sha256, show_invoice
from billing.issuing import approve, issue, mark_paid, send_back
from billing.meters import TTS_CHARACTERS
from billing.prices import MeterPrice, Tier
from billing.store.drafts import read_months
from infra.database import Connection, Pool, connect, open_pool
from infra.errors import DomainError
from infra.ids import new_id
from tests.billing_world import add_account_with_prices, charge, write

STARTS = [datetime(2025, month, 1, tzinfo=UTC) for month in (8, 9, 10, 11)]
MONTHS = [start.strftime("%Y-%m") for start in STARTS]
BILLED, NEXT = MONTHS[:3], MONTHS[3]
A_CENT_EACH = {TTS_CHARACTERS: MeterPrice(1, (Tier(None, 10**7),))}
RATES_PPM = (0, 50_000, 88_750)
PEOPLE = ("staff:anna", "staff:bo", "staff:chen")
PERSON = st.sampled_from(PEOPLE)
ANY = st.integers(0, 999)
# Under 50 cents nothing is collected: it is carried.
CENTS = st.sampled_from([0, 20, 49, 50, 300, 999, 1234, 5000])


def tax_of(cents: int, ppm: int) -> int:
    """Rounded half away from zero, of amounts that are not negative."""
    return (2 * cents * ppm + 1_000_000) // 2_000_000


@dataclass
class Book:
    """One issued invoice, as the auditor keeps it."""

    tenant_id: str
    period: str
    tax_ppm: int
    content: bytes
    status: str = "issued"
    paid: int = 0


@dataclass
class Note:
    """One credit note: `total` as the auditor computes it once it is issued."""

    invoice_id: str
    cents: int
    tax: int
    remedy: str
    prepared_by: str
    status: str = "draft"
    at: bytes = b""


@dataclass
class Auditor:
    """All that happened, as it was seen from outside."""

    usage: dict[tuple[str, str], int] = field(default_factory=dict)
    makers: dict[str, set[str]] = field(default_factory=dict)
    books: dict[str, Book] = field(default_factory=dict)
    notes: dict[str, Note] = field(default_factory=dict)
    refused: int = 0

    def billed(self, book: Book) -> int:
        cents = self.usage[book.tenant_id, book.period]
        return cents + tax_of(cents, book.tax_ppm)

    def owes(self, tenant_id: str) -> int:
        """What was used on invoices that stand, less what was paid and credited; refunds are paid back."""
        books = {key: book for key, book in self.books.items() if book.tenant_id == tenant_id}
        standing = sum(self.billed(book) for book in books.values() if book.status != "void")
        notes = [one for one in self.notes.values() if one.invoice_id in books and one.status == "issued"]
        credited = sum(note.cents + note.tax for note in notes)
        return standing - credited - sum(book.paid for book in books.values())


class Corrections(RuleBasedStateMachine):
    """Drives the system as several people would, and audits it after each step."""

    url = ""

    @initialize(
        usage=st.lists(CENTS, min_size=6, max_size=6),
        late=st.lists(CENTS, min_size=2, max_size=2),
    )
    def begin(self, usage: list[int], late: list[int]) -> None:
        self.loop = asyncio.new_event_loop()
        self.auditor = Auditor()
        self.observer = psycopg.connect(self.url, autocommit=True)
        self.admin: Connection = self.wait(connect(self.url, "test-admin"))
        self.pool: Pool = self.wait(open_pool(self.url, 2, "test-finance"))
        self.issuer = new_id("iss")
        self.observer.execute(
            "INSERT INTO billing.issuer (issuer_id, name, number_prefix) VALUES (%s, 'Vendor', 'V-')",
            [self.issuer],
        )
        self.tenants = [self._open(usage[:3], late[0]), self._open(usage[3:], late[1])]

    def _open(self, usage: list[int], late: int) -> str:
        """A tenant with so many cents of usage a month, and usage of the first that is late in the second."""
        tenant_id = add_account_with_prices(self.observer, A_CENT_EACH, STARTS)
        self.observer.execute(
            "INSERT INTO billing.profile (tenant_id, issuer_id, name) VALUES (%s, %s, 'Test')",
            [tenant_id, self.issuer],
        )
        for place, (month, cents) in enumerate(zip(BILLED, usage, strict=True)):
            charges = [charge(tenant_id, TTS_CHARACTERS, cents, STARTS[place] + timedelta(days=3))]
            if place == 1:
                charges.append(charge(tenant_id, TTS_CHARACTERS, late, STARTS[0] + timedelta(days=4)))
            self.wait(write(self.admin, charges))
            self.wait(close_month(self.admin, tenant_id, month, STARTS[place + 1] + timedelta(hours=2)))
            self.auditor.usage[tenant_id, month] = cents + (late if place == 1 else 0)
        return tenant_id

    def wait(self, something: Awaitable[Any]) -> Any:
        return self.loop.run_until_complete(something)

    def attempt(self, something: Awaitable[Any]) -> Any:
        """What came of it; None where it was refused, which changes nothing and is on record."""
        before = self._state()
        try:
            return self.wait(something)
        except DomainError as error:
            self.auditor.refused += 1
            assert self._state() == before, error
            return None

    def invoice(self, number: int, *statuses: str) -> str:
        """Mostly one that is in one of these states; any other now and then."""
        rows = self._invoices()
        fitting = [invoice_id for invoice_id, status in rows if status in statuses]
        chosen = fitting if fitting and number % 5 else [invoice_id for invoice_id, _ in rows]
        return chosen[number % len(chosen)]

    def note(self, number: int, *statuses: str) -> str:
        fitting = [key for key, note in self.auditor.notes.items() if note.status in statuses]
        chosen = fitting if fitting and number % 5 else list(self.auditor.notes)
        return chosen[number % len(chosen)]

    @rule(month=st.sampled_from(BILLED), person=PERSON)
    def run(self, month: str, person: str) -> None:
        before = dict(self._contents())
        self.wait(run_drafts(self.pool, month, person))
        for invoice_id, digest in self._contents():
            if before.get(invoice_id) != digest:
                self.auditor.makers.setdefault(invoice_id, set()).add(person)

    @rule(tenant=st.sampled_from([0, 1]), ppm=st.sampled_from(RATES_PPM))
    def change_the_tax(self, tenant: int, ppm: int) -> None:
        self.observer.execute(
            "UPDATE billing.profile SET tax_ppm = %s WHERE tenant_id = %s", [ppm, self.tenants[tenant]]
        )

    @rule(months=st.sampled_from([1, 1, 2, 3]), is_paid=st.booleans())
    def as_it_goes_when_nothing_is_wrong(self, months: int, is_paid: bool) -> None:
        """So that there is something to correct, and a next invoice."""
        for month in BILLED[:months]:
            self.run(month, PEOPLE[0])
            for invoice_id, status in self._invoices(month):
                if status == "in_review":
                    self.approve_it(invoice_id, PEOPLE[1])
                if status in ("in_review", "approved"):
                    self.issue_it(invoice_id, PEOPLE[2])
            if is_paid:
                for invoice_id, status in self._invoices(month):
                    if status == "issued":
                        self.pay_it(invoice_id, PEOPLE[2])

    @precondition(lambda self: self._invoices())
    @rule(number=ANY, person=PERSON)
    def approve(self, number: int, person: str) -> None:
        self.approve_it(self.invoice(number, "in_review"), person)

    def approve_it(self, invoice_id: str, person: str) -> None:
        done = self.attempt(approve(self.pool, invoice_id, person))
        assert not (done and person in self.auditor.makers[invoice_id]), "two people"

    @precondition(lambda self: self._invoices())
    @rule(number=ANY, person=PERSON)
    def send_back(self, number: int, person: str) -> None:
        self.attempt(send_back(self.pool, self.invoice(number, "approved"), person, "look again"))

    @precondition(lambda self: self._invoices())
    @rule(number=ANY, person=PERSON)
    def issue(self, number: int, person: str) -> None:
        self.issue_it(self.invoice(number, "approved"), person)

    def issue_it(self, invoice_id: str, person: str) -> None:
        done: Invoice | None = self.attempt(issue(self.pool, invoice_id, person))
        if done:
            book = Book(done.tenant_id, done.period, done.tax_ppm, said(done), done.status)
            assert done.total_minor == self.auditor.billed(book)
            self.auditor.books[invoice_id] = book

    @precondition(lambda self: self._invoices())
    @rule(number=ANY, person=PERSON)
    def pay(self, number: int, person: str) -> None:
        """What the customer is told to pay, they pay."""
        self.pay_it(self.invoice(number, "issued", "uncollectible"), person)

    def pay_it(self, invoice_id: str, person: str) -> None:
        asked = self.wait(show_invoice(self.pool, invoice_id)).open_minor
        if self.attempt(mark_paid(self.pool, invoice_id, person, "bank")):
            book = self.auditor.books[invoice_id]
            assert book.status in ("issued", "uncollectible") and asked > 0
            book.status, book.paid = "paid", asked

    @precondition(lambda self: self._invoices())
    @rule(number=ANY, person=PERSON, reissue=st.booleans())
    def void(self, number: int, person: str, reissue: bool) -> None:
        invoice_id = self.invoice(number, "issued")
        if self.attempt(void(self.pool, invoice_id, person, "wrong", reissue=reissue)):
            book = self.auditor.books[invoice_id]
            assert book.status == "issued"
            book.status = "void"

    @precondition(lambda self: self._invoices())
    @rule(number=ANY, person=PERSON)
    def write_off(self, number: int, person: str) -> None:
        invoice_id = self.invoice(number, "issued")
        if self.attempt(write_off(self.pool, invoice_id, person, "insolvent")):
            book = self.auditor.books[invoice_id]
            assert book.status == "issued"
            book.status = "uncollectible"

    @precondition(lambda self: self.auditor.books)
    @rule(
        number=ANY,
        person=PERSON,
        tenths=st.sampled_from([0, 1, 3, 5, 10, 11]),
        line=st.sampled_from([1, 1, 1, 1, 2]),
        remedy=st.sampled_from(["carry", "carry", "refund"]),
    )
    def prepare_a_credit(self, number: int, person: str, tenths: int, line: int, remedy: Remedy) -> None:
        """A part of a line, all of it, or more than it."""
        self.credit_it(number, person, tenths, line, remedy)

    @precondition(lambda self: self.auditor.books)
    @rule(number=ANY, tenths=st.sampled_from([1, 3, 5, 10]), remedy=st.sampled_from(["carry", "refund"]))
    def credit(self, number: int, tenths: int, remedy: Remedy) -> None:
        """As it goes when nothing is wrong."""
        if note_id := self.credit_it(number, PEOPLE[0], tenths, 1, remedy):
            self.approve_note(note_id, PEOPLE[1])
            self.issue_note(note_id, PEOPLE[1])

    def credit_it(self, number: int, person: str, tenths: int, line: int, remedy: Remedy) -> str | None:
        invoice_id = self.invoice(number, "issued", "paid", "uncollectible")
        shown: Invoice = self.wait(show_invoice(self.pool, invoice_id))
        minor = next((one.amount_minor for one in shown.lines if one.line == line), 10)
        cents = -(-minor * tenths // 10)
        wanted = create_credit_note(
            self.pool, invoice_id, person, [CreditLine(line, cents)], "agreed", remedy
        )
        made: CreditNote | None = self.attempt(wanted)
        if made:
            others = [
                one
                for one in self.auditor.notes.values()
                if one.invoice_id == invoice_id and one.status != "withdrawn"
            ]
            together = tax_of(cents + sum(one.cents for one in others), shown.tax_ppm)
            tax = max(0, together - sum(one.tax for one in others))
            assert (made.subtotal_minor, made.tax_minor) == (cents, tax)
            self.auditor.notes[made.credit_note_id] = Note(invoice_id, cents, tax, remedy, person)
        return made.credit_note_id if made else None

    @precondition(lambda self: self.auditor.notes)
    @rule(number=ANY, person=PERSON)
    def approve_a_credit(self, number: int, person: str) -> None:
        self.approve_note(self.note(number, "draft"), person)

    def approve_note(self, note_id: str, person: str) -> None:
        if self.attempt(approve_credit_note(self.pool, note_id, person)):
            note = self.auditor.notes[note_id]
            assert (note.status, note.prepared_by == person) == ("draft", False)
            note.status = "approved"

    @precondition(lambda self: self.auditor.notes)
    @rule(number=ANY, person=PERSON)
    def issue_a_credit(self, number: int, person: str) -> None:
        self.issue_note(self.note(number, "approved"), person)

    def issue_note(self, note_id: str, person: str) -> None:
        done: CreditNote | None = self.attempt(issue_credit_note(self.pool, note_id, person))
        if done:
            note, book = self.auditor.notes[note_id], self.auditor.books[done.invoice_id]
            assert (note.status, note.prepared_by == person) == ("approved", False)
            note.status, note.at = "issued", msgspec.json.encode(done)
            assert book.status != "void"
            assert done.reduces_minor == 0 or book.status in ("issued", "uncollectible")
            assert (done.refunds_minor == 0) or note.remedy == "refund"
            # What is refunded leaves the till: for the auditor it is a payment taken back.
            book.paid -= done.refunds_minor or 0
            if self.wait(show_invoice(self.pool, done.invoice_id)).status == "paid":
                book.status = "paid"

    @precondition(lambda self: self.auditor.notes)
    @rule(number=ANY, person=PERSON)
    def withdraw_a_credit(self, number: int, person: str) -> None:
        note_id = self.note(number, "draft", "approved")
        if number % 3 == 0 and self.attempt(withdraw_credit_note(self.pool, note_id, person, "a slip")):
            note = self.auditor.notes[note_id]
            assert note.status in ("draft", "approved")
            note.status = "withdrawn"

    @invariant()
    def each_tenant_owes_what_the_auditor_says(self) -> None:
        for tenant_id in self.tenants:
            row = self.observer.execute(
                """
                SELECT coalesce(sum(due_minor - credited.minor)
                                FILTER (WHERE status IN ('issued', 'uncollectible')), 0)::bigint,
                       coalesce(sum(carried_in_minor) FILTER (WHERE number IS NULL), 0)::bigint,
                       coalesce(min(due_minor - credited.minor), 0)::bigint
                FROM billing.invoice
                CROSS JOIN LATERAL (
                    SELECT coalesce(sum(reduces_minor), 0) AS minor FROM billing.credit_note note
                    WHERE note.invoice_id = invoice.invoice_id) AS credited
                WHERE tenant_id = %s AND status <> 'void'
                """,
                [tenant_id],
            ).fetchone()
            assert row is not None
            is_open, taken_by_drafts, least_open = row
            (month,) = self.wait(read_months(self.admin, NEXT, [tenant_id]))
            waiting = sum(one["amount_minor"] for one in month.carried)
            assert least_open >= 0, "never a negative surprise"
            assert is_open + taken_by_drafts + waiting == self.auditor.owes(tenant_id)

    @invariant()
    def no_month_has_two_live_invoices_and_no_source_is_taken_twice(self) -> None:
        live = self.observer.execute(
            "SELECT tenant_id, period, carried FROM billing.invoice"
            " WHERE issuer_id = %s AND status <> 'void'",
            [self.issuer],
        ).fetchall()
        assert len({(tenant_id, period) for tenant_id, period, _ in live}) == len(live)
        taken = Counter(source["id"] for _, _, carried in live for source in carried)
        assert max(taken.values(), default=0) <= 1

    @invariant()
    def no_more_is_credited_than_was_billed(self) -> None:
        over = self.observer.execute(
            """
            SELECT invoice_id FROM billing.credit_note note JOIN billing.invoice USING (invoice_id)
            WHERE note.status <> 'withdrawn' AND note.issuer_id = %s
            GROUP BY invoice_id HAVING sum(note.total_minor) > min(invoice.total_minor)
            """,
            [self.issuer],
        ).fetchall()
        assert over == []

    @invariant()
    def numbers_have_no_gaps_and_the_chains_hold(self) -> None:
        for table, prefix in (("invoice", "V-"), ("credit_note", "V-CN-")):
            rows = self.observer.execute(
                f"SELECT number, previous_chain_sha256, content_sha256, chain_sha256 FROM billing.{table}"
                " WHERE issuer_id = %s AND number IS NOT NULL ORDER BY number_in_issuer",
                [self.issuer],
            ).fetchall()
            link = bytes(32)
            for place, (number, previous, content, chained) in enumerate(rows, 1):
                assert (number, previous) == (f"{prefix}{place:06d}", link)
                link = sha256(link + number.encode() + content).digest()
                assert chained == link

    def teardown(self) -> None:
        """At the end, all that was issued says what it said then, and each refusal is on record."""
        if not hasattr(self, "tenants"):
            return
        for invoice_id, book in self.auditor.books.items():
            shown = self.wait(show_invoice(self.pool, invoice_id))
            assert (said(shown), shown.status) == (book.content, book.status)
            assert content_sha256(shown).hex() == shown.content_sha256
        for note_id, note in self.auditor.notes.items():
            shown_note = self.wait(show_credit_note(self.pool, note_id))
            assert shown_note.status == note.status
            assert credit_sha256(shown_note).hex() == shown_note.content_sha256
            assert not note.at or msgspec.json.encode(shown_note) == note.at
        row = self.observer.execute(
            """
            SELECT count(*) FROM billing.audit_event WHERE refused AND subject IN (
                SELECT invoice_id FROM billing.invoice WHERE issuer_id = %(issuer)s
                UNION ALL SELECT credit_note_id FROM billing.credit_note WHERE issuer_id = %(issuer)s)
            """,
            {"issuer": self.issuer},
        ).fetchone()
        assert row == (self.auditor.refused,)
        self.wait(self.pool.close())
        self.wait(self.admin.close())
        self.observer.close()
        self.loop.close()

    def _invoices(self, month: str | None = None) -> list[tuple[str, str]]:
        return self.observer.execute(
            "SELECT invoice_id, status FROM billing.invoice WHERE issuer_id = %(issuer)s"
            " AND (%(month)s::text IS NULL OR period = %(month)s)"
            " ORDER BY array_position(%(tenants)s, tenant_id), period, revision",
            {"issuer": self.issuer, "month": month, "tenants": self.tenants},
        ).fetchall()

    def _contents(self) -> list[tuple[str, bytes]]:
        return self.observer.execute(
            "SELECT invoice_id, content_sha256 || status::bytea FROM billing.invoice WHERE issuer_id = %s",
            [self.issuer],
        ).fetchall()

    def _state(self) -> object:
        """All that a refusal must leave as it was."""
        return self.observer.execute(
            """
            SELECT (SELECT jsonb_agg(to_jsonb(invoice) ORDER BY invoice_id) FROM billing.invoice
                    WHERE issuer_id = %(issuer)s),
                   (SELECT jsonb_agg(to_jsonb(note) ORDER BY credit_note_id) FROM billing.credit_note note
                    WHERE issuer_id = %(issuer)s),
                   (SELECT to_jsonb(issuer) FROM billing.issuer WHERE issuer_id = %(issuer)s)
            """,
            {"issuer": self.issuer},
        ).fetchone()


def said(invoice: Invoice) -> bytes:
    """All that an invoice says, and its number."""
    fields = {name: getattr(invoice, name) for name in Content.__struct_fields__}
    return msgspec.json.encode({**fields, "number": invoice.number, "chain": invoice.chain_sha256})


def test_whatever_is_corrected_in_whatever_order_the_books_agree(database_url: str) -> None:
    machine = type("CorrectionsOverPostgres", (Corrections,), {"url": database_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15,
            stateful_step_count=30,
            deadline=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        ),
    )
