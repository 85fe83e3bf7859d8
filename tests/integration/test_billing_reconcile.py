"""Promise 2's command: it says when counters, roll-ups and usage rows agree, and names what does not."""

import asyncio
import json
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import psycopg
import pytest
from click.testing import CliRunner

from billing import reconcile as reconciling
from billing.caps import set_caps
from billing.closing import close_ended_months
from billing.drafts import run_drafts
from billing.ledger import Ledger
from billing.meters import METERS, MONEY
from billing.reconcile import ROWS_PER_STATEMENT, describe, reconcile
from billing.retention import detach_partitions
from billing.sealing import seal_closed_months
from billing.store import reconcile as store
from billing.store.reconcile import Moment
from gateway.cli import main
from infra.database import Connection, Pool
from tests.billing_world import (
    NOON,
    add_account,
    audit,
    begin_partitions_at,
    charge,
    id_at,
    open_ledger,
    write,
)

ZONES = ("Asia/Taipei", "Asia/Kathmandu", "America/St_Johns")
CHUNKS = pytest.mark.parametrize("rows_per_statement", [1, 7, ROWS_PER_STATEMENT])


async def use(database_url: str, pool: Pool) -> str:
    """90 calls of three tenants in November; two of them are taken back, and one of those charged again."""
    tenants = [await add_account(pool, zone) for zone in ZONES]
    await set_caps(pool, tenants[0], {MONEY: 10**15}, f"key_{tenants[0][-4:]}")
    dice = random.Random(3)
    async with open_ledger(database_url) as ledger:
        for number in range(90):
            at = NOON + timedelta(minutes=dice.randint(0, 300))
            one = charge(dice.choice(tenants), dice.choice(METERS).meter, dice.randint(0, 9999), at)
            await ledger.charge(one)
            if number < 2:
                await ledger.void(one)
            if number == 1:
                await ledger.charge(one)
            ledger.answered(one.call_id)
    return tenants[0]


async def months_of(connection: Connection) -> list[tuple[str, str]]:
    page = await store.read_months(connection, None, ("", ""), 100)
    return [(month.tenant_id, month.period) for month in page]


async def add_up(connection: Connection, moment: Moment) -> tuple[int, list[str]]:
    """All rows as of the moment: how many charges, and what differs."""
    await store.add_up(connection, moment, UUID(int=0), store.LAST_ID)
    await store.forget_detached(connection)
    charges, _ = await store.count_entries(connection)
    return charges, [one.what async for one in store.differences(connection)]


@CHUNKS
async def test_untouched_books_agree(database_url: str, pool: Pool, rows_per_statement: int) -> None:
    await use(database_url, pool)
    for period, charges, voids in ((None, 91, 2), ("2025-11", 91, 2), ("2025-12", 0, 0)):
        found = await reconcile(pool, period, rows_per_statement)
        assert (found.usage_rows, found.voided, found.difference) == (charges, voids, 0)
        assert found.differences == []


async def test_no_statement_adds_up_more_rows_than_it_should(database_url: str, pool: Pool) -> None:
    await use(database_url, pool)
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT call_id FROM billing.usage_row ORDER BY call_id")
        ids = [call_id for (call_id,) in await cursor.fetchall()]
        held = list[UUID]()
        first = UUID(int=0)
        while first < store.LAST_ID:
            last = await store.cut(connection, first, 7)
            stretch = [one for one in ids if first <= one <= last]
            assert len(stretch) <= 9, "7, and two more of the last call"
            held += stretch
            first = UUID(int=min(last.int + 1, store.LAST_ID.int))
    assert held == ids, "each row, once"


