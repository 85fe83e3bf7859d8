"""Corrections of issued invoices: credit notes, void and reissue, write-off; never a negative surprise."""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from types import SimpleNamespace
from typing import cast

import psycopg
import pytest

from billing.audit import audit_trail
from billing.corrections import void, write_off
from billing.credit import grant_credit
from billing.credit_notes import (
    CreditNote,
    CreditNoteStateError,
    approve_credit_note,
    create_credit_note,
    issue_credit_note,
    list_credit_notes,
    show_credit_note,
    withdraw_credit_note,
)
from billing.crediting import CreditLine, OverCreditedError, Remedy, all_that_is_left, tax_back_minor
from billing.drafts import content, read_materials
from billing.invoices import Invoice, content_sha256, show_invoice
from billing.issuing import (
    InvoiceStateError,
    OwnInvoiceError,
    StaleApprovalError,
    approve,
    issue,
    mark_paid,
)
from billing.meters import INTENT_CALLS
from billing.store.credit_notes import CreditedRow
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from tests.billing_world import add_account
from tests.invoice_world import (
    AFTER_NOVEMBER,
    AFTER_OCTOBER,
    CHECKER,
    DOLLARS,
    MAKER,
    NOVEMBER,
    OCTOBER,
    close,
    issue_all,
    run,
    use,
)


async def issued(
    database_url: str, pool: Pool, tax_ppm: int = 0, november: Sequence[tuple[str, int]] = DOLLARS
) -> Invoice:
    """An invoice of October over 15.00 USD before tax, in one line, and usage in November."""
    tenant_id = await add_account(pool, now=OCTOBER)
    async with pool.connection() as connection:
        await connection.execute("UPDATE billing.profile SET tax_ppm = %s", [tax_ppm])
    await use(database_url, tenant_id, DOLLARS)
    await use(database_url, tenant_id, november, NOVEMBER)
    await close(pool, AFTER_OCTOBER)
    (invoice,) = await issue_all(pool)
    return invoice


async def credit(pool: Pool, invoice_id: str, minor: int, remedy: Remedy = "carry") -> CreditNote:
    """Take so much off the first line, by two people."""
    lines = [CreditLine(1, minor)]
    made = await create_credit_note(pool, invoice_id, MAKER, lines, "Agreed by phone", remedy)
    await approve_credit_note(pool, made.credit_note_id, CHECKER, made.content_sha256)
    return await issue_credit_note(pool, made.credit_note_id, CHECKER)


async def test_a_credit_note_reduces_what_is_open_until_the_invoice_is_paid(
    database_url: str, pool: Pool
) -> None:
    invoice = await issued(database_url, pool, tax_ppm=50_000)
    first = await credit(pool, invoice.invoice_id, 500)
    assert (first.status, first.number, first.total, first.invoice_number) == (
        "issued",
        "AG-CN-000001",
        "5.25 USD",
        invoice.number,
    )
    assert (first.reduces_minor, first.carries_minor, first.refunds_minor) == (525, 0, 0)
    left = await show_invoice(pool, invoice.invoice_id)
    assert (left.status, left.due_minor, left.open_minor) == ("issued", 1575, 1050)
    await credit(pool, invoice.invoice_id, 1000)
    paid = await show_invoice(pool, invoice.invoice_id)
    assert (paid.status, paid.open_minor, paid.content_sha256) == ("paid", 0, invoice.content_sha256)
    with pytest.raises(InvoiceStateError):
        await mark_paid(pool, invoice.invoice_id, CHECKER, "too late")
    with pytest.raises(OverCreditedError, match=r"0\.00 USD left"):
        await create_credit_note(pool, invoice.invoice_id, MAKER, [CreditLine(1, 1)], "more")


async def test_credit_on_a_paid_invoice_is_carried_and_the_next_invoice_names_it(
    database_url: str, pool: Pool
) -> None:
    invoice = await issued(database_url, pool)
    await mark_paid(pool, invoice.invoice_id, CHECKER, "bank 1")
    note = await credit(pool, invoice.invoice_id, 400)
    assert (note.reduces_minor, note.carries_minor) == (0, 400)
    await close(pool, AFTER_NOVEMBER)
    (november,) = await issue_all(pool, "2025-11")
    (carried,) = november.carried
    assert (carried.source, carried.id, carried.number, carried.amount_minor) == (
        "credit_note",
        note.credit_note_id,
        "AG-CN-000001",
        -400,
    )
    assert (november.total_minor, november.due_minor) == (1500, 1100)


