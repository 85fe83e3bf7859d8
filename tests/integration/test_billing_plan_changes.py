"""A plan changes at a month's end or at once: then tiers go on, fixed parts are prorated, caps are exact."""

import asyncio
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from billing.audit import audit_trail
from billing.caps import MoneyCapError, set_caps
from billing.charges import CapReachedError
from billing.closing import close_month
from billing.credit import credit, grant_credit
from billing.drafts import compose, read_materials, run_drafts
from billing.invoices import Invoice, InvoiceLine, show_invoice
from billing.ledger import Ledger
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS, MONEY
from billing.periods import period_at
from billing.plan_changes import PlanChange
from billing.plan_changes import change_plan as change_accounts_plan
from billing.receipts import receipt
from billing.reconcile import reconcile
from billing.sealing import seal_closed_months
from billing.store.seals import read_proof
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from tests.billing_world import add_account, audit, charge, lock_tenant, open_ledger
from tests.price_world import FINANCE, add_plan, load, price

ZONE = "UTC"
A_CALL = 400_000  # nanos, of the plan `standard`


def now() -> datetime:
    return datetime.now(UTC)


def month() -> str:
    return f"{now():%Y-%m}"


async def change_plan(pool: Pool, tenant_id: str, plan: str, *, at_once: bool = True) -> PlanChange:
    async with pool.connection() as connection:
        return await change_accounts_plan(
            connection, tenant_id, plan, actor=FINANCE, now=now(), at_once=at_once
        )


async def account_now(pool: Pool) -> str:
    return await add_account(pool, ZONE, now())


async def use(ledger: Ledger, tenant_id: str, units: int, meter: str = INTENT_CALLS, calls: int = 1) -> None:
    each = [charge(tenant_id, meter, units, now()) for _ in range(calls)]
    await asyncio.gather(*(ledger.charge(one) for one in each))


async def invoice_of(pool: Pool, tenant_id: str, *, sealed: bool) -> Invoice:
    if sealed:
        async with pool.connection() as connection:
            await close_month(connection, tenant_id, month(), now() + timedelta(days=40))
    (made,) = [one for one in await run_drafts(pool, month()) if one.tenant_id == tenant_id]
    return await show_invoice(pool, made.invoice_id)


def lines_of(invoice: Invoice) -> list[tuple[str, int, str | None, int]]:
    return [(line.kind, line.segment, line.price_version_id, line.units) for line in invoice.lines]


def nanos(line: InvoiceLine) -> Fraction:
    return Fraction(line.exact_nanos)


