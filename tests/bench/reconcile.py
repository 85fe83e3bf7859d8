"""How long `reconcile` takes, and what it costs the charges: `python -m tests.bench.reconcile [--rows N]`.

Fills a server of its own with a month of usage, spread unevenly over 40 tenants (one has a fifth of it, and a
key with a cap), whose rows lie as they would have come: mixed, by time. Reconciles alone first, then in turns
with charges alone and charges beside it; the charge rate beside it is given as a ratio to that of the turn
alone before it. The longest snapshot is watched by another connection.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from billing.reconcile import reconcile
from infra.database import Pool, connect, open_pool
from infra.migrations import migrate
from infra.postgres import EmbeddedPostgres
from tests.billing_world import add_account, charge, open_ledger

TENANTS = 40
CALLERS = 32
ALONE_S = 5.0
_NAME = "aiaas-bench-reconcile"
# Every fifth row is the first tenant's, the others take turns; `own` counts a tenant's rows.
_ROWS = """
    INSERT INTO billing.usage_row (call_id, slice, entry, calls, units, units_before, occurred_at,
                                   recorded_at, tenant_id, key_id, period, meter, model, engine, is_late)
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
            || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
           0, 0, 1, 3, 3 * own, at, at, (%(tenant_ids)s::text[])[1 + tenant], 'key_' || own %% 5, %(period)s,
           'intent.calls', 'retail-en', 'minilm', false
    FROM generate_series(0, %(rows)s - 1) AS n
    CROSS JOIN LATERAL (
        SELECT %(starts_at)s::timestamptz + n::float * %(spread_s)s / %(rows)s * interval '1 second',
               CASE WHEN n %% 5 = 0 THEN 0 ELSE 1 + (n / 5 * 4 + n %% 5) %% (%(tenants)s - 1) END,
               CASE WHEN n %% 5 = 0 THEN n / 5 ELSE (n / 5 * 4 + n %% 5) / (%(tenants)s - 1) END
    ) AS given (at, tenant, own)
"""
_TOTALS = """
    WITH used AS MATERIALIZED (
        SELECT tenant_id, period, date_trunc('hour', occurred_at, 'UTC') AS hour, meter, key_id,
               count(*) AS calls, sum(units)::bigint AS units
        FROM billing.usage_row GROUP BY 1, 2, 3, 4, 5
    ), counted AS (
        UPDATE billing.period_counter counter SET calls = used.calls, units = used.units
        FROM (SELECT tenant_id, period, meter, sum(calls)::bigint AS calls, sum(units)::bigint AS units
              FROM used GROUP BY 1, 2, 3) AS used
        WHERE (counter.tenant_id, counter.period, counter.meter) = (used.tenant_id, used.period, used.meter)
    )
    INSERT INTO billing.hourly_usage (tenant_id, period, hour, meter, key_id, calls, units)
    SELECT tenant_id, period, hour, meter, key_id, calls, units FROM used
"""
_KEY_COUNTER = """
    INSERT INTO billing.key_counter (tenant_id, period, key_id, meter, units, rated)
    SELECT tenant_id, period, usage.key_id, usage.meter, sum(usage.units),
           sum(billing.rate(price.up_to_units, price.nanos, usage.units_before + usage.units)
               - billing.rate(price.up_to_units, price.nanos, usage.units_before))
    FROM billing.usage_row usage
    JOIN billing.period USING (tenant_id, period)
    JOIN billing.meter_prices(period.price_version_id) price ON price.meter = usage.meter
    WHERE tenant_id = %s AND usage.key_id = 'key_0' GROUP BY 1, 2, 3, 4
"""
_SNAPSHOT_AGE = """
    SELECT coalesce(extract(epoch FROM max(clock_timestamp() - xact_start)), 0)::float
    FROM pg_stat_activity WHERE application_name = %s AND state <> 'idle'
