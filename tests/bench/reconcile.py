"""How long `reconcile` takes, and what it costs the charges: `python -m tests.bench.reconcile [--rows N]`.

Fills a server of its own with months of usage, spread unevenly over 40 tenants (one has a fifth of it), then
reconciles twice: alone, and with charges going on; the charge rate beside it is given as a ratio to that
before it.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from billing.reconcile import reconcile
from infra.database import Pool, open_pool
from infra.migrations import migrate
from infra.postgres import EmbeddedPostgres
from tests.billing_world import add_account, charge, open_ledger

TENANTS = 40
CALLERS = 32
_ROWS = """
    INSERT INTO billing.usage_row (call_id, slice, entry, calls, units, units_before, occurred_at, tenant_id,
                                   key_id, period, meter, model, engine, is_late)
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
            || substr(md5(n || %(tenant_id)s), 1, 3) || '8' || substr(md5(n || %(tenant_id)s), 4, 15))::uuid,
           0, 0, 1, 3, 3 * (n - 1), at, %(tenant_id)s, 'key_' || n %% 5, %(period)s, 'intent.calls',
           'retail-en', 'minilm', false
    FROM generate_series(1, %(rows)s) AS n
    CROSS JOIN LATERAL (
        SELECT %(starts_at)s::timestamptz + n::float * %(spread_s)s / %(rows)s * interval '1 second'
    ) AS moment (at)
"""
_TOTALS = """
    WITH counted AS (
        UPDATE billing.period_counter counter SET calls = used.calls, units = used.units
        FROM (SELECT tenant_id, period, meter, count(*) AS calls, sum(units)::bigint AS units
              FROM billing.usage_row GROUP BY 1, 2, 3) AS used
        WHERE (counter.tenant_id, counter.period, counter.meter) = (used.tenant_id, used.period, used.meter)
    )
    INSERT INTO billing.hourly_usage (tenant_id, period, hour, meter, key_id, calls, units)
    SELECT tenant_id, period, date_trunc('hour', occurred_at, 'UTC'), meter, key_id, count(*), sum(units)
    FROM billing.usage_row GROUP BY 1, 2, 3, 4, 5
"""


async def fill(pool: Pool, rows: int, now: datetime) -> None:
    """`rows` usage rows in the present month, with the counters and roll-ups they come to."""
    async with pool.connection() as connection:
        for number in range(TENANTS):
            tenant_id = await add_account(pool, "UTC", now)
            share = rows // 5 if number == 0 else rows * 4 // 5 // (TENANTS - 1)
            starts_at = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
            spread_s = max(1, int((now - starts_at).total_seconds()))
            values = {"tenant_id": tenant_id, "rows": share, "starts_at": starts_at, "spread_s": spread_s}
            await connection.execute(_ROWS, {**values, "period": now.strftime("%Y-%m")})
        await connection.execute(_TOTALS)
        await connection.execute("VACUUM ANALYZE")


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


async def run(url: str, rows: int) -> None:
    await migrate(url)
    pool = await open_pool(url, 4, "aiaas-bench")
    now = datetime.now(UTC)
    began = time.monotonic()
    await fill(pool, rows, now)
    print(f"{rows} rows filled in {time.monotonic() - began:.0f} s", flush=True)

    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.monotonic()
    found = await reconcile(pool)
    took_s = time.monotonic() - began
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    assert found.difference == 0, found
    print(
        f"reconciled {found.usage_rows} rows in {took_s:.1f} s; {grown_mib:.0f} MiB more memory", flush=True
    )

    busy = [await add_account(pool, "UTC", now) for _ in range(8)]
    stop = asyncio.Event()
    asyncio.get_running_loop().call_later(5, stop.set)
    alone = await charges_a_second(url, busy, stop)
    stop = asyncio.Event()
    charging = asyncio.create_task(charges_a_second(url, busy, stop))
    await asyncio.sleep(0.5)
    began = time.monotonic()
    found = await reconcile(pool)
    took_s = time.monotonic() - began
    stop.set()
    beside = await charging
    assert found.difference == 0, found
    print(f"with charges going on: {took_s:.1f} s; charges {beside / alone:.2f} of {alone:.0f} a second")
    await pool.close()


def main() -> None:
    """Run it over a server of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            asyncio.run(run(server.url, rows))
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
