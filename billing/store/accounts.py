"""Accounts, and the periods and counters that charges need."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from psycopg.rows import class_row

from billing.periods import Period
from billing.store.locks import use_prices
from infra.database import Connection


class Account(msgspec.Struct, frozen=True):
    """A tenant's billing account."""

    tenant_id: str
    plan: str
    currency: str
    time_zone: str
    opened_at: datetime


class NewPeriod(msgspec.Struct, frozen=True):
    """A month of one tenant, about to be opened."""

    tenant_id: str
    time_zone: str
    period: Period


async def insert_account(
    connection: Connection, tenant_id: str, plan: str, currency: str, time_zone: str
) -> None:
    """Add the account, billed under the tenant's name; one that is there stays as it is.

    Raises:
        psycopg.errors.ForeignKeyViolation: there is no such tenant.
    """
    await connection.execute(
        """
        INSERT INTO billing.account (tenant_id, plan, currency, time_zone)
        VALUES (%(tenant_id)s, %(plan)s, %(currency)s, %(time_zone)s)
        ON CONFLICT DO NOTHING
        """,
        {"tenant_id": tenant_id, "plan": plan, "currency": currency, "time_zone": time_zone},
    )
    await connection.execute(
        """
        INSERT INTO billing.profile (tenant_id, name)
        SELECT tenant_id, name FROM tenants.tenant WHERE tenant_id = %(tenant_id)s
        ON CONFLICT DO NOTHING
        """,
        {"tenant_id": tenant_id},
    )


async def read_account(connection: Connection, tenant_id: str) -> Account | None:
    """One tenant's account."""
    async with connection.cursor(row_factory=class_row(Account)) as cursor:
        await cursor.execute(
            """
            SELECT tenant_id, plan, currency, time_zone, opened_at
            FROM billing.account WHERE tenant_id = %(tenant_id)s
            """,
            {"tenant_id": tenant_id},
        )
        return await cursor.fetchone()


async def read_accounts(connection: Connection, tenant_ids: Sequence[str]) -> list[Account]:
    """The accounts of these tenants, as far as they have one."""
    async with connection.cursor(row_factory=class_row(Account)) as cursor:
        await cursor.execute(
            """
            SELECT tenant_id, plan, currency, time_zone, opened_at
            FROM billing.account WHERE tenant_id = ANY(%(tenant_ids)s)
            """,
            {"tenant_ids": list(tenant_ids)},
        )
        return await cursor.fetchall()


async def read_account_page(connection: Connection, after: str, limit: int) -> list[Account]:
    """The next accounts in the order of their tenant ids."""
    async with connection.cursor(row_factory=class_row(Account)) as cursor:
        await cursor.execute(
            """
            SELECT tenant_id, plan, currency, time_zone, opened_at
            FROM billing.account WHERE tenant_id > %(after)s ORDER BY tenant_id LIMIT %(limit)s
            """,
            {"after": after, "limit": limit},
        )
        return await cursor.fetchall()


async def update_plan(connection: Connection, tenant_id: str, plan: str) -> Account | None:
    """Change the plan that months not yet open take their prices from; None where there is no account."""
    async with connection.cursor(row_factory=class_row(Account)) as cursor:
        await cursor.execute(
            """
            UPDATE billing.account SET plan = %(plan)s WHERE tenant_id = %(tenant_id)s
            RETURNING tenant_id, plan, currency, time_zone, opened_at
            """,
            {"tenant_id": tenant_id, "plan": plan},
        )
        return await cursor.fetchone()