async def test_an_invoice_never_goes_below_zero_and_the_rest_is_carried_on(
    database_url: str, pool: Pool
) -> None:
    invoice = await issued(database_url, pool, november=[(INTENT_CALLS, 1000)])
    await mark_paid(pool, invoice.invoice_id, CHECKER, "bank 1")
    await credit(pool, invoice.invoice_id, 1500)
    await use(database_url, invoice.tenant_id, DOLLARS, AFTER_NOVEMBER)
    await close(pool, AFTER_NOVEMBER)
    (november,) = await issue_all(pool, "2025-11")
    assert (november.total_minor, november.due_minor, november.carried_out_minor) == (40, 0, -1460)
    assert november.status == "paid"
    (december,) = await run(pool, "2025-12")
    assert [(one.id, one.amount_minor) for one in december.carried] == [(november.invoice_id, -1460)]
    assert december.due_minor == 0


async def test_money_that_is_refunded_is_not_carried(database_url: str, pool: Pool) -> None:
    invoice = await issued(database_url, pool)
    await mark_paid(pool, invoice.invoice_id, CHECKER, "bank 1")
    note = await credit(pool, invoice.invoice_id, 400, "refund")
    assert (note.carries_minor, note.refunds_minor) == (0, 400)
    await close(pool, AFTER_NOVEMBER)
    (november,) = await run(pool, "2025-11")
    assert (november.carried, november.due_minor) == ((), 1500)


async def test_a_credit_note_that_comes_after_the_approval_is_not_forgotten(
    database_url: str, pool: Pool
) -> None:
    invoice = await issued(database_url, pool)
    await mark_paid(pool, invoice.invoice_id, CHECKER, "bank 1")
    await close(pool, AFTER_NOVEMBER)
    (november,) = await run(pool, "2025-11")
    await approve(pool, november.invoice_id, CHECKER)
    await credit(pool, invoice.invoice_id, 400)
    with pytest.raises(StaleApprovalError, match="carried"):
        await issue(pool, november.invoice_id, CHECKER)
    (again,) = await issue_all(pool, "2025-11")
    assert again.due_minor == 1100


async def test_what_is_credited_after_an_invoice_is_no_part_of_computing_it_again(
    database_url: str, pool: Pool
) -> None:
    """Promise 6: an issued invoice took over what it says, whatever is there to be taken over now."""
    invoice = await issued(database_url, pool)
    await mark_paid(pool, invoice.invoice_id, CHECKER, "bank 1")
    await close(pool, AFTER_NOVEMBER)
    first = await credit(pool, invoice.invoice_id, 400)
    (november,) = await issue_all(pool, "2025-11")
    await credit(pool, invoice.invoice_id, 300)
    async with pool.connection() as connection:
        (material,) = await read_materials(connection, "2025-11", [invoice.tenant_id])
    again = content(material, november.invoice_id, 1, None)
    assert content_sha256(again) == content_sha256(november)
    assert [one.id for one in again.carried] == [first.credit_note_id]


async def test_two_people_credit_and_the_refusal_is_on_record(database_url: str, pool: Pool) -> None:
    invoice = await issued(database_url, pool)
    note = await create_credit_note(pool, invoice.invoice_id, MAKER, [CreditLine(1, 100)], "why")
    with pytest.raises(OwnInvoiceError):
        await approve_credit_note(pool, note.credit_note_id, MAKER)
    with pytest.raises(StaleApprovalError):
        await approve_credit_note(pool, note.credit_note_id, CHECKER, "00" * 32)
    await approve_credit_note(pool, note.credit_note_id, CHECKER)
    with pytest.raises(OwnInvoiceError):
        await issue_credit_note(pool, note.credit_note_id, MAKER)
    await issue_credit_note(pool, note.credit_note_id, CHECKER)
    trail = [
        (event.actor, event.action, event.refused)
        for event in reversed(await audit_trail(pool, note.credit_note_id))
    ]
    assert trail == [
        (MAKER, "made", False),
        (MAKER, "approve", True),
        (CHECKER, "approve", True),
        (CHECKER, "approve", False),
        (MAKER, "issue", True),
        (CHECKER, "issue", False),
    ]
    assert (await audit_trail(pool, invoice.invoice_id))[0].action == "credited"


