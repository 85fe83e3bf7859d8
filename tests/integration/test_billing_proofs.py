"""Promise 6: an invoice is computed again from usage rows and prices; what was tampered with is named."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
import psycopg
import pytest
from click.testing import CliRunner

from billing.differences import describe
from billing.invoices import Invoice, list_invoices
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS, TTS_CHARACTERS
from billing.proofs import Proof, verify, verify_month
from billing.retention import detach_partitions
from billing.store import invoices as invoices_store
from billing.store.invoices import LineRow
from gateway.cli import main
from infra.database import Connection, Pool
from infra.errors import NotFoundError
from tests.billing_world import add_account, begin_partitions_at, charge, id_at, open_ledger
from tests.invoice_world import NOVEMBER, OCTOBER, close, issue_all, run, use

AFTER_OCTOBER = datetime(2025, 11, 1, 12, tzinfo=UTC)
AFTER_NOVEMBER = datetime(2025, 12, 1, 12, tzinfo=UTC)
USES = [(TTS_CHARACTERS, 1_500_000), (INTENT_CALLS, 1), (INTENT_CALLS, 1), (ASR_AUDIO_MS, 90_000)]


def tamper(database_url: str, change: str) -> None:
    """Change what is stored, past triggers and foreign keys."""
    with psycopg.connect(database_url) as connection:
        connection.execute("SET session_replication_role = replica")
        assert connection.execute(change.encode()).rowcount > 0


@pytest.fixture
async def issued(database_url: str, pool: Pool) -> AsyncIterator[list[Invoice]]:
    """Two tenants' October and November, issued; the first one's November has late usage, tax and a carry."""
    tamper(database_url, "UPDATE billing.price_version SET discount_ppm = 100000 WHERE plan = 'standard'")
    first, second = sorted([await add_account(pool, now=OCTOBER) for _ in range(2)])
    async with pool.connection() as connection:
        await connection.execute("UPDATE billing.profile SET tax_ppm = 50000, tax_name = 'VAT'")
    await use(database_url, first, [(INTENT_CALLS, 100)] * 10)
    await use(database_url, second, USES)
    await close(pool, AFTER_OCTOBER)
    october = await issue_all(pool)
    await use(database_url, first, [(INTENT_CALLS, 100)] * 5)
    await use(database_url, first, USES, NOVEMBER)
    await close(pool, AFTER_NOVEMBER)
    return [*october, *await issue_all(pool, "2025-11")]


async def proof_of(pool: Pool, invoice: Invoice) -> Proof:
    return await verify(pool, invoice.invoice_id)


async def test_invoices_that_nobody_touched_are_proved(pool: Pool, issued: list[Invoice]) -> None:
    proofs = [await proof_of(pool, invoice) for invoice in issued]
    assert [(proof.ok, proof.differences, proof.detached) for proof in proofs] == [(True, (), ())] * 3
    assert [proof.usage_rows for proof in proofs] == [10, 4, 19], "with October's, for its late usage"
    assert [one.proof async for one in verify_month(pool, "2025-10")] == proofs[:2]


async def test_terms_that_changed_since_are_no_difference(pool: Pool, issued: list[Invoice]) -> None:
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE billing.profile SET tax_ppm = 0, tax_name = '', name = 'New', language = 'zh-TW'"
        )
        await connection.execute("UPDATE billing.issuer SET address = 'Elsewhere', payment_days = 1")
    for invoice in issued:
        assert (await proof_of(pool, invoice)).ok


LAST = "invoice_id = (SELECT invoice_id FROM billing.invoice WHERE period = '2025-11')"
TENANT = f"SELECT tenant_id FROM billing.invoice WHERE {LAST}"
X = rf"\x{'00' * 32}"
THIRD = f"line = 3 AND {LAST}"
ROW = "period = '2025-11' AND meter = 'tts.characters'"
COPY = (
    "SELECT overlay(call_id::text PLACING '00000' FROM 1)::uuid, slice, entry, calls, units, units_before,"
    " occurred_at, recorded_at, tenant_id,"
    " key_id, period, meter, model, engine, is_late, written_in, session_id FROM billing.usage_row"
)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (f"UPDATE billing.usage_row SET units = 1500001 WHERE {ROW}", ["line 3", "units", "1500001"]),
        (f"UPDATE billing.usage_row SET key_id = 'key_x' WHERE {ROW}", ["line 3", "digest"]),
        (f"UPDATE billing.usage_row SET calls = 0 WHERE {ROW}", ["line 3", "calls", "computed 0"]),
        (f"UPDATE billing.usage_row SET period = '2025-12' WHERE {ROW}", ["line 3", "computed nothing"]),
        (
            f"INSERT INTO billing.usage_row {COPY} WHERE {ROW}",
            ["line 3", "row_count: on record 1, computed 2"],
        ),
        (f"DELETE FROM billing.usage_row WHERE {ROW}", ["line 3", "all of it", "computed nothing"]),
        ("DELETE FROM billing.usage_row WHERE is_late", ["line 5", "usage of 2025-10", "computed nothing"]),
        (
            f"DELETE FROM billing.usage_row WHERE period = '2025-10' AND tenant_id = ({TENANT})",
            ["seal 2025-10 intent.calls", "basis.of_nanos: on record 600000000, computed 200000000"],
        ),
        (
            "UPDATE billing.seal SET units = 7 WHERE period = '2025-11'",
            ["seal 2025-11", "units: on record 7"],
        ),
        ("DELETE FROM billing.seal WHERE period = '2025-11'", ["seal 2025-11", "on record nothing"]),
        (f"UPDATE billing.invoice_line SET amount_minor = 1 WHERE {THIRD}", ["line 3", "amount_minor"]),
        (f"UPDATE billing.invoice_line SET exact_nanos = '1' WHERE {THIRD}", ["exact_nanos"]),
        (f"UPDATE billing.invoice_line SET digest = sha256('x') WHERE {THIRD}", ["digest"]),
        (f"UPDATE billing.invoice_line SET cutoff_at = now() WHERE {THIRD}", ["cutoff_at"]),
        (
            f"UPDATE billing.invoice_line SET tiers = jsonb_set(tiers, '{{1,nanos}}', '1') WHERE {THIRD}",
            ["line 3, tts.characters, tiers.1.nanos: on record 1, computed 13500000000"],
        ),
        (
            f"UPDATE billing.invoice_line SET basis = '{{}}' WHERE kind = 'discount' AND {LAST}",
            ["discount", "basis.discount_ppm"],
        ),
        (f"DELETE FROM billing.invoice_line WHERE {THIRD}", ["no line", "on record nothing"]),
        (f"UPDATE billing.invoice_line SET line = 9 WHERE {THIRD}", ["content_sha256"]),
        (
            f"UPDATE billing.invoice SET subtotal_minor = 1, total_minor = 1 + tax_minor,"
            f" due_minor = 1 + tax_minor + carried_in_minor WHERE {LAST}",
            ["invoice, subtotal_minor", "invoice, due_minor", "content_sha256"],
        ),
        (
            f"UPDATE billing.invoice SET tax_ppm = 60000 WHERE {LAST}",
            ["invoice, tax_minor", "content_sha256"],
        ),
        (f'UPDATE billing.invoice SET bill_to = \'{{"name": "X"}}\' WHERE {LAST}', ["content_sha256"]),
        (
            "UPDATE billing.invoice SET carried_in_minor = 9, due_minor = total_minor + 9,"
            f" carried = jsonb_set(carried, '{{0,amount_minor}}', '9') WHERE {LAST}",
            ["invoice, carried.0.amount_minor: on record 9", "invoice, carried_in_minor: on record 9"],
        ),
        (
            "UPDATE billing.invoice SET carried = '[]', carried_in_minor = 0, due_minor = total_minor"
            f" WHERE {LAST}",
            ["content_sha256"],
        ),
        (
            "UPDATE billing.invoice SET carried_out_minor = 9, due_minor = total_minor - 9"
            " WHERE carried_out_minor > 9",
            ["invoice, carried.0.amount_minor", "computed 9", "carried_in_minor"],
        ),
        (
            "UPDATE billing.invoice SET status = 'void' WHERE carried_out_minor > 0",
            ["invoice, carried.0: on record {", "computed nothing"],
        ),
        (
            f"UPDATE billing.invoice SET (content_sha256, approved_sha256) = ('{X}', '{X}') WHERE {LAST}",
            ["invoice, content_sha256", "approval, approved_sha256"],
        ),
        (f"UPDATE billing.invoice SET chain_sha256 = sha256('x') WHERE {LAST}", ["chain, chain_sha256"]),
        (f"UPDATE billing.invoice SET previous_chain_sha256 = sha256('x') WHERE {LAST}", ["previous_chain"]),
        (f"UPDATE billing.invoice SET number = 'AG-9' WHERE {LAST}", ["chain, number", "computed AG-000003"]),
        (
            "UPDATE billing.invoice SET chain_sha256 = sha256('x') WHERE number = 'AG-000002'",
            ["previous_chain"],
        ),
        ("DELETE FROM billing.invoice WHERE number = 'AG-000002'", ["previous_chain", "computed nothing"]),
        ("UPDATE billing.issuer SET last_chain_sha256 = sha256('x')", ["chain, next link"]),
        (
            "UPDATE billing.price_tier SET nanos = 1 WHERE meter = 'tts.characters' AND tier = 2",
            ["line 3, tts.characters, tiers.1.nanos: on record 13500000000, computed 1"],
        ),
        (
            "UPDATE billing.meter_price SET per_units = 2 WHERE meter = 'intent.calls'",
            ["per_units: on record 1"],
        ),
        ("UPDATE billing.meter_price SET free_units = 1 WHERE meter = 'intent.calls'", ["line 2", "tiers"]),
        ("DELETE FROM billing.meter_price WHERE meter = 'intent.calls'", ["has no price of intent.calls"]),
        ("DELETE FROM billing.price_tier", ["The price version standard-usd-1 has no prices"]),
        ("UPDATE billing.price_version SET discount_ppm = 0", ["discount", "computed nothing"]),
        ("UPDATE billing.price_version SET minimum_nanos = 99000000000", ["no line, minimum"]),
        ("UPDATE billing.period SET credit_nanos = 1000000000 WHERE period = '2025-11'", ["no line, credit"]),
        ("UPDATE billing.period SET closed_at = now() WHERE period = '2025-11'", ["cutoff_at"]),
        ("UPDATE billing.period SET time_zone = 'UTC' WHERE period = '2025-11'", ["content_sha256"]),
    ],
)
async def test_whatever_is_changed_is_found_and_named(
    database_url: str, pool: Pool, issued: list[Invoice], change: str, named: list[str]
) -> None:
    tamper(database_url, change)
    proof = await proof_of(pool, issued[2])
    assert not proof.ok
    said = [describe(one) for one in proof.differences]
    for word in named:
        assert any(word in one for one in said), said


async def test_what_is_carried_in_is_carried_once(
    database_url: str, pool: Pool, issued: list[Invoice]
) -> None:
    october, _, november = issued
    assert [one.id for one in november.carried] == [october.invoice_id]
    other = (
        "UPDATE billing.invoice other SET carried = invoice.carried, tenant_id = '{}', period = '2025-12',"
        " carried_in_minor = invoice.carried_in_minor, due_minor = other.due_minor + invoice.carried_in_minor"
        " FROM billing.invoice WHERE invoice.period = '2025-11' AND other.number = 'AG-000002'"
    )
    tamper(database_url, other.format(november.tenant_id))
    said = [describe(one) for one in (await proof_of(pool, november)).differences]
    assert any(one.startswith(f"invoice, carried: on record {october.invoice_id}, in inv_") for one in said)


async def test_a_draft_of_a_running_month_is_proved_by_what_was_recorded_when_it_was_made(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, USES)
    (draft,) = await run(pool)
    await use(database_url, tenant_id, [(INTENT_CALLS, 1)])
    assert (await proof_of(pool, draft)).ok, "what came later is not in it"
    tamper(database_url, "UPDATE billing.usage_row SET units = 1 WHERE meter = 'tts.characters'")
    assert not (await proof_of(pool, draft)).ok


async def test_rows_that_were_detached_are_said_to_be_and_no_difference(
    database_url: str, pool: Pool
) -> None:
    now = datetime.now(UTC)
    last_month = now.replace(day=1) - timedelta(days=1)
    tenant_id = await add_account(pool, "UTC", last_month)
    begin_partitions_at(database_url, last_month)
    async with open_ledger(database_url) as ledger:
        one = charge(tenant_id, at=last_month)
        await ledger.charge(msgspec.structs.replace(one, call_id=id_at(last_month, one.call_id)))
    await close(pool, now + timedelta(hours=2))
    (invoice,) = await run(pool, last_month.strftime("%Y-%m"))
    assert (await proof_of(pool, invoice)).detached == ()
    (gone,) = await detach_partitions(pool, now)
    proof = await proof_of(pool, invoice)
    assert (proof.ok, proof.usage_rows, proof.detached) == (True, 0, (gone.partition,))
    tamper(database_url, "UPDATE billing.invoice_line SET amount_minor = 5")
    assert "amount_minor" in describe((await proof_of(pool, invoice)).differences[0])


async def test_an_invoice_that_changes_meanwhile_is_proved_as_it_was(
    database_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One snapshot for all that is read: here the draft is made anew between its head and its lines."""
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, USES)
    (draft,) = await run(pool)
    read_lines = invoices_store.read_lines

    async def read_after_a_change(connection: Connection, invoice_ids: Sequence[str]) -> list[LineRow]:
        monkeypatch.setattr(invoices_store, "read_lines", read_lines)
        await use(database_url, tenant_id, USES)
        (changed,) = await run(pool)
        assert changed.content_sha256 != draft.content_sha256
        return await read_lines(connection, invoice_ids)

    monkeypatch.setattr(invoices_store, "read_lines", read_after_a_change)
    assert (await proof_of(pool, draft)).ok
    assert (await proof_of(pool, draft)).ok