async def take_prices(
    connection: Connection, tenant_ids: Sequence[str], now: datetime
) -> list[tuple[str, str]]:
    """Have these tenants' months that have not begun take the prices that are right for them now; returns
    those that changed, as (tenant, month). Call it under the locks of prices and of these accounts.

    A month that has usage, by a worker's clock ahead of ours, has begun.
    """
    cursor = await connection.execute(
        """
        UPDATE billing.period month SET price_version_id = right_one.version
        FROM billing.account, billing.period known
        CROSS JOIN LATERAL (
            SELECT billing.price_version_at(
                account.tenant_id, account.plan, account.currency, known.starts_at)
        ) AS right_one (version)
        WHERE account.tenant_id = ANY(%(tenant_ids)s) AND known.tenant_id = account.tenant_id
          AND (month.tenant_id, month.period) = (known.tenant_id, known.period)
          AND month.starts_at > %(now)s AND right_one.version <> month.price_version_id
          AND NOT EXISTS (
              SELECT FROM billing.period_counter counter
              WHERE counter.tenant_id = month.tenant_id AND counter.period = month.period
                AND (counter.calls <> 0 OR counter.units <> 0))
        RETURNING month.tenant_id, month.period
        """,
        {"tenant_ids": list(tenant_ids), "now": now},
    )
    return sorted([(str(tenant_id), str(period)) for tenant_id, period in await cursor.fetchall()])


async def try_time_zone(connection: Connection, name: str) -> None:
    """Have the server use the zone: its own list may be older than ours.

    Raises:
        psycopg.errors.InvalidParameterValue: the server does not know it.
    """
    await connection.execute("SELECT now() AT TIME ZONE %(name)s", {"name": name})


async def insert_periods(connection: Connection, periods: Sequence[NewPeriod]) -> None:
    """Add periods and their counters, those of capped keys too; what is there stays. In a transaction.

    A period takes the newest price version of the account's plan and currency that holds when it starts; one
    of the tenant's own comes before everyone's. Prices and plans do not change meanwhile.
    Rows are written in the order of tenant and month, as locks are taken in one order.
    """
    await use_prices(connection)
    ordered = sorted(periods, key=lambda new: (new.tenant_id, new.period.label))
    parameters = {
        "tenant_ids": [new.tenant_id for new in ordered],
        "labels": [new.period.label for new in ordered],
        "starts": [new.period.starts_at for new in ordered],
        "ends": [new.period.ends_at for new in ordered],
        "time_zones": [new.time_zone for new in ordered],
    }
    await connection.execute(
        """
        INSERT INTO billing.period (tenant_id, period, starts_at, ends_at, time_zone, price_version_id)
        SELECT given.tenant_id, given.period, given.starts_at, given.ends_at, given.time_zone,
               billing.price_version_at(
                   account.tenant_id, account.plan, account.currency, given.starts_at)
        FROM unnest(%(tenant_ids)s::text[], %(labels)s::text[], %(starts)s::timestamptz[],
                    %(ends)s::timestamptz[], %(time_zones)s::text[]) WITH ORDINALITY
             AS given (tenant_id, period, starts_at, ends_at, time_zone, place)
        JOIN billing.account USING (tenant_id)
        ORDER BY given.place
        ON CONFLICT DO NOTHING
        """,
        parameters,
    )
    await connection.execute(
        """
        INSERT INTO billing.period_counter (tenant_id, period, meter)
        SELECT period.tenant_id, period.period, meter.meter
        FROM unnest(%(tenant_ids)s::text[], %(labels)s::text[]) WITH ORDINALITY
             AS given (tenant_id, period, place)
        JOIN billing.period USING (tenant_id, period)
        CROSS JOIN billing.meter
        ORDER BY given.place, meter.meter
        ON CONFLICT DO NOTHING
        """,
        {"tenant_ids": parameters["tenant_ids"], "labels": parameters["labels"]},
    )
    await open_key_counters(connection, [(new.tenant_id, new.period.label) for new in ordered])


async def open_key_counters(connection: Connection, months: Sequence[tuple[str, str]]) -> None:
    """Make the counters of capped keys that are missing in these months of tenants. In a transaction."""
    await connection.execute(
        "SELECT billing.open_key_counters(%(tenant_ids)s::text[], %(labels)s::text[])",
        {"tenant_ids": [tenant_id for tenant_id, _ in months], "labels": [label for _, label in months]},
    )