async def test_a_withdrawn_credit_note_counts_for_nothing(database_url: str, pool: Pool) -> None:
    invoice = await issued(database_url, pool)
    note = await create_credit_note(pool, invoice.invoice_id, MAKER, [CreditLine(1, 1500)], "all of it")
    with pytest.raises(OverCreditedError):
        await create_credit_note(pool, invoice.invoice_id, MAKER, [CreditLine(1, 1)], "more")
    await withdraw_credit_note(pool, note.credit_note_id, MAKER, "wrong customer")
    with pytest.raises(CreditNoteStateError):
        await approve_credit_note(pool, note.credit_note_id, CHECKER)
    issued_note = await credit(pool, invoice.invoice_id, 1500)
    assert issued_note.number == "AG-CN-000001", "one that was withdrawn never had a number"
    listed = await list_credit_notes(pool, invoice_id=invoice.invoice_id)
    assert [one.status for one in listed] == ["issued", "withdrawn"]
    (older,) = await list_credit_notes(pool, before=listed[0].credit_note_id)
    assert older.credit_note_id == note.credit_note_id


async def test_credit_numbers_have_no_gaps_and_are_chained_whoever_issues_at_once(
    database_url: str, pool: Pool
) -> None:
    for _ in range(6):
        await use(database_url, await add_account(pool, now=OCTOBER), DOLLARS)
    await close(pool, AFTER_OCTOBER)
    notes = [
        await create_credit_note(pool, one.invoice_id, MAKER, [CreditLine(1, 400)], "at once")
        for one in await issue_all(pool)
    ]
    await asyncio.gather(*(approve_credit_note(pool, one.credit_note_id, CHECKER) for one in notes))
    outcomes = await asyncio.gather(
        *(issue_credit_note(pool, one.credit_note_id, CHECKER) for one in notes for _ in range(2)),
        return_exceptions=True,
    )
    assert sum(isinstance(outcome, CreditNoteStateError) for outcome in outcomes) == 6
    found = sorted(await list_credit_notes(pool), key=lambda one: one.number or "")
    assert [one.number for one in found] == [f"AG-CN-{number:06d}" for number in range(1, 7)]
    link = bytes(32)
    for one in found:
        assert one.previous_chain_sha256 == link.hex()
        link = sha256(link + str(one.number).encode() + bytes.fromhex(one.content_sha256)).digest()
        assert one.chain_sha256 == link.hex()


async def test_no_more_is_credited_than_is_there_whoever_credits_at_once(
    database_url: str, pool: Pool
) -> None:
    invoice = await issued(database_url, pool)
    lines = [CreditLine(1, 400)]
    made = await asyncio.gather(
        *(create_credit_note(pool, invoice.invoice_id, MAKER, lines, "at once") for _ in range(5)),
        return_exceptions=True,
    )
    assert sum(isinstance(one, CreditNote) for one in made) == 3, "1500 minor units hold 3 times 400"
    assert sum(isinstance(one, OverCreditedError) for one in made) == 2


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing.credit_note SET subtotal_minor = 1, total_minor = 1",
        "UPDATE billing.credit_note SET reason = 'another'",
        "UPDATE billing.credit_note SET status = 'withdrawn'",
        "UPDATE billing.credit_note SET number = 'AG-CN-000009'",
        "UPDATE billing.credit_note SET carries_minor = 100, reduces_minor = 300",
        "DELETE FROM billing.credit_note",
        "TRUNCATE billing.credit_note CASCADE",
        "UPDATE billing.credit_note_line SET amount_minor = 1",
        "DELETE FROM billing.credit_note_line",
        "TRUNCATE billing.credit_note_line",
        "INSERT INTO billing.credit_note_line"
        " SELECT credit_note_id, invoice_id, 2, 1 FROM billing.credit_note",
        # More than is left, behind the program's back:
        "INSERT INTO billing.credit_note (credit_note_id, invoice_id, tenant_id, issuer_id, reason, remedy,"
        " subtotal_minor, tax_minor, total_minor, content_sha256, prepared_by) SELECT 'crn_2', invoice_id,"
        " tenant_id, issuer_id, 'r', 'carry', 1101, 0, 1101, content_sha256, 'a' FROM billing.credit_note",
        "INSERT INTO billing.credit_note (credit_note_id, invoice_id, tenant_id, issuer_id, reason, remedy,"
        " subtotal_minor, tax_minor, total_minor, content_sha256, prepared_by) SELECT 'crn_2', invoice_id,"
        " tenant_id, issuer_id, 'r', 'carry', 1, 0, 1, content_sha256, 'a' FROM billing.credit_note;"
        " INSERT INTO billing.credit_note_line SELECT 'crn_2', invoice_id, 1, 1101 FROM billing.invoice",
        "UPDATE billing.invoice SET status = 'void', settled_at = now()",
    ],
)
async def test_an_issued_credit_note_never_changes_and_more_is_never_credited(
    database_url: str, pool: Pool, change: str
) -> None:
    """Kept by the database."""
    invoice = await issued(database_url, pool)
    note = await credit(pool, invoice.invoice_id, 400)
    with pytest.raises(psycopg.errors.IntegrityError):
        async with pool.connection() as connection:
            await connection.execute(change.encode())
    assert await show_credit_note(pool, note.credit_note_id) == note


