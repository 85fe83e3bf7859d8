"""From sealed months to issued invoices: promise 7, two people, numbers without gaps."""

import asyncio
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import msgspec
import psycopg
import pytest

from billing.audit import audit_trail
from billing.credit import grant_credit
from billing.invoices import content_sha256, show_invoice
from billing.issuing import (
    InvoiceStateError,
    OwnInvoiceError,
    StaleApprovalError,
    approve,
    chain_sha256,
    issue,
    mark_paid,
    send_back,
)
from billing.meters import INTENT_CALLS, METER_NAMES
from billing.prices import MeterPrice, PriceVersion, Tier
from billing.store.seals import read_proof
from infra.database import Pool
from infra.errors import DomainError, InvalidValueError, NotFoundError
from tests.billing_world import add_account, charge, id_at, open_ledger
from tests.invoice_world import (
    AFTER_NOVEMBER,
    AFTER_OCTOBER,
    CHECKER,
    DOLLARS,
    MAKER,
    NOVEMBER,
    OCTOBER,
    add_account_on,
    close,
    issue_all,
    run,
    use,
)


async def test_an_invoice_goes_from_its_seal_to_being_paid(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, [*DOLLARS, (INTENT_CALLS, 1)])
    (draft,) = await run(pool)
    assert (draft.status, draft.period_complete, draft.lines[0].digest) == ("draft", False, None)
    await close(pool, AFTER_OCTOBER)
    (made,) = await run(pool)
    assert (made.status, made.invoice_id, made.prepared_by) == ("in_review", draft.invoice_id, (MAKER,))
    assert [(line.row_count, line.calls, line.units) for line in made.lines] == [(1, 1, 1), (1, 1, 1_000_000)]
    approved = await approve(pool, made.invoice_id, CHECKER, made.content_sha256)
    assert (approved.status, approved.approved_by) == ("approved", CHECKER)
    issued = await issue(pool, made.invoice_id, MAKER)
    assert (issued.status, issued.number, issued.total, issued.due) == (
        "issued",
        "AG-000001",
        "15.00 USD",
        "15.00 USD",
    )
    paid = await mark_paid(pool, made.invoice_id, CHECKER, "bank 123")
    assert (paid.status, content_sha256(paid).hex()) == ("paid", made.content_sha256)
    trail = await audit_trail(pool, made.invoice_id)
    assert [(event.actor, event.action) for event in reversed(trail)] == [
        (MAKER, "made"),
        (MAKER, "changed"),
        (CHECKER, "approve"),
        (MAKER, "issue"),
        (CHECKER, "paid"),
    ]


async def test_a_digest_is_of_the_rows_and_anyone_can_compute_it(database_url: str, pool: Pool) -> None:
    """By hand, from what is exported: lines, in chunks by the first 32 bits of the call's id."""
    tenant_id = await add_account(pool, now=OCTOBER)
    calls = [charge(tenant_id, units=units, at=OCTOBER) for units in range(1, 30)]
    apart = [timedelta(seconds=20 * number) for number in range(len(calls))]
    async with open_ledger(database_url) as ledger:
        for one, later in zip(calls, apart, strict=True):
            moved = id_at(datetime.now(UTC) - timedelta(hours=1) + later, one.call_id)
            await ledger.charge(msgspec.structs.replace(one, call_id=moved))
    async with pool.connection() as connection:
        (proof,) = await read_proof(connection, tenant_id, "2025-10")
        cursor = await connection.execute(
            "SELECT call_id, slice, entry, calls, units, occurred_at, key_id, model, engine "
            "FROM billing.usage_row ORDER BY call_id, slice, entry"
        )
        rows = await cursor.fetchall()
    chunks: dict[bytes, str] = {}
    for call_id, part, entry, calls, units, occurred_at, key_id, model, engine in rows:
        moment = (occurred_at - datetime(1970, 1, 1, tzinfo=UTC)) // datetime.resolution
        line = f"{call_id},{part},{entry},{calls},{units},{moment},{key_id},{model},{engine}\n"
        chunk = call_id.bytes[:4]
        chunks[chunk] = chunks.get(chunk, "") + line
    digests = b"".join(sha256(text.encode()).digest() for _, text in sorted(chunks.items()))
    assert len(chunks) > 5
    assert (proof.row_count, proof.units, proof.digest) == (29, 435, sha256(digests).digest())


async def test_usage_that_came_late_is_billed_as_its_own_month(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, DOLLARS)
    await close(pool, AFTER_OCTOBER)
    (october,) = await issue_all(pool)
    await use(database_url, tenant_id, DOLLARS, OCTOBER)
    await use(database_url, tenant_id, DOLLARS, NOVEMBER)
    await close(pool, AFTER_NOVEMBER)
    (november,) = await run(pool, "2025-11")
    lines = [(line.usage_period, line.units, line.amount) for line in november.lines]
    assert lines == [("2025-11", 1_000_000, "15.00 USD"), ("2025-10", 1_000_000, "13.50 USD")]
    assert await show_invoice(pool, october.invoice_id) == october


