import asyncio
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import errors

from billing import accounts
from billing.accounts import Account, AccountExistsError, account, current_period, open_periods
from billing.meters import METERS, Meter
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from tests.billing_world import NOON, add_account, add_tenant


def _counters(database_url: str, tenant_id: str) -> list[tuple[str, int]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(
            "SELECT period, count(*) FROM billing.period_counter WHERE tenant_id = %s GROUP BY 1 ORDER BY 1",
            [tenant_id],
        ).fetchall()


async def test_an_account_is_opened_with_this_month_and_the_next(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool, now=datetime(2025, 12, 31, 16, tzinfo=UTC))  # January in Taipei
    assert _counters(database_url, tenant_id) == [("2026-01", 3), ("2026-02", 3)]
    period = await current_period(pool, tenant_id, datetime(2025, 12, 31, 15, 59, tzinfo=UTC))
    assert period.label == "2025-12"


async def open_account(pool: Pool, tenant_id: str, **terms: str) -> Account:
    async with pool.connection() as connection:
        return await accounts.open_account(connection, tenant_id, now=NOON, **terms)


@pytest.mark.parametrize(
    ("field", "terms"),
    [
        ("plan", {"plan": "no-such-plan"}),
        ("currency", {"currency": "XXX"}),
        ("time_zone", {"time_zone": "Mars/Olympus"}),
    ],
)
async def test_terms_that_cannot_be_kept_are_refused_by_name_and_nothing_is_opened(
    pool: Pool, field: str, terms: dict[str, str]
) -> None:
    tenant_id = await add_tenant(pool)
    good = {"plan": "standard", "currency": "USD", "time_zone": "UTC"}
    with pytest.raises(InvalidValueError) as refusal:
        await open_account(pool, tenant_id, **(good | terms))
    assert refusal.value.param == field
    with pytest.raises(NotFoundError):
        await account(pool, tenant_id)


async def test_a_tenant_that_does_not_exist_gets_no_account(pool: Pool) -> None:
    with pytest.raises(NotFoundError):
        await open_account(pool, "ten_x", plan="standard", currency="USD", time_zone="UTC")


async def test_opening_an_account_again_changes_nothing_and_never_its_terms(pool: Pool) -> None:
    tenant_id = await add_account(pool, "UTC")
    terms = {"plan": "standard", "currency": "USD", "time_zone": "UTC"}
    again = await open_account(pool, tenant_id, **terms)
    assert again == await account(pool, tenant_id)
    with pytest.raises(AccountExistsError):
        await open_account(pool, tenant_id, **(terms | {"time_zone": "Asia/Taipei"}))


async def test_months_are_made_ahead_for_all_accounts_once_however_many_run(
    database_url: str, pool: Pool
) -> None:
    tenants = [await add_account(pool) for _ in range(4)]
    later = datetime(2026, 3, 10, tzinfo=UTC)
    assert await asyncio.gather(*(open_periods(pool, later) for _ in range(4))) == [4] * 4
    for tenant_id in tenants:
        assert [label for label, _ in _counters(database_url, tenant_id)] == [
            "2025-11",
            "2025-12",
            "2026-03",
            "2026-04",
        ]


def test_the_meters_of_the_code_are_those_of_the_database(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT meter, product, unit FROM billing.meter ORDER BY meter").fetchall()
    assert [Meter(*row) for row in rows] == sorted(METERS, key=lambda meter: meter.meter)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing.price_version SET currency = 'EUR'",
        "UPDATE billing.meter_price SET per_units = 1",
        "UPDATE billing.price_tier SET nanos = 0",
        "DELETE FROM billing.price_tier",
        "TRUNCATE billing.price_tier",
        "INSERT INTO billing.price_tier VALUES ('standard-usd-1', 'intent.calls', 9, 5, 0)",
        "INSERT INTO billing.meter_price VALUES ('standard-usd-1', 'extra.units', 1)",
    ],
)
def test_a_price_version_never_changes(database_url: str, change: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("INSERT INTO billing.meter VALUES ('extra.units', 'extra', 'unit')")
        with pytest.raises(errors.IntegrityConstraintViolation, match="immutable"):
            connection.execute(change)