async def test_the_same_person_cannot_approve_a_credit_note_behind_the_programs_back(
    database_url: str, pool: Pool
) -> None:
    invoice = await issued(database_url, pool)
    await create_credit_note(pool, invoice.invoice_id, MAKER, [CreditLine(1, 100)], "why")
    with pytest.raises(psycopg.errors.CheckViolation):
        async with pool.connection() as connection:
            await connection.execute(
                "UPDATE billing.credit_note SET status = 'approved', approved_by = %s, approved_at = now()",
                [MAKER],
            )


def test_the_tax_goes_back_with_the_whole_invoice_to_the_cent() -> None:
    """8.875 % of 15.00 is 1.33; of three times 5.00, one by one, it would be 3 times 0.44."""
    assert tax_back_minor(88_750, 1500, 0, 0) == 133
    back = 0
    for times in range(3):
        back += tax_back_minor(88_750, 500, 500 * times, back)
    assert back == 133
    assert tax_back_minor(88_750, 1, 0, 44) == 0


async def test_a_void_invoice_is_made_anew_and_names_what_it_replaces(database_url: str, pool: Pool) -> None:
    invoice = await issued(database_url, pool)
    gone = await void(pool, invoice.invoice_id, CHECKER, "wrong tax", reissue=True)
    assert (gone.status, gone.number, gone.open_minor) == ("void", "AG-000001", 0)
    async with pool.connection() as connection:
        await connection.execute("UPDATE billing.profile SET tax_ppm = 50000")
    (again,) = await issue_all(pool)
    assert (again.revision, again.replaces, again.number, again.total_minor) == (
        2,
        invoice.invoice_id,
        "AG-000002",
        1575,
    )
    assert (await show_invoice(pool, invoice.invoice_id)).content_sha256 == invoice.content_sha256
    (again,) = await run(pool)
    assert again.revision == 2, "made anew once"


async def test_a_void_invoice_is_not_made_anew_unless_asked(database_url: str, pool: Pool) -> None:
    invoice = await issued(database_url, pool)
    await void(pool, invoice.invoice_id, CHECKER, "never agreed")
    assert await run(pool) == []
    trail = await audit_trail(pool, invoice.invoice_id)
    assert (trail[0].action, trail[0].detail) == ("void", {"reason": "never agreed", "reissue": False})


@pytest.mark.parametrize("reissue", [True, False])
async def test_what_a_void_invoice_took_over_goes_to_one_invoice_again(
    database_url: str, pool: Pool, reissue: bool
) -> None:
    """Carried from October to November, which is void when December is issued."""
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, [(INTENT_CALLS, 1000)])
    await use(database_url, tenant_id, DOLLARS, NOVEMBER)
    await use(database_url, tenant_id, DOLLARS, AFTER_NOVEMBER)
    await close(pool, AFTER_OCTOBER)
    (october,) = await issue_all(pool)
    await close(pool, AFTER_NOVEMBER)
    (november,) = await issue_all(pool, "2025-11")
    assert [one.id for one in november.carried] == [october.invoice_id]
    await void(pool, november.invoice_id, CHECKER, "wrong", reissue=reissue)
    if reissue:
        (again,) = await run(pool, "2025-11")
        assert (again.carried, again.due_minor) == (november.carried, 1540)
    (december,) = await run(pool, "2025-12")
    assert (december.carried == november.carried) is not reissue