"""


async def fill(pool: Pool, rows: int, now: datetime) -> None:
    """`rows` usage rows in the present month, with the counters and roll-ups they come to."""
    tenant_ids = [await add_account(pool, "UTC", now) for _ in range(TENANTS)]
    starts_at = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    values = {
        "tenant_ids": tenant_ids,
        "tenants": TENANTS,
        "rows": rows,
        "period": now.strftime("%Y-%m"),
        "starts_at": starts_at,
        "spread_s": max(1, int((now - starts_at).total_seconds())),
    }
    async with pool.connection() as connection:
        await connection.execute(_ROWS, values)
        await connection.execute("SET work_mem = '256MB'")
        await connection.execute(_TOTALS)
        await connection.execute(_KEY_COUNTER, [tenant_ids[0]])
        await connection.execute("RESET work_mem")
        await connection.execute("VACUUM ANALYZE")


class Longest:
    """The longest that a snapshot of reconciling was seen to last."""

    seconds = 0.0


@asynccontextmanager
async def watching(url: str) -> AsyncIterator[Longest]:
    """Look every 20 ms how long the statement at hand has been running."""
    longest = Longest()

    async def look() -> None:
        async with await connect(url, "aiaas-bench-watch") as connection:
            while True:
                cursor = await connection.execute(_SNAPSHOT_AGE, [_NAME])
                row = await cursor.fetchone()
                longest.seconds = max(longest.seconds, row[0] if row else 0.0)
                await asyncio.sleep(0.02)

    task = asyncio.create_task(look())
    try:
        yield longest
    finally:
        task.cancel()


async def charges_a_second(url: str, tenants: list[str], stop: asyncio.Event) -> float:
    """Charge until told to stop."""
    count, began = 0, time.monotonic()
    async with open_ledger(url) as ledger:

        async def call(number: int) -> None:
            nonlocal count
            while not stop.is_set():
                one = charge(tenants[number % len(tenants)], at=datetime.now(UTC))
                await ledger.charge(one)
                ledger.answered(one.call_id)
                count += 1

        await asyncio.gather(*(call(number) for number in range(CALLERS)))
        return count / (time.monotonic() - began)


async def charges_beside(url: str, tenants: list[str], pool: Pool) -> tuple[float, float]:
    """Charges a second while everything is reconciled once, and how long that took."""
    stop = asyncio.Event()
    charging = asyncio.create_task(charges_a_second(url, tenants, stop))
    began = time.monotonic()
    found = await reconcile(pool)
    took_s = time.monotonic() - began
    stop.set()
    assert found.difference == 0, found
    return await charging, took_s


async def run(url: str, rows: int, turns: int) -> None:
    await migrate(url)
    pool = await open_pool(url, 4, _NAME)
    now = datetime.now(UTC)
    began = time.monotonic()
    await fill(pool, rows, now)
    print(f"{rows} rows filled in {time.monotonic() - began:.0f} s", flush=True)

    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    async with watching(url) as longest:
        found = await reconcile(pool)
    took_s = time.monotonic() - began
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    assert found.difference == 0, found
    assert found.usage_rows == rows
    print(
        f"alone: {took_s:.1f} s, {rows / took_s:.0f} rows/s, longest statement {longest.seconds:.2f} s; "
        f"{grown_mib:.0f} MiB more memory",
        flush=True,
    )

    busy = [await add_account(pool, "UTC", now) for _ in range(8)]
    ratios, times = list[float](), list[float]()
    async with watching(url) as longest:
        for _ in range(turns):
            stop = asyncio.Event()
            asyncio.get_running_loop().call_later(ALONE_S, stop.set)
            alone = await charges_a_second(url, busy, stop)
            beside, took_s = await charges_beside(url, busy, pool)
            ratios.append(beside / alone)
            times.append(took_s)
            print(f"charges: {alone:.0f}/s alone, {beside:.0f}/s beside it, for {took_s:.1f} s", flush=True)
    print(
        f"beside charges: {median(times):.1f} s, {rows / median(times):.0f} rows/s, longest statement "
        f"{longest.seconds:.2f} s; charges {median(ratios):.2f} of alone (medians of {turns})"
    )
    await pool.close()


def main() -> None:
    """Run it over a server of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            asyncio.run(run(server.url, given.rows, given.turns))
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
