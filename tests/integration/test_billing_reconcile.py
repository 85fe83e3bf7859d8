"""Promise 2's command: it says when counters, roll-ups and usage rows agree, and names what does not."""

import json
import random

import psycopg
import pytest
from click.testing import CliRunner

from billing.caps import set_caps
from billing.invoices import run_drafts
from billing.meters import METERS, MONEY
from billing.reconcile import describe, reconcile
from gateway.cli import main
from infra.database import Pool
from tests.billing_world import add_account, charge, open_ledger


async def use(database_url: str, pool: Pool) -> str:
    tenants = [await add_account(pool) for _ in range(3)]
    await set_caps(pool, tenants[0], {MONEY: 10**15}, f"key_{tenants[0][-4:]}")
    dice = random.Random(3)
    async with open_ledger(database_url) as ledger:
        for _ in range(90):
            await ledger.charge(
                charge(dice.choice(tenants), dice.choice(METERS).meter, dice.randint(0, 9999))
            )
    return tenants[0]


async def test_untouched_books_agree(database_url: str, pool: Pool) -> None:
    await use(database_url, pool)
    for period, rows in ((None, 90), ("2025-11", 90), ("2025-12", 0)):
        found = await reconcile(pool, period)
        assert (found.usage_rows, found.voided, found.difference, found.differences) == (rows, 0, 0, [])


@pytest.mark.parametrize(
    ("change", "what", "difference"),
    [
        ("UPDATE billing.period_counter SET units = units + 3 {where}", "counter", 3),
        ("UPDATE billing.period_counter SET calls = calls - 1 {where}", "counter", 1),
        ("UPDATE billing.hourly_usage SET units = units - 7 {where}", "roll-up", 7),
        ("UPDATE billing.key_counter SET units = units + 2 {where}", "key counter", 2),
        ("UPDATE billing.key_counter SET rated = rated + 5 {where}", "key counter", 5),
    ],
)
async def test_a_difference_made_by_hand_is_named(
    database_url: str, pool: Pool, change: str, what: str, difference: int
) -> None:
    tenant_id = await use(database_url, pool)
    where = "WHERE tenant_id = %s AND period = '2025-11' AND meter = 'tts.characters'"
    with psycopg.connect(database_url) as connection:
        connection.execute(change.format(where=where).encode(), [tenant_id])
    found = await reconcile(pool)
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
        ("UPDATE billing.invoice SET total_minor = total_minor + 9 {where}", "invoice total", 9),
    ],
)
async def test_an_invoice_of_a_closed_month_is_compared(
    database_url: str, pool: Pool, change: str, what: str, difference: int
) -> None:
    tenant_id = await use(database_url, pool)
    assert await run_drafts(pool, "2025-11")
    where = f"WHERE tenant_id = '{tenant_id}'"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f"DELETE FROM billing.invoice_line WHERE invoice_id NOT IN "
            f"(SELECT invoice_id FROM billing.invoice {where})".encode()
        )
        connection.execute(f"DELETE FROM billing.invoice WHERE tenant_id <> '{tenant_id}'".encode())
        connection.execute(change.format(where=where).encode())
        assert (await reconcile(pool)).difference == 0, "drafted before its month closed: it may lag behind"
        connection.execute("UPDATE billing.period SET closed_at = '2025-12-01Z' WHERE period = '2025-11'")
    found = await reconcile(pool)
    assert (found.difference, [one.what for one in found.differences]) == (difference, [what])
    assert describe(found.differences[0]).startswith(f"{what} {tenant_id} 2025-11")
    await run_drafts(pool, "2025-11")
    assert (await reconcile(pool)).difference == 0


async def test_rows_of_a_month_that_was_never_opened_are_named(database_url: str, pool: Pool) -> None:
    await use(database_url, pool)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE billing.usage_row SET period = '1999-01' WHERE units_before = 0")
    kinds = {one.what for one in (await reconcile(pool)).differences}
    assert kinds == {"month", "counter", "roll-up", "key counter"}


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