async def test_portions_of_a_month_are_compared_one_after_the_other(
    database_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use(database_url, pool)
    monkeypatch.setattr(reconciling, "_ROLL_UPS_AT_ONCE", 1)
    monkeypatch.setattr(reconciling, "_MONTHS_PER_PAGE", 2)
    found = await reconcile(pool)
    assert (found.usage_rows, found.voided, found.difference) == (91, 2, 0)


@CHUNKS
@pytest.mark.parametrize(
    ("change", "what", "difference"),
    [
        ("UPDATE billing.period_counter SET units = units + 3 {where}", "counter", 3),
        ("UPDATE billing.period_counter SET calls = calls - 1 {where}", "counter", 1),
        ("UPDATE billing.hourly_usage SET units = units - 7 {where} AND hour = {hour}", "roll-up", 7),
        ("UPDATE billing.key_counter SET units = units + 2 {where}", "key counter", 2),
        ("UPDATE billing.key_counter SET rated = rated + 5 {where}", "key counter", 5),
    ],
)
async def test_a_difference_made_by_hand_is_named(
    database_url: str, pool: Pool, change: str, what: str, difference: int, rows_per_statement: int
) -> None:
    tenant_id = await use(database_url, pool)
    where = "WHERE tenant_id = %(tenant_id)s AND period = '2025-11' AND meter = 'tts.characters'"
    hour = f"(SELECT max(hour) FROM billing.hourly_usage {where})"
    with psycopg.connect(database_url) as connection:
        connection.execute(change.format(where=where, hour=hour).encode(), {"tenant_id": tenant_id})
    found = await reconcile(pool, None, rows_per_statement)
    assert (found.difference, [one.what for one in found.differences]) == (difference, [what])
    line = describe(found.differences[0])
    assert line.startswith(f"{what} {tenant_id} 2025-11 tts.characters")
    assert "\n" not in line
    assert (await reconcile(pool, "2025-12")).difference == 0


@pytest.mark.parametrize(
    ("change", "what", "difference"),
    [
        ("UPDATE billing.invoice_line SET units = units - 4 WHERE line = 1", "invoice", 4),
        ("UPDATE billing.invoice_line SET calls = calls + 1 WHERE line = 2", "invoice", 1),
        (
            "UPDATE billing.invoice SET subtotal_minor = subtotal_minor + 9, total_minor = total_minor + 9, "
            "carried_out_minor = carried_out_minor + 9 {where}",
            "invoice total",
            9,
        ),
    ],
)
async def test_an_invoice_of_a_closed_month_is_compared(
    database_url: str, pool: Pool, change: str, what: str, difference: int
) -> None:
    tenant_id = await use(database_url, pool)
    assert await run_drafts(pool, "2025-11")
    where = f"WHERE tenant_id = '{tenant_id}'"

    def tamper() -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(f"DELETE FROM billing.invoice WHERE tenant_id <> '{tenant_id}'".encode())
            connection.execute(change.format(where=where).encode())

    tamper()
    assert (await reconcile(pool)).difference == 0, "drafted before its month was sealed: it may lag behind"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE billing.period SET closed_at = '2025-12-01Z' WHERE period = '2025-11'")
    await run_drafts(pool, "2025-11")
    tamper()
    found = await reconcile(pool)
    assert (found.difference, [one.what for one in found.differences]) == (difference, [what])
    assert describe(found.differences[0]).startswith(f"{what} {tenant_id} 2025-11")
    await run_drafts(pool, "2025-11")
    assert (await reconcile(pool)).difference == 0


@CHUNKS
async def test_rows_of_a_month_that_was_never_opened_are_named(
    database_url: str, pool: Pool, rows_per_statement: int
) -> None:
    await use(database_url, pool)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE billing.usage_row SET period = '1999-01' WHERE units_before = 0")
    found = await reconcile(pool, None, rows_per_statement)
    assert {one.what for one in found.differences} == {"month", "counter", "roll-up", "key counter"}
    assert (found.usage_rows, found.voided) == (91, 2)
    astray = await reconcile(pool, "1999-01", rows_per_statement)
    assert astray.differences == [one for one in found.differences if one.what == "month"]
    assert (await reconcile(pool, "1999-02", rows_per_statement)).differences == []


async def test_a_lost_usage_row_is_a_difference_everywhere(database_url: str, pool: Pool) -> None:
    tenant_id = await use(database_url, pool)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            """
            DELETE FROM billing.usage_row WHERE call_id = (
                SELECT call_id FROM billing.usage_row WHERE tenant_id = %s AND units > 0
                ORDER BY call_id DESC LIMIT 1)
            """,
            [tenant_id],
        )
    for rows_per_statement in (1, ROWS_PER_STATEMENT):
        found = await reconcile(pool, None, rows_per_statement)
        assert {one.what for one in found.differences} == {"counter", "roll-up", "key counter"}


