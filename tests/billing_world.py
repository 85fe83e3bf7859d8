"""Tenants with accounts, charges to send, locks to hold, and the auditor that adds everything up again."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID

import psycopg

from billing.accounts import open_account
from billing.charges import Charge
from billing.ledger import Ledger
from billing.meters import INTENT_CALLS
from billing.prices import MeterPrice
from billing.store import charges as store
from billing.store.charges import Outcome, entry_of
from infra.database import Connection, Pool
from infra.ids import new_id, uuid7
from infra.telemetry import Telemetry

NOON = datetime(2025, 11, 15, 12, tzinfo=UTC)


async def add_tenant(pool: Pool) -> str:
    """A tenant without a billing account."""
    tenant_id = new_id("ten")
    async with pool.connection() as connection:
        await connection.execute(
            "INSERT INTO tenants.tenant (tenant_id, name) VALUES (%s, 'Test')", [tenant_id]
        )
    return tenant_id


async def add_account(pool: Pool, time_zone: str = "Asia/Taipei", now: datetime = NOON) -> str:
    """A tenant with an account in USD on the plan `standard`."""
    tenant_id = await add_tenant(pool)
    async with pool.connection() as connection:
        await open_account(
            connection, tenant_id, plan="standard", currency="USD", time_zone=time_zone, now=now
        )
    return tenant_id


def add_account_with_prices(
    connection: psycopg.Connection, prices: Mapping[str, MeterPrice], month_starts: Sequence[datetime]
) -> str:
    """A tenant in UTC with prices of its own, and the months open that begin at these moments."""
    tenant_id, plan = new_id("ten"), new_id("pln")
    with connection.transaction():
        run = connection.execute
        run("INSERT INTO tenants.tenant (tenant_id, name) VALUES (%s, 'Test')", [tenant_id])
        run("INSERT INTO billing.price_version VALUES (%s, %s, 'USD', '-infinity')", [plan, plan])
        for meter, price in prices.items():
            run("INSERT INTO billing.meter_price VALUES (%s, %s, %s)", [plan, meter, price.per])
            for number, tier in enumerate(price.tiers, 1):
                row = [plan, meter, number, tier.up_to_units, tier.nanos]
                run("INSERT INTO billing.price_tier VALUES (%s, %s, %s, %s, %s)", row)
        run("INSERT INTO billing.account VALUES (%s, %s, 'USD', 'UTC')", [tenant_id, plan])
        for start in month_starts:
            month, end = start.strftime("%Y-%m"), (start + timedelta(days=32)).replace(day=1)
            row = [tenant_id, month, start, end, plan]
            run("INSERT INTO billing.period VALUES (%s, %s, %s, %s, 'UTC', %s)", row)
            run(
                "INSERT INTO billing.period_counter SELECT %s, %s, meter FROM billing.meter",
                [tenant_id, month],
            )
    return tenant_id


def charge(tenant_id: str, meter: str = INTENT_CALLS, units: int = 1, at: datetime = NOON) -> Charge:
    """A charge with a new id."""
    return Charge(
        call_id=uuid7(),
        tenant_id=tenant_id,
        key_id=f"key_{tenant_id[-4:]}",
        meter=meter,
        units=units,
        model="test-model",
        engine="test-engine",
        occurred_at=at,
    )


def id_at(moment: datetime, call_id: UUID) -> UUID:
    """The same random bits, made at another moment."""
    unix_ms = int(moment.timestamp() * 1000)
    return UUID(int=(unix_ms << 80) | (call_id.int & (2**80 - 1)))


async def write(connection: Connection, charges: Sequence[Charge]) -> list[Outcome]:
    """`billing.charge` itself, for a batch, without a session."""
    return await store.charge(connection, None, (), [entry_of(one) for one in charges])


@asynccontextmanager
async def open_ledger(
    database_url: str,
    *,
    telemetry: Telemetry | None = None,
    charge_timeout_s: float = 20.0,
    queue_limit: int = 8192,
    lock_timeout_ms: int = 250,
    grace_s: float = 10.0,
) -> AsyncIterator[Ledger]:
    ledger = Ledger(
        database_url,
        telemetry or Telemetry.from_environ("test", {}),
        charge_timeout_s=charge_timeout_s,
        queue_limit=queue_limit,
        lock_timeout_ms=lock_timeout_ms,
        close_timeout_s=3.0,
        grace_s=grace_s,
    )
    await ledger.start()
    try:
        yield ledger
    finally:
        await ledger.close()


async def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Poll until the condition holds.

    Raises:
        AssertionError: it does not, in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await asyncio.sleep(0.005)


def lock_tenant(connection: psycopg.Connection, tenant_id: str) -> None:
    """Hold the tenant's account until the transaction ends."""
    connection.execute("SELECT FROM billing.account WHERE tenant_id = %s FOR UPDATE", [tenant_id])


def begin_partitions_at(database_url: str, moment: datetime) -> None:
    """Have the first partition of the usage rows, empty as yet, be that of the moment's month."""
    with psycopg.connect(database_url, autocommit=True) as admin:
        admin.execute("DROP TABLE billing.usage_row_first")
        admin.execute("DELETE FROM billing.usage_partition WHERE partition = 'usage_row_first'")
        admin.execute("SELECT billing.make_usage_partitions(%s)", [moment])


def audit(database_url: str) -> tuple[int, int]:
    """Calls and units of all usage rows, once counters and roll-ups are found to say the same, key by key."""
    keys = "tenant_id, period, meter"
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            f"SELECT {keys}, sum(calls), sum(units) FROM billing.usage_row GROUP BY {keys}"
            " HAVING sum(calls) <> 0 OR sum(units) <> 0"
        ).fetchall()
        counters = connection.execute(
            f"SELECT {keys}, calls, units FROM billing.period_counter WHERE calls <> 0 OR units <> 0"
        ).fetchall()
        hours = connection.execute(
            f"SELECT {keys}, sum(calls), sum(units) FROM billing.hourly_usage GROUP BY {keys}"
            " HAVING sum(calls) <> 0 OR sum(units) <> 0"
        ).fetchall()
        # Each row is a step from `units_before` to the units after it: together one way from 0 to the sum.
        astray = connection.execute(
            f"""
            SELECT count(*) FROM (
                SELECT {keys}, at FROM (
                    SELECT {keys}, units_before AS at, 1 AS leaves FROM billing.usage_row
                    UNION ALL SELECT {keys}, units_before + units, -1 FROM billing.usage_row
                    UNION ALL SELECT DISTINCT {keys}, 0, -1 FROM billing.usage_row
                    UNION ALL SELECT {keys}, sum(units), 1 FROM billing.usage_row GROUP BY {keys}
                ) AS steps GROUP BY {keys}, at HAVING sum(leaves) <> 0
            ) AS broken
            """
        ).fetchone()
    assert sorted(rows) == sorted(counters) == sorted(hours)
    assert astray == (0,), "each row's units_before is the sum of the units before it"
    return sum(int(row[3]) for row in rows), sum(int(row[4]) for row in rows)
