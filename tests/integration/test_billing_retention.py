"""Usage rows are partitioned by time; an id is unique over all partitions, and stays so when one goes."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from uuid import UUID

import msgspec
import psycopg
import pytest

from billing.charges import ChargeRejectedError
from billing.closing import close_ended_months
from billing.ledger import Ledger
from billing.reconcile import reconcile
from billing.retention import detach_partitions, make_partitions, partitions
from billing.sealing import seal_closed_months
from infra.database import Pool
from tests.billing_world import add_account, begin_partitions_at, charge, id_at, open_ledger

NOW = datetime.now(UTC)


async def charge_at(ledger: Ledger, tenant_id: str, moment: datetime) -> UUID:
    one = charge(tenant_id, at=moment)
    one = msgspec.structs.replace(one, call_id=id_at(moment, one.call_id))
    await ledger.charge(one)
    ledger.answered(one.call_id)
    return one.call_id


def home_of(database_url: str, call_id: UUID) -> str:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(
            "SELECT tableoid::regclass::text FROM billing.usage_row WHERE call_id = %s", [call_id]
        ).fetchone()
    assert row is not None
    return str(row[0])


async def test_months_ahead_have_partitions_and_making_them_again_changes_nothing(pool: Pool) -> None:
    before = await partitions(pool)
    await make_partitions(pool)
    assert await partitions(pool) == before
    assert before[-1].ends_at > NOW + timedelta(days=59)
    assert all(one.ends_at == later.begins_at for one, later in pairwise(before))


async def test_a_call_goes_to_the_partition_of_its_id(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool, "UTC", NOW)
    ahead = (await partitions(pool))[1]
    assert ahead.begins_at is not None
    async with open_ledger(database_url) as ledger:
        this = await charge_at(ledger, tenant_id, NOW)
        next_month = await charge_at(ledger, tenant_id, ahead.begins_at)
    assert home_of(database_url, this) == "billing.usage_row_first"
    assert home_of(database_url, next_month) == f"billing.{ahead.partition}"


async def test_a_partition_that_was_not_made_ahead_is_made_by_the_charge(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool, "UTC", NOW)
    with psycopg.connect(database_url, autocommit=True) as admin:
        for one in await partitions(pool):
            admin.execute(f"DROP TABLE billing.{one.partition}")
        admin.execute("DELETE FROM billing.usage_partition")
    async with open_ledger(database_url) as ledger:
        await charge_at(ledger, tenant_id, NOW)
    assert len(await partitions(pool)) == 3


async def test_a_detached_partition_takes_its_ids_with_it_and_the_rest_reconciles(
    database_url: str, pool: Pool
) -> None:
    last_month = NOW.replace(day=1) - timedelta(days=1)
    tenant_id = await add_account(pool, "UTC", last_month)
    begin_partitions_at(database_url, last_month)
    old = (await partitions(pool))[0]
    async with open_ledger(database_url) as ledger:
        gone = await charge_at(ledger, tenant_id, last_month)
        await charge_at(ledger, tenant_id, NOW)
        assert await detach_partitions(pool, NOW) == [], "its month is open"
        assert await close_ended_months(pool, NOW + timedelta(hours=2)) == 1
        assert await detach_partitions(pool, NOW) == [], "its month is not sealed"
        assert await seal_closed_months(pool) == 1
        assert [one.partition for one in await detach_partitions(pool, NOW)] == [old.partition]
        assert await detach_partitions(pool, NOW) == []

        again = msgspec.structs.replace(charge(tenant_id, at=last_month), call_id=gone)
        with pytest.raises(ChargeRejectedError):
            await ledger.charge(again)
        await charge_at(ledger, tenant_id, NOW)
    found = await reconcile(pool)
    assert (found.usage_rows, found.difference) == (2, 0)
    with psycopg.connect(database_url) as connection:
        kept = connection.execute(f"SELECT call_id FROM billing.{old.partition}").fetchall()
    assert kept == [(gone,)]