async def test_a_minimum_is_not_billed_again_with_late_usage_of_a_month_without_any(
    database_url: str, pool: Pool
) -> None:
    price = MeterPrice(1_000_000, (Tier(None, 15 * 10**9),))
    committed = PriceVersion(
        price_version_id="pv_committed",
        plan="committed",
        currency="USD",
        valid_from=None,
        prices=dict.fromkeys(METER_NAMES, price),
        minimum_nanos=100 * 10**9,
    )
    tenant_id = await add_account_on(pool, committed)
    await close(pool, AFTER_OCTOBER)
    (october,) = await issue_all(pool)
    assert [(line.kind, line.amount) for line in october.lines] == [("minimum", "100.00 USD")]
    await use(database_url, tenant_id, DOLLARS, OCTOBER)
    await close(pool, AFTER_NOVEMBER)
    (november,) = await run(pool, "2025-11")
    late = [(line.kind, line.amount) for line in november.lines if line.usage_period == "2025-10"]
    assert late == [("usage", "15.00 USD"), ("minimum", "-15.00 USD")]


@pytest.mark.parametrize("actor", [MAKER, "os:root"])
async def test_who_made_or_changed_an_invoice_cannot_approve_it(
    database_url: str, pool: Pool, actor: str
) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, DOLLARS)
    await close(pool, AFTER_OCTOBER)
    (made,) = await run(pool)
    async with pool.connection() as connection:
        await connection.execute("UPDATE billing.profile SET tax_ppm = 50000")
    (made,) = await run(pool, actor="os:root")
    assert (made.prepared_by, made.total) == (("os:root", MAKER), "15.75 USD")
    with pytest.raises(OwnInvoiceError):
        await approve(pool, made.invoice_id, actor)
    refused = (await audit_trail(pool, made.invoice_id))[0]
    assert (refused.actor, refused.action, refused.refused) == (actor, "approve", True)
    assert refused.detail == {"code": "own_invoice"}
    with pytest.raises(psycopg.errors.CheckViolation):
        async with pool.connection() as connection:
            await connection.execute(
                "UPDATE billing.invoice SET status = 'approved', approved_at = now(), approved_by = %s,"
                " approved_sha256 = content_sha256",
                [actor],
            )


async def test_a_change_after_the_approval_voids_it(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, DOLLARS)
    await close(pool, AFTER_OCTOBER)
    (made,) = await run(pool)
    await approve(pool, made.invoice_id, CHECKER)
    (again,) = await run(pool)
    assert again.status == "approved", "nothing changed"
    async with pool.connection() as connection:
        await connection.execute("UPDATE billing.profile SET tax_ppm = 88750, tax_name = 'Sales tax'")
    (changed,) = await run(pool)
    assert (changed.status, changed.approved_by, changed.tax_minor) == ("in_review", None, 133)
    with pytest.raises(InvoiceStateError):
        await issue(pool, made.invoice_id, CHECKER)
    with pytest.raises(StaleApprovalError):
        await approve(pool, made.invoice_id, CHECKER, made.content_sha256)
    back = await send_back(pool, made.invoice_id, CHECKER, "Which tax?")
    assert back.status == "draft"


async def test_content_changed_behind_the_programs_back_is_neither_approved_nor_issued(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, DOLLARS)
    await close(pool, AFTER_OCTOBER)
    (made,) = await run(pool)
    async with pool.connection() as connection:
        await connection.execute("UPDATE billing.invoice_line SET amount_minor = amount_minor - 1")
    with pytest.raises(StaleApprovalError):
        await approve(pool, made.invoice_id, CHECKER)
    (mended,) = await run(pool)
    await approve(pool, mended.invoice_id, CHECKER)
    async with pool.connection() as connection:
        await connection.execute('UPDATE billing.invoice SET bill_to = \'{"name": "Somebody else"}\'')
    with pytest.raises(StaleApprovalError):
        await issue(pool, mended.invoice_id, CHECKER)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing.invoice SET total_minor = 1, subtotal_minor = 1, due_minor = 1",
        "UPDATE billing.invoice SET bill_to = '{}'",
        "UPDATE billing.invoice SET number = 'AG-000009'",
        "UPDATE billing.invoice SET status = 'draft'",
        "UPDATE billing.invoice SET status = 'approved'",
        "DELETE FROM billing.invoice",
        "TRUNCATE billing.invoice CASCADE",
        "UPDATE billing.invoice_line SET units = 1",
        "DELETE FROM billing.invoice_line",
        "TRUNCATE billing.invoice_line CASCADE",
        "INSERT INTO billing.invoice_line SELECT (l).* FROM (SELECT l FROM billing.invoice_line l) x",
        "UPDATE billing.audit_event SET actor = 'nobody'",
        "DELETE FROM billing.audit_event",
    ],
)
async def test_an_issued_invoice_never_changes(database_url: str, pool: Pool, change: str) -> None:
    """Promise 7, kept by the database."""
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, DOLLARS)
    await close(pool, AFTER_OCTOBER)
    (issued,) = await issue_all(pool)
    with pytest.raises(psycopg.errors.IntegrityError):
        async with pool.connection() as connection:
            await connection.execute(change.encode())
    assert await run(pool) == [issued]