async def test_at_the_boundary_the_running_month_keeps_its_prices_and_the_next_takes_the_new(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await account_now(pool)
    version_id = await add_plan(pool, "pro")
    made = await change_plan(pool, tenant_id, "pro", at_once=False)
    following = period_at(now() + timedelta(days=32 - now().day), ZoneInfo(ZONE))
    assert (made.at_once, made.period, made.starts_at) == (False, following.label, following.starts_at)
    with psycopg.connect(database_url) as connection:
        found = connection.execute(
            "SELECT price_version_id FROM billing.period ORDER BY starts_at"
        ).fetchall()
        assert found == [("standard-usd-1",), (version_id,)]
    back = await change_plan(pool, tenant_id, "standard", at_once=False)
    assert (back.previous_plan, back.plan) == ("pro", "standard")
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT DISTINCT price_version_id FROM billing.period").fetchall()
        assert found == [("standard-usd-1",)]
    events = await audit_trail(pool, tenant_id)
    assert [(event.actor, event.action, event.detail["plan"]) for event in events] == [
        (FINANCE, "set_plan", "standard"),
        (FINANCE, "set_plan", "pro"),
    ]


@pytest.mark.parametrize("sealed", [False, True], ids=["draft", "sealed"])
async def test_at_once_tiers_go_on_and_each_call_is_at_the_price_of_its_time(
    database_url: str, pool: Pool, sealed: bool
) -> None:
    tenant_id = await account_now(pool)
    version_id = await add_plan(pool, "pro")  # intents: 0.001 up to 100, then 0.0005
    async with open_ledger(database_url) as ledger:
        await use(ledger, tenant_id, 60)
        before = charge(tenant_id, at=now(), units=20)
        await ledger.charge(before)
        changed = await change_plan(pool, tenant_id, "pro")
        assert (changed.at_once, changed.period) == (True, month())
        await use(ledger, tenant_id, 50)
        await ledger.void(before)  # is of the time in which it was taken back
    invoice = await invoice_of(pool, tenant_id, sealed=sealed)
    assert lines_of(invoice) == [("usage", 0, "standard-usd-1", 80), ("usage", 1, version_id, 30)]
    first, second = invoice.lines
    assert (first.calls, second.calls) == (2, 0), "one more, and one taken back"
    assert nanos(first) == 80 * A_CALL
    assert nanos(second) == 20 * 10**6 + 10 * 5 * 10**5, "from the 80th unit on, over the edge at 100"
    assert sum(Fraction(use.amount_nanos) for use in second.tiers) == nanos(second)
    assert first.basis == {"plan": "standard", "from": f"{now():%Y-%m}-01T00:00:00Z"}
    assert second.basis["plan"] == "pro"
    assert datetime.fromisoformat(second.basis["from"]) == changed.starts_at
    found = await receipt(pool, tenant_id, before.call_id)
    assert (found.price_version_id, found.status) == ("standard-usd-1", "voided")
    assert Fraction(found.amount_nanos) == 20 * A_CALL - (10 * 5 * 10**5 + 10 * 5 * 10**5)
    assert (await reconcile(pool)).difference == 0
    audit(database_url)


async def test_a_months_segments_add_up_to_the_month(database_url: str, pool: Pool) -> None:
    tenant_id = await account_now(pool)
    await add_plan(pool, "pro")
    async with open_ledger(database_url) as ledger:
        for plan in ("pro", "standard", "pro"):
            await use(ledger, tenant_id, 1, calls=5)
            await change_plan(pool, tenant_id, plan)
        await use(ledger, tenant_id, 1, calls=5)
    async with pool.connection() as connection:
        proofs = await read_proof(connection, tenant_id, month())
        assert [(one.segment, one.calls, one.units) for one in proofs] == [(n, 5, 5) for n in range(4)]
        cursor = await connection.execute(
            "SELECT count(*), count(DISTINCT (call_id, slice, entry)) FROM billing.month_rows(%s, %s)",
            [tenant_id, month()],
        )
        assert await cursor.fetchone() == (20, 20)


async def test_a_charge_that_waited_for_the_change_is_at_the_new_prices(
    database_url: str, pool: Pool
) -> None:
    """It bears an earlier time than the change, and was decided after it."""
    tenant_id = await account_now(pool)
    version_id = await add_plan(pool, "pro")
    async with open_ledger(database_url, lock_timeout_ms=10_000) as ledger:
        await use(ledger, tenant_id, 1)
        with psycopg.connect(database_url) as holder, psycopg.connect(database_url, autocommit=True) as admin:
            lock_tenant(holder, tenant_id)
            changing = asyncio.create_task(change_plan(pool, tenant_id, "pro"))
            await _until_waiting(admin, 1)
            waiting = asyncio.create_task(use(ledger, tenant_id, 2))
            await _until_waiting(admin, 2)
            holder.rollback()
            await asyncio.gather(changing, waiting)
    with psycopg.connect(database_url) as connection:
        earlier = connection.execute(
            "SELECT bool_and(usage.recorded_at < past.ends_at)"
            " FROM billing.usage_row usage, billing.period_segment past"
        ).fetchone()
        assert earlier == (True,)
    invoice = await invoice_of(pool, tenant_id, sealed=True)
    assert lines_of(invoice) == [("usage", 0, "standard-usd-1", 1), ("usage", 1, version_id, 2)]


async def test_rows_written_after_a_restore_are_of_the_later_segment(database_url: str, pool: Pool) -> None:
    """Another server counts transactions from another number, which may be lower."""
    tenant_id = await account_now(pool)
    await add_plan(pool, "pro")
    async with open_ledger(database_url) as ledger:
        await use(ledger, tenant_id, 1)
        await change_plan(pool, tenant_id, "pro")
        await use(ledger, tenant_id, 2)
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE billing.usage_row SET written_in = '3' WHERE units = 2")
        found = connection.execute(
            "SELECT segment, units FROM billing.month_rows(%s, %s) ORDER BY 1", [tenant_id, month()]
        ).fetchall()
    assert found == [(0, 1), (1, 2)]


async def test_late_usage_is_of_the_last_segment_of_its_own_month(database_url: str, pool: Pool) -> None:
    tenant_id = await account_now(pool)
    version_id = await add_plan(pool, "pro")
    at = now()
    async with open_ledger(database_url) as ledger:
        await use(ledger, tenant_id, 80)
        await change_plan(pool, tenant_id, "pro")
        async with pool.connection() as connection:
            await close_month(connection, tenant_id, month(), at + timedelta(days=40))
            await run_drafts(pool, month())
        late = charge(tenant_id, units=30, at=at)
        counted = await ledger.charge(late)
        async with pool.connection() as connection:
            await close_month(connection, tenant_id, counted.period, at + timedelta(days=120))
    await seal_closed_months(pool)
    async with pool.connection() as connection:
        (material,) = await read_materials(connection, counted.period, [tenant_id])
    (line,) = compose(material).lines
    assert (line.usage_period, line.segment, line.price_version_id) == (month(), 1, version_id)
    assert Fraction(line.exact_nanos) == 20 * 10**6 + 10 * 5 * 10**5


async def test_a_minimum_commitment_counts_for_its_share_of_the_month(database_url: str, pool: Pool) -> None:
    """Also where only the plan of before had one."""
    tenant_id = await account_now(pool)
    version_id = await add_plan(pool, "pro", minimum="100")
    await add_plan(pool, "free")
    await change_plan(pool, tenant_id, "pro")
    await change_plan(pool, tenant_id, "free")
    invoice = await invoice_of(pool, tenant_id, sealed=True)
    (line,) = invoice.lines
    assert line.kind == "minimum"
    first, pro, last = line.basis["commitments"]
    assert sum(Fraction(one["share"]) for one in (first, pro, last)) == 1
    assert (pro["price_version_id"], pro["plan"]) == (version_id, "pro")
    held = datetime.fromisoformat(last["from"]) - datetime.fromisoformat(pro["from"])
    of = invoice.ends_at - invoice.starts_at
    microsecond = timedelta(microseconds=1)
    assert Fraction(pro["share"]) == Fraction(held // microsecond, of // microsecond)
    assert nanos(line) == 100 * 10**9 * Fraction(pro["share"])


async def test_a_cap_in_money_holds_to_the_call_across_a_change(database_url: str, pool: Pool) -> None:
    tenant_id = await account_now(pool)
    await add_plan(pool, "pro")
    await set_caps(pool, tenant_id, {MONEY: 100 * A_CALL + 15 * 10**6 + 5 * 10**5})
    async with open_ledger(database_url) as ledger, open_ledger(database_url) as second:
        await use(ledger, tenant_id, 1, calls=100)
        await change_plan(pool, tenant_id, "pro")  # from the 100th on at 0.0005
        for _ in range(31):
            await use(second, tenant_id, 1)
        with pytest.raises(CapReachedError):
            await use(ledger, tenant_id, 1)
        await change_plan(pool, tenant_id, "standard")
        with pytest.raises(CapReachedError):
            await use(ledger, tenant_id, 1)
    invoice = await invoice_of(pool, tenant_id, sealed=True)
    assert sum(map(nanos, invoice.lines)) == 100 * A_CALL + 31 * 5 * 10**5


async def test_a_keys_cap_in_money_holds_and_its_counters_are_what_the_rows_say(
    database_url: str, pool: Pool
) -> None:
    """Also when they are made anew, and with prices of other packages of units."""
    tenant_id = await account_now(pool)
    key_id = charge(tenant_id).key_id
    odd = {
        "asr.audio_ms": {"per": 7, "tiers": [{"up_to": 40, "price": "0.000000003"}, {"price": "0.000001"}]}
    }
    await add_plan(pool, "odd", odd)
    await set_caps(pool, tenant_id, {MONEY: 10**9}, key_id)
    async with open_ledger(database_url) as ledger:
        for plan in ("odd", "standard", "odd"):
            await use(ledger, tenant_id, 11, ASR_AUDIO_MS)
            await use(ledger, tenant_id, 3)
            await change_plan(pool, tenant_id, plan)
            assert (await reconcile(pool)).difference == 0
        await use(ledger, tenant_id, 20, ASR_AUDIO_MS)

    def rated() -> list[Any]:
        with psycopg.connect(database_url) as connection:
            return connection.execute(
                "SELECT meter, units, rated FROM billing.key_counter WHERE period = %s ORDER BY meter",
                [month()],
            ).fetchall()

    kept = rated()
    assert [(meter, units) for meter, units, _ in kept] == [
        (ASR_AUDIO_MS, 53), (INTENT_CALLS, 9), ("tts.characters", 0)
    ]  # fmt: skip
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM billing.key_counter")
        connection.execute("SELECT billing.open_key_counters(%s, %s)", [[tenant_id], [month()]])
    assert rated() == kept
    assert (await reconcile(pool)).difference == 0
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE billing.key_counter SET rated = rated + 1 WHERE meter = %s", [ASR_AUDIO_MS]
        )
    assert (await reconcile(pool)).difference > 0


async def test_prepaid_credit_is_what_the_calls_cost_at_the_price_of_their_time(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await account_now(pool)
    await add_plan(pool, "pro")
    await grant_credit(pool, tenant_id, 10**9)
    async with open_ledger(database_url) as ledger:
        await use(ledger, tenant_id, 80)
        await change_plan(pool, tenant_id, "pro")
        await use(ledger, tenant_id, 30)
    spent = 80 * A_CALL + 20 * 10**6 + 10 * 5 * 10**5
    found = await credit(pool, tenant_id)
    assert found is not None
    assert found.left_nanos == 10**9 - spent
    invoice = await invoice_of(pool, tenant_id, sealed=True)
    assert invoice.lines[-1].basis == {"credit_nanos": str(spent)}


async def test_a_volume_segment_is_priced_at_the_tier_it_reached_and_never_below_zero(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await account_now(pool)
    await add_plan(
        pool,
        "volume",
        {"intent.calls": {"model": "volume", "tiers": [{"up_to": 99, "price": "1"}, {"price": "0.01"}]}},
    )
    async with open_ledger(database_url) as ledger:
        await use(ledger, tenant_id, 90)
        await change_plan(pool, tenant_id, "volume")
        await use(ledger, tenant_id, 10)
    invoice = await invoice_of(pool, tenant_id, sealed=True)
    assert [line.amount for line in invoice.lines] == ["0.04 USD", "0.10 USD"]
    assert [(use.units, use.amount_nanos) for use in invoice.lines[1].tiers] == [(10, "100000000")]


async def test_a_change_to_the_plan_that_holds_already_adds_no_segment(database_url: str, pool: Pool) -> None:
    tenant_id = await account_now(pool)
    made = await change_plan(pool, tenant_id, "standard")
    assert not made.at_once
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT count(*) FROM billing.period_segment").fetchone() == (0,)


async def test_a_refused_change_changes_nothing(database_url: str, pool: Pool) -> None:
    tenant_id = await account_now(pool)
    await set_caps(pool, tenant_id, {MONEY: 10**9})
    await add_plan(pool, "volume", {"intent.calls": {"model": "volume", "tiers": [{"price": "1"}]}})
    await add_plan(pool, "later", valid_from=f"{now().year + 1}-12-01")
    await add_plan(pool, "next", valid_from=f"{_next_month():%Y-%m-%d}")
    for plan, at_once, error in (
        ("volume", True, MoneyCapError),
        ("volume", False, MoneyCapError),
        ("later", True, InvalidValueError),
        ("later", False, InvalidValueError),
        ("next", True, InvalidValueError),
        ("none", False, InvalidValueError),
    ):
        with pytest.raises(error):
            await change_plan(pool, tenant_id, plan, at_once=at_once)
    with pytest.raises(NotFoundError):
        await change_plan(pool, "ten_none", "standard")
    with psycopg.connect(database_url) as connection:
        assert connection.execute("SELECT DISTINCT price_version_id FROM billing.period").fetchall() == [
            ("standard-usd-1",)
        ]
        assert connection.execute("SELECT plan FROM billing.account").fetchall() == [("standard",)]
    await change_plan(pool, tenant_id, "next", at_once=False)


async def test_a_cap_in_money_is_refused_as_long_as_the_month_had_volume_prices(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await account_now(pool)
    await add_plan(pool, "volume", {"intent.calls": {"model": "volume", "tiers": [{"price": "1"}]}})
    await change_plan(pool, tenant_id, "volume")
    await change_plan(pool, tenant_id, "standard")
    with pytest.raises(MoneyCapError):
        await set_caps(pool, tenant_id, {MONEY: 10**9})


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE billing.period_segment SET ends_at = now()",
        "DELETE FROM billing.segment_counter",
        "TRUNCATE billing.period_segment CASCADE",
    ],
)
async def test_a_segment_that_ended_never_changes(database_url: str, pool: Pool, change: str) -> None:
    tenant_id = await account_now(pool)
    await add_plan(pool, "pro")
    await change_plan(pool, tenant_id, "pro")
    with (
        pytest.raises(psycopg.errors.IntegrityConstraintViolation),
        psycopg.connect(database_url) as connection,
    ):
        connection.execute(change.encode())


async def test_a_month_has_a_bound_of_changes(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.plan_changes._MOST_SEGMENTS", 3)
    tenant_id = await account_now(pool)
    await add_plan(pool, "pro")
    await change_plan(pool, tenant_id, "pro")
    await change_plan(pool, tenant_id, "standard")
    with pytest.raises(InvalidValueError, match="too often"):
        await change_plan(pool, tenant_id, "pro")


async def test_a_later_price_of_the_new_plan_is_taken_by_the_next_month(pool: Pool) -> None:
    tenant_id = await account_now(pool)
    await add_plan(pool, "pro")
    await change_plan(pool, tenant_id, "pro")
    (made,) = await load(pool, price("pro", minimum="1"), now=now())
    assert (made.tenants, made.months) == (1, 1)


def _next_month() -> datetime:
    return (now().replace(day=1) + timedelta(days=32)).replace(day=1)


async def _until_waiting(admin: psycopg.Connection, count: int) -> None:
    waits = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    async with asyncio.timeout(5):
        while admin.execute(waits).fetchone() != (count,):
            await asyncio.sleep(0.005)