async def test_an_invoice_that_is_not_there(pool: Pool) -> None:
    with pytest.raises(NotFoundError):
        await verify(pool, "inv_none")


def test_the_command_says_equal_or_exits_1_and_names_what_differs(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    invoke = CliRunner().invoke
    tenant_id = json.loads(invoke(main, ["tenant", "create", "Acme", "--json"]).stdout)["tenant_id"]
    month = f"{datetime.now(UTC):%Y-%m}"
    asyncio.run(use(database_url, tenant_id, USES, datetime.now(UTC)))
    made = json.loads(invoke(main, ["invoice", "run", "--period", month, "--json"]).stdout)["invoices"]
    equal = invoke(main, ["invoice", "verify", made[0]["invoice_id"], "--json"])
    assert (equal.exit_code, json.loads(equal.stdout)["ok"]) == (0, True)
    tamper(database_url, "UPDATE billing.invoice_line SET calls = 9 WHERE meter = 'tts.characters'")
    differs = invoke(main, ["invoice", "verify", made[0]["invoice_id"]])
    assert differs.exit_code == 1
    assert "line 3, tts.characters, calls: on record 9, computed 1" in differs.stdout
    of_month = invoke(main, ["invoice", "verify", "--period", month, "--json"])
    assert of_month.exit_code == 1
    said = json.loads(of_month.stdout)
    assert (said["ok"], said["invoices"], said["not_ok"]) == (False, 1, 1)
    assert said["proofs"][0]["differences"][0]["field"] == "calls"
    for wrong in ([], ["inv_none"], ["inv_a", "--period", month], ["--period", "soon"]):
        refused = invoke(main, ["invoice", "verify", *wrong])
        assert refused.exit_code != 0
        assert refused.stderr.strip().splitlines()[-1].startswith("Error:")


async def test_a_page_of_invoices_goes_on_where_the_one_before_ended(
    pool: Pool, issued: list[Invoice]
) -> None:
    everything = await list_invoices(pool)
    assert [one.period for one in everything] == ["2025-11", "2025-10", "2025-10"]
    paged, after = [], None
    while page := await list_invoices(pool, limit=1, after=after):
        paged += page
        after = page[-1].invoice_id
    assert paged == everything