async def test_numbers_have_no_gaps_and_each_hash_is_chained_whoever_issues_at_once(
    database_url: str, pool: Pool
) -> None:
    for _ in range(8):
        await use(database_url, await add_account(pool, now=OCTOBER), DOLLARS)
    await close(pool, AFTER_OCTOBER)
    made = await run(pool)
    await asyncio.gather(*(approve(pool, one.invoice_id, CHECKER) for one in made))
    outcomes = await asyncio.gather(
        *(issue(pool, one.invoice_id, CHECKER) for one in made for _ in range(3)), return_exceptions=True
    )
    assert sum(isinstance(outcome, InvoiceStateError) for outcome in outcomes) == 16
    issued = sorted(await run(pool), key=lambda one: one.number or "")
    assert [one.number for one in issued] == [f"AG-{number:06d}" for number in range(1, 9)]
    link = bytes(32)
    for one in issued:
        assert one.previous_chain_sha256 == link.hex()
        link = sha256(link + str(one.number).encode() + bytes.fromhex(one.content_sha256)).digest()
        assert one.chain_sha256 == link.hex()
        assert link == chain_sha256(
            bytes.fromhex(one.previous_chain_sha256), str(one.number), bytes.fromhex(one.content_sha256)
        )


async def test_too_little_to_collect_is_carried_forward(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, [(INTENT_CALLS, 1000)])
    await use(database_url, tenant_id, [(INTENT_CALLS, 1000)], NOVEMBER)
    await close(pool, AFTER_OCTOBER)
    (october,) = await issue_all(pool)
    assert (october.total, october.due, october.status) == ("0.40 USD", "0.00 USD", "paid")
    await close(pool, AFTER_NOVEMBER)
    (november,) = await issue_all(pool, "2025-11")
    assert (november.carried_in_minor, [one.id for one in november.carried]) == (40, [october.invoice_id])
    assert (november.total, november.due, november.status) == ("0.40 USD", "0.80 USD", "issued")


async def test_what_was_paid_ahead_is_taken_off_and_not_taxed(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, [(INTENT_CALLS, 1000)])  # before the first grant: 0.40 USD
    await grant_credit(pool, tenant_id, 100 * 10**9)
    await use(database_url, tenant_id, DOLLARS)
    async with pool.connection() as connection:
        await connection.execute("UPDATE billing.profile SET tax_ppm = 50000")
    await close(pool, AFTER_OCTOBER)
    (invoice,) = await run(pool)
    assert [(line.kind, line.amount) for line in invoice.lines] == [
        ("usage", "0.40 USD"),
        ("usage", "15.00 USD"),
        ("credit", "-15.00 USD"),
    ]
    assert (invoice.subtotal_minor, invoice.tax_minor, invoice.total_minor) == (40, 2, 42)


async def test_invoices_of_a_tenant_are_issued_in_the_order_of_their_months(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    for at in (OCTOBER, NOVEMBER):
        await use(database_url, tenant_id, [(INTENT_CALLS, 1000)], at)
    await close(pool, AFTER_OCTOBER)
    await close(pool, AFTER_NOVEMBER)
    (october,), (november,) = await run(pool), await run(pool, "2025-11")
    for one in (october, november):
        await approve(pool, one.invoice_id, CHECKER)
    with pytest.raises(InvoiceStateError, match="2025-10"):
        await issue(pool, november.invoice_id, CHECKER)
    await issue(pool, october.invoice_id, CHECKER)
    with pytest.raises(StaleApprovalError, match="Run the month again"):
        await issue(pool, november.invoice_id, CHECKER)


@pytest.mark.parametrize("deed", ["approve", "issue", "paid", "nothing", "no reason"])
async def test_what_cannot_be_done_is_refused_in_words_and_changes_nothing(
    database_url: str, pool: Pool, deed: str
) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, DOLLARS)
    (draft,) = await run(pool)
    deeds = {
        "approve": (approve(pool, draft.invoice_id, CHECKER), InvoiceStateError),
        "issue": (issue(pool, draft.invoice_id, CHECKER), InvoiceStateError),
        "paid": (mark_paid(pool, draft.invoice_id, CHECKER, "cash"), InvoiceStateError),
        "nothing": (approve(pool, "inv_none", CHECKER), NotFoundError),
        "no reason": (send_back(pool, draft.invoice_id, CHECKER, " "), InvalidValueError),
    }
    for name, (attempt, error) in deeds.items():
        if name != deed:
            attempt.close()
            continue
        with pytest.raises(error) as refusal:
            await attempt
        assert isinstance(refusal.value, DomainError)
        assert refusal.value.message
    assert await show_invoice(pool, draft.invoice_id) == draft