async def test_all_differences_count_though_few_are_named(
    database_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    await use(database_url, pool)
    with psycopg.connect(database_url) as connection:
        changed = connection.execute("UPDATE billing.hourly_usage SET calls = calls + 1").rowcount
    monkeypatch.setattr(reconciling, "MAX_NAMED", 2)
    found = await reconcile(pool)
    assert (found.difference, len(found.differences)) == (changed, 2)
    assert changed > 2


async def test_what_is_committed_after_the_books_were_copied_does_not_count(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool)
    await set_caps(pool, tenant_id, {MONEY: 10**15}, f"key_{tenant_id[-4:]}")
    old = [charge(tenant_id, units=5) for _ in range(4)]  # their ids are older than all that is counted
    async with (
        open_ledger(database_url) as ledger,
        pool.connection() as connection,
        pool.connection() as other,
    ):
        first = charge(tenant_id, units=7)
        await ledger.charge(first)
        months = await months_of(connection)
        async with store.workspace(connection):
            async with other.transaction():  # open while the books are copied
                assert [one.outcome for one in await write(other, old[:2])] == ["charged", "charged"]
                moment = await store.copy_books(connection, months)
            await ledger.charge(old[2])
            await ledger.void(first)
            assert await add_up(connection, moment) == (1, [])
            moment = await store.copy_books(connection, months)
            await ledger.charge(old[3])
            assert await add_up(connection, moment) == (4, [])
    found = await reconcile(pool)
    assert (found.usage_rows, found.voided, found.difference) == (5, 1, 0)


@pytest.mark.parametrize(
    "change",
    [
        # Taken over by another session: the row is written anew, and counts all the same.
        "session_id = 1",
        # Restored into another server: its transaction may look like one of the future.
        "recorded_at = recorded_at - interval '61 minutes', written_in = '999999999999'",
    ],
)
async def test_a_row_that_was_there_counts_whatever_became_of_it(
    database_url: str, pool: Pool, change: str
) -> None:
    tenant_id = await add_account(pool)
    async with pool.connection() as connection:
        await write(connection, [charge(tenant_id)])
        months = await months_of(connection)
        async with store.workspace(connection):
            moment = await store.copy_books(connection, months)
            await connection.execute(f"UPDATE billing.usage_row SET {change}".encode())
            assert await add_up(connection, moment) == (1, [])


async def test_a_month_that_is_detached_meanwhile_is_left_out(database_url: str, pool: Pool) -> None:
    now = datetime.now(UTC)
    last_month = now.replace(day=1) - timedelta(days=1)
    tenant_id = await add_account(pool, "UTC", last_month)
    begin_partitions_at(database_url, last_month)
    old = charge(tenant_id, at=last_month)
    old = msgspec.structs.replace(old, call_id=id_at(last_month, old.call_id))
    async with pool.connection() as connection:
        await write(connection, [old, charge(tenant_id, at=now)])
        assert await close_ended_months(pool, now + timedelta(hours=2)) == 1
        assert await seal_closed_months(pool) == 1
        months = await months_of(connection)
        async with store.workspace(connection):
            moment = await store.copy_books(connection, months)
            assert len(await detach_partitions(pool, now)) == 1
            assert await add_up(connection, moment) == (1, [])


async def test_the_connection_goes_back_as_it_came(pool: Pool) -> None:
    settings = "SELECT current_setting('work_mem'), current_setting('statement_timeout')"
    async with pool.connection() as connection:
        before = await (await connection.execute(settings)).fetchone()
        with suppress(psycopg.errors.DivisionByZero):
            async with store.workspace(connection):
                assert await (await connection.execute(settings)).fetchone() != before
                await connection.execute("SELECT 1 / 0")
        assert await (await connection.execute(settings)).fetchone() == before
        async with store.workspace(connection):
            assert await store.count_entries(connection) == (0, 0)


async def test_books_that_change_all_the_while_never_differ(database_url: str, pool: Pool) -> None:
    """Two workers charge and void, months close and invoices are drafted while it is compared."""
    last_month = datetime.now(UTC).replace(day=1) - timedelta(days=1)
    tenants = [await add_account(pool, "UTC", last_month) for _ in range(4)]
    await set_caps(pool, tenants[0], {MONEY: 10**15}, f"key_{tenants[0][-4:]}")
    made, stop = 0, asyncio.Event()

    async def call(ledger: Ledger, number: int) -> None:
        nonlocal made
        dice = random.Random(number)
        while not stop.is_set():
            one = charge(dice.choice(tenants), dice.choice(METERS).meter, dice.randint(0, 99), last_month)
            await ledger.charge(one)
            made += 1
            if dice.random() < 0.3:
                await ledger.void(one)
            ledger.answered(one.call_id)

    async with open_ledger(database_url) as first, open_ledger(database_url) as second:
        callers = [asyncio.create_task(call((first, second)[n % 2], n)) for n in range(16)]
        try:
            rounds = 0
            while rounds < 30 or made < 1000:
                if rounds == 12:
                    await close_ended_months(pool, datetime.now(UTC) + timedelta(hours=2))
                    await run_drafts(pool, last_month.strftime("%Y-%m"))
                before = made
                found = await reconcile(pool, None, (70, 500, ROWS_PER_STATEMENT)[rounds % 3])
                assert found.difference == 0, [describe(one) for one in found.differences]
                assert found.usage_rows >= before
                rounds += 1
        finally:
            stop.set()
            await asyncio.gather(*callers)
    found = await reconcile(pool)
    assert (found.usage_rows, found.difference) == (made, 0)
    assert audit(database_url)[0] == made - found.voided


def test_the_command_exits_1_and_names_the_difference(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    made = CliRunner().invoke(main, ["tenant", "create", "Acme", "--cap", "25.00", "--json"])
    tenant_id = json.loads(made.output)["tenant_id"]
    agreed = CliRunner().invoke(main, ["reconcile", "--json"])
    assert (agreed.exit_code, json.loads(agreed.output)["difference"]) == (0, 0)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE billing.period_counter SET units = 9 WHERE meter = 'intent.calls'")
    differs = CliRunner().invoke(main, ["reconcile"])
    assert differs.exit_code == 1
    assert f"counter {tenant_id}" in differs.output
    as_json = CliRunner().invoke(main, ["reconcile", "--json"])
    assert (as_json.exit_code, json.loads(as_json.output)["difference"]) == (1, 18)
