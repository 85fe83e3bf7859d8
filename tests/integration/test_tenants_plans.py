"""A plan's limits travel with its tenants' keys, and a change of them reaches workers within a second."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from billing.accounts import account
from gateway.customers import change_customers_plan, create_customer
from infra.database import Pool, connect
from infra.errors import DomainError, InvalidValueError, NotFoundError
from tenants import keys, plans
from tenants.api_keys import create_key
from tenants.key_cache import KeyCache
from tenants.placement import operator_set_placement
from tenants.plans import operator_list_plans, operator_set_plan_limits, show_tenants_plan
from tenants.records import Plan, PlanLimits
from tenants.tenants import operator_list_tenants, show_tenant

PROMISE_S = 1.0
TIGHT = PlanLimits(60, 30, 4)


@pytest.fixture
async def cache(pool: Pool, database_url: str) -> AsyncIterator[KeyCache]:
    opened = KeyCache(pool, database_url)
    await opened.start()
    yield opened
    await opened.close()


async def make_plan(pool: Pool, name: str, limits: PlanLimits = TIGHT, *, prices: bool = True) -> None:
    await operator_set_plan_limits(
        pool,
        name,
        {
            "requests_per_minute": limits.requests_per_minute,
            "requests_per_minute_per_key": limits.requests_per_minute_per_key,
            "max_concurrent_calls": limits.max_concurrent_calls,
        },
    )
    if prices:
        async with pool.connection() as connection:
            await connection.execute(
                "INSERT INTO billing.price_version (price_version_id, plan, currency, valid_from) "
                "VALUES (%(plan)s, %(plan)s, 'USD', '-infinity')",
                {"plan": name},
            )


async def new_key(pool: Pool, tenant_id: str) -> bytes:
    return keys.digest((await create_key(pool, tenant_id)).text.reveal())


async def limits_of(cache: KeyCache, digest: bytes) -> PlanLimits:
    record = await cache.lookup(digest)
    assert record is not None
    return record.limits


async def placement_of(cache: KeyCache, digest: bytes) -> str:
    record = await cache.lookup(digest)
    assert record is not None
    return record.placement


async def assert_reaches(cache: KeyCache, digest: bytes, limits: PlanLimits) -> None:
    """To be called as soon as the change is made."""
    started_s = time.monotonic()
    while await limits_of(cache, digest) != limits:
        assert time.monotonic() - started_s < PROMISE_S
        await asyncio.sleep(0.002)


async def epoch(pool: Pool) -> int:
    async with pool.connection() as connection:
        row = await (await connection.execute("SELECT epoch FROM tenants.key_epoch")).fetchone()
    assert row
    return row[0]


async def replace_announcement(pool: Pool, body: str) -> None:
    async with pool.connection() as connection:
        await connection.execute(
            "CREATE OR REPLACE FUNCTION tenants.announce_limits_change() RETURNS trigger "
            f"LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NULL; END $$".encode()
        )


LOST = "UPDATE tenants.key_epoch SET epoch = epoch + 1;"
NOTIFIED_ONLY = "PERFORM pg_notify('aiaas_key_changed', (SELECT epoch + 1 FROM tenants.key_epoch) || ' *');"


@pytest.mark.parametrize("announcement", [None, LOST, NOTIFIED_ONLY], ids=["both", "polled", "notified"])
async def test_a_plans_new_limits_reach_a_worker_within_a_second(
    pool: Pool, cache: KeyCache, announcement: str | None
) -> None:
    if announcement:
        await replace_announcement(pool, announcement)
    tenant = await create_customer(pool, "Tenant")
    one, other = await new_key(pool, tenant.tenant_id), await new_key(pool, tenant.tenant_id)
    for digest in (one, other):
        assert await limits_of(cache, digest) == PlanLimits()
    await operator_set_plan_limits(pool, "standard", {"requests_per_minute": 7})
    for digest in (one, other):
        await assert_reaches(cache, digest, PlanLimits(7, None, None))
    await operator_set_plan_limits(pool, "standard", {"requests_per_minute": None, "max_concurrent_calls": 3})
    await assert_reaches(cache, one, PlanLimits(None, None, 3))


@pytest.mark.parametrize("announcement", [None, LOST], ids=["both", "polled"])
async def test_a_tenants_new_plan_reaches_a_worker_within_a_second(
    pool: Pool, cache: KeyCache, announcement: str | None
) -> None:
    if announcement:
        await replace_announcement(pool, announcement)
    await make_plan(pool, "tight")
    tenant, bystander = await create_customer(pool, "Tenant"), await create_customer(pool, "Bystander")
    moved, stays = await new_key(pool, tenant.tenant_id), await new_key(pool, bystander.tenant_id)
    assert await limits_of(cache, moved) == await limits_of(cache, stays) == PlanLimits()
    await change_customers_plan(pool, tenant.tenant_id, "tight", "os:test")
    await assert_reaches(cache, moved, TIGHT)
    assert await limits_of(cache, stays) == PlanLimits()


@pytest.mark.parametrize("announcement", [None, LOST, NOTIFIED_ONLY], ids=["both", "polled", "notified"])
async def test_a_tenants_placement_reaches_a_worker_within_a_second(
    pool: Pool, cache: KeyCache, announcement: str | None
) -> None:
    if announcement:
        await replace_announcement(pool, announcement)
    tenant, bystander = await create_customer(pool, "Tenant"), await create_customer(pool, "Bystander")
    moved, stays = await new_key(pool, tenant.tenant_id), await new_key(pool, bystander.tenant_id)
    assert await placement_of(cache, moved) == await placement_of(cache, stays) == "local_only"
    for placement in ("remote", "prefer_local", "local_only"):
        changed = await operator_set_placement(pool, tenant.tenant_id, placement)
        started_s = time.monotonic()
        assert changed.placement == placement
        while await placement_of(cache, moved) != placement:
            assert time.monotonic() - started_s < PROMISE_S
            await asyncio.sleep(0.002)
        assert await placement_of(cache, stays) == "local_only"


async def test_a_placement_that_is_not_one_is_refused_and_never_read_as_another(
    pool: Pool, cache: KeyCache
) -> None:
    tenant = await create_customer(pool, "Tenant")
    digest = await new_key(pool, tenant.tenant_id)
    with pytest.raises(InvalidValueError):
        await operator_set_placement(pool, tenant.tenant_id, "elsewhere")  # type: ignore[arg-type]
    with pytest.raises(NotFoundError):
        await operator_set_placement(pool, "ten_unknown", "remote")
    async with pool.connection() as connection:  # as a later version of the tables might allow it
        await connection.execute("ALTER TABLE tenants.tenant DROP CONSTRAINT tenant_placement_check")
        await connection.execute("UPDATE tenants.tenant SET placement = 'elsewhere'")
    assert await placement_of(cache, digest) == "local_only"
    assert (await show_tenant(pool, tenant.tenant_id)).placement == "local_only"


async def test_a_change_moves_the_epoch_once_and_no_change_not_at_all(pool: Pool) -> None:
    await make_plan(pool, "tight")
    tenant = await create_customer(pool, "Tenant")
    for _ in range(5):
        await create_key(pool, tenant.tenant_id)
    before = await epoch(pool)
    await change_customers_plan(pool, tenant.tenant_id, "tight", "os:test")
    assert await epoch(pool) == before + 1
    await operator_set_plan_limits(pool, "tight", {"requests_per_minute": 61})
    assert await epoch(pool) == before + 2
    await change_customers_plan(pool, tenant.tenant_id, "tight", "os:test")
    await operator_set_plan_limits(pool, "tight", {"requests_per_minute": 61})
    await operator_set_plan_limits(pool, "new", {"requests_per_minute": 1})
    assert await epoch(pool) == before + 2


async def test_a_change_is_announced_with_its_epoch_and_without_a_key(pool: Pool, database_url: str) -> None:
    async with await connect(database_url, "test") as listener:
        await listener.execute("LISTEN aiaas_key_changed")
        await operator_set_plan_limits(pool, "standard", {"requests_per_minute": 61})
        heard = [notification.payload async for notification in listener.notifies(timeout=5, stop_after=1)]
    assert heard == [f"{await epoch(pool)} *"]


async def test_a_plan_is_made_changed_and_listed(pool: Pool) -> None:
    assert await operator_list_plans(pool) == [Plan("standard", PlanLimits())]
    await make_plan(pool, "tight")
    changed = await operator_set_plan_limits(pool, "tight", {"requests_per_minute": None})
    assert changed == Plan("tight", PlanLimits(None, 30, 4))
    assert await operator_list_plans(pool) == [Plan("standard", PlanLimits()), changed]


@pytest.mark.parametrize(
    ("name", "limit", "param"),
    [("Tight", 1, "plan"), ("", 1, "plan"), ("t" * 64, 1, "plan"), ("tight", 0, "limit"),
     ("tight", -1, "limit"), ("tight", plans.MAX_LIMIT + 1, "limit")],
)  # fmt: skip
async def test_a_bad_name_or_limit_is_refused_and_named(
    pool: Pool, name: str, limit: int, param: str
) -> None:
    with pytest.raises(InvalidValueError) as refused:
        await operator_set_plan_limits(pool, name, {"requests_per_minute": limit})
    assert refused.value.param == param
    assert len(await operator_list_plans(pool)) == 1


async def test_a_tenant_and_its_account_change_plans_together_or_not_at_all(pool: Pool) -> None:
    await make_plan(pool, "tight")
    await make_plan(pool, "unpriced", prices=False)
    tenant_id = (await create_customer(pool, "Tenant")).tenant_id

    async def plans_of_both() -> tuple[str, str]:
        return (await show_tenants_plan(pool, tenant_id)).plan, (await account(pool, tenant_id)).plan

    assert await plans_of_both() == ("standard", "standard")
    assert (await change_customers_plan(pool, tenant_id, "tight", "os:test"))[0].plan == "tight"
    assert await plans_of_both() == ("tight", "tight")
    for plan, message in (("unpriced", "prices in this currency"), ("nonesuch", "There is no such plan")):
        with pytest.raises(InvalidValueError, match=message) as refused:
            await change_customers_plan(pool, tenant_id, plan, "os:test")
        assert refused.value.param == "plan"
        assert await plans_of_both() == ("tight", "tight")
    with pytest.raises(NotFoundError):
        await change_customers_plan(pool, "ten_unknown", "tight", "os:test")


async def test_the_running_month_keeps_its_prices_and_the_next_one_takes_the_new_plans(pool: Pool) -> None:
    await make_plan(pool, "tight")
    tenant_id = (await create_customer(pool, "Tenant")).tenant_id
    await change_customers_plan(pool, tenant_id, "tight", "os:test")
    async with pool.connection() as connection:
        found = await connection.execute("SELECT price_version_id FROM billing.period ORDER BY starts_at")
        assert await found.fetchall() == [("standard-usd-1",), ("tight",)]


async def test_a_customer_is_made_on_a_plan_that_has_limits_and_prices_or_not_at_all(pool: Pool) -> None:
    await make_plan(pool, "tight")
    await make_plan(pool, "unpriced", prices=False)
    for plan in ("unpriced", "nonesuch"):
        with pytest.raises(DomainError, match="There is no such plan with prices in this currency"):
            await create_customer(pool, "Half", plan=plan)
    assert await operator_list_tenants(pool) == []
    async with (
        pool.connection() as connection
    ):  # opening an account needs the month's prices, not only a name
        await connection.execute(
            "INSERT INTO billing.price_version (price_version_id, plan, currency, valid_from) "
            "VALUES ('priced-only', 'priced-only', 'USD', '-infinity')"
        )
    with pytest.raises(InvalidValueError, match="`aiaas plan set` makes one"):
        await create_customer(pool, "Half", plan="priced-only")
    assert await operator_list_tenants(pool) == []
    made = await create_customer(pool, "Whole", plan="tight")
    assert made.plan == "tight"
    assert await operator_list_tenants(pool) == [made]