@pytest.mark.parametrize("case", ["paid", "credited", "prepaid", "draft", "no reason", "nothing"])
async def test_what_would_lose_money_is_not_voided(database_url: str, pool: Pool, case: str) -> None:
    invoice = await issued(database_url, pool)
    error: type[Exception] = InvoiceStateError
    invoice_id, reason = invoice.invoice_id, "why"
    if case == "paid":
        await mark_paid(pool, invoice_id, CHECKER, "bank")
    elif case == "credited":
        await create_credit_note(pool, invoice_id, MAKER, [CreditLine(1, 1)], "why")
    elif case == "prepaid":
        await grant_credit(pool, invoice.tenant_id, 10 * 10**9)
        await use(database_url, invoice.tenant_id, [(INTENT_CALLS, 20_000)], NOVEMBER)
        await close(pool, AFTER_NOVEMBER)
        (november,) = await issue_all(pool, "2025-11")
        assert [line.kind for line in november.lines] == ["usage", "usage", "credit"]
        invoice_id = november.invoice_id
    elif case == "draft":
        await close(pool, AFTER_NOVEMBER)
        invoice_id = (await run(pool, "2025-11"))[0].invoice_id
    elif case == "no reason":
        reason, error = " ", InvalidValueError
    else:
        invoice_id, error = "inv_none", NotFoundError
    with pytest.raises(error):
        await void(pool, invoice_id, CHECKER, reason)
    if case not in ("no reason", "nothing"):
        last = (await audit_trail(pool, invoice_id))[0]
        assert (last.action, last.refused, last.detail) == ("void", True, {"code": "invoice_state"})
        assert (await show_invoice(pool, invoice_id)).status != "void"


async def test_what_was_written_off_may_still_be_paid_or_credited(database_url: str, pool: Pool) -> None:
    invoice = await issued(database_url, pool)
    lost = await write_off(pool, invoice.invoice_id, CHECKER, "insolvent")
    assert (lost.status, lost.open_minor) == ("uncollectible", 1500)
    await credit(pool, invoice.invoice_id, 400)
    with pytest.raises(InvoiceStateError):
        await void(pool, invoice.invoice_id, CHECKER, "no")
    paid = await mark_paid(pool, invoice.invoice_id, CHECKER, "bank 9")
    assert (paid.status, paid.open_minor) == ("paid", 0)
    trail = await audit_trail(pool, invoice.invoice_id)
    assert trail[0].detail == {"reference": "bank 9", "amount_minor": 1100}


async def test_all_that_is_left_of_an_invoice_is_credited_to_the_cent(database_url: str, pool: Pool) -> None:
    """Two lines of usage, and a part of one that was credited before."""
    tenant_id = await add_account(pool, now=OCTOBER)
    async with pool.connection() as connection:
        await connection.execute("UPDATE billing.profile SET tax_ppm = 88750")
    await use(database_url, tenant_id, [*DOLLARS, (INTENT_CALLS, 1234)])
    await close(pool, AFTER_OCTOBER)
    (invoice,) = await issue_all(pool)
    with pytest.raises(OverCreditedError, match="line 1"):
        await create_credit_note(pool, invoice.invoice_id, MAKER, [CreditLine(1, 50)], "line 1 is 0.49")
    first = await credit(pool, invoice.invoice_id, 40)
    rest = await create_credit_note(pool, invoice.invoice_id, MAKER, None, "all of it")
    assert first.total_minor + rest.total_minor == invoice.total_minor
    assert (len(rest.lines), rest.remedy) == (2, "carry")
    with pytest.raises(OverCreditedError):
        await create_credit_note(pool, invoice.invoice_id, MAKER, None, "again")


def test_what_a_discount_took_off_is_not_credited() -> None:
    lines = [SimpleNamespace(line=1, amount_minor=700), SimpleNamespace(line=2, amount_minor=300)]
    off = SimpleNamespace(line=3, amount_minor=-400)
    invoice = cast(Invoice, SimpleNamespace(lines=[*lines, off], subtotal_minor=600))
    assert all_that_is_left(invoice, CreditedRow(0, 0, {})) == [CreditLine(1, 600)]
    assert all_that_is_left(invoice, CreditedRow(200, 0, {1: 200})) == [CreditLine(1, 400)]
    assert all_that_is_left(invoice, CreditedRow(500, 0, {1: 500})) == [CreditLine(1, 100)]


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ([], InvalidValueError),
        ([CreditLine(1, 0)], InvalidValueError),
        ([CreditLine(1, -5)], InvalidValueError),
        ([CreditLine(9, 1)], InvalidValueError),
        ([CreditLine(1, 1), CreditLine(1, 1)], InvalidValueError),
        ([CreditLine(1, 1501)], OverCreditedError),
    ],
)
async def test_a_bad_credit_note_is_refused_and_nothing_is_written(
    database_url: str, pool: Pool, lines: list[CreditLine], error: type[Exception]
) -> None:
    invoice = await issued(database_url, pool)
    with pytest.raises(error):
        await create_credit_note(pool, invoice.invoice_id, MAKER, lines, "why")
    assert await list_credit_notes(pool) == []
