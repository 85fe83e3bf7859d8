"""What billing costs: `python -m tests.bench.billing [--tenants N] [--rows N]`.

Over a server of its own: 10,000 tenants, one of whom has a tenth of all usage rows, mixed over three meters
of which one is rare. Twice, with a tenth of the rows and with all of them: the run that drafts everybody's
invoice, after the months were sealed. The ratio of the two runs says whether its cost grows with the calls.
Then, over all rows: a page of calls behind a line of the large tenant's, of each meter, at the beginning and
in the middle; and the proof of its invoice, with the memory that it took here.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TypeVar

import psycopg

from billing.drafts import run_drafts
from billing.drilldown import line_calls
from billing.invoices import Invoice, InvoiceLine, list_invoices, show_invoice
from billing.proofs import verify
from billing.sealing import seal_closed_months
from infra.database import Pool, open_pool
from infra.migrations import migrate
from infra.postgres import EmbeddedPostgres

T = TypeVar("T")

PERIOD = "2025-10"
STARTS_AT, ENDS_AT = datetime(2025, 10, 1, tzinfo=UTC), datetime(2025, 11, 1, tzinfo=UTC)
LARGE = "ten_0"
PAGES = 50
_ACCOUNTS = (
    "INSERT INTO tenants.tenant (tenant_id, name) SELECT 'ten_' || n, 'Tenant ' || n FROM tenant_number",
    "INSERT INTO billing.account (tenant_id, plan, currency, time_zone)"
    " SELECT 'ten_' || n, 'standard', 'USD', 'UTC' FROM tenant_number",
    "INSERT INTO billing.profile (tenant_id, name) SELECT 'ten_' || n, 'Tenant ' || n FROM tenant_number",
    "INSERT INTO billing.period (tenant_id, period, starts_at, ends_at, time_zone, price_version_id)"
    " SELECT 'ten_' || n, %(period)s, %(starts_at)s, %(ends_at)s, 'UTC', 'standard-usd-1' FROM tenant_number",
)
# Every tenth row is the large tenant's, the others take turns. Of a hundred rows of one tenant, which fall
# into an hour, one is of speech, 19 are of texts, 80 of intents. `units_before` follows from that.
_ROWS = """
    INSERT INTO billing.usage_row (call_id, slice, entry, calls, units, units_before, occurred_at,
                                   recorded_at, tenant_id, key_id, period, meter, model, engine, is_late)
    SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
            || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
           0, 0, 1, unit, unit * before, at, at, 'ten_' || tenant, 'key_' || tenant, %(period)s, meter, model,
           engine, false
    FROM generate_series(0, %(rows)s::bigint - 1) AS n
    CROSS JOIN LATERAL (
        SELECT CASE WHEN n %% 10 = 0 THEN 0 ELSE 1 + (n / 10 * 9 + n %% 10 - 1) %% (%(tenants)s - 1) END,
               CASE WHEN n %% 10 = 0 THEN n / 10 ELSE (n / 10 * 9 + n %% 10 - 1) / (%(tenants)s - 1) END
    ) AS whose (tenant, own)
    CROSS JOIN LATERAL (
        SELECT %(starts_at)s::timestamptz + own / 100 %% 700 * interval '1 hour'
               + own %% 100 * interval '35 seconds' + own / 70000 * interval '1 millisecond'
    ) AS moment (at)
    CROSS JOIN LATERAL (
        SELECT * FROM (VALUES
            (0, 0, 'asr.audio_ms', 2500, own / 100, 'whisper-1', 'pocketsphinx-en-us'),
            (1, 19, 'tts.characters', 120, own / 100 * 19 + own %% 100 - 1, 'tts-1', 'espeak-ng'),
            (20, 99, 'intent.calls', 1, own / 100 * 80 + own %% 100 - 20, 'retail-en', 'minilm')
        ) AS kind (first, last, meter, unit, before, model, engine)
        WHERE own %% 100 BETWEEN first AND last
    ) AS kind
"""
_TOTALS = (
    """
    INSERT INTO billing.hourly_usage (tenant_id, period, hour, meter, key_id, calls, units)
    SELECT tenant_id, period, date_trunc('hour', occurred_at, 'UTC'), meter, key_id, count(*), sum(units)
    FROM billing.usage_row GROUP BY 1, 2, 3, 4, 5
    """,
    """
    INSERT INTO billing.period_counter (tenant_id, period, meter, calls, units)
    SELECT tenant_id, period, meter, sum(calls), sum(units) FROM billing.hourly_usage GROUP BY 1, 2, 3
    """,
    "UPDATE billing.period SET closed_at = now()",
    "VACUUM ANALYZE",
)


def fill(url: str, tenants: int, rows: int) -> float:
    """A closed month of usage, with the counters and roll-ups that it comes to; in how many seconds."""
    began = time.monotonic()
    given = {"rows": rows, "tenants": tenants, "period": PERIOD, "starts_at": STARTS_AT, "ends_at": ENDS_AT}
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET work_mem = '256MB'")
        connection.execute("SET maintenance_work_mem = '256MB'")
        connection.execute("SET synchronous_commit = off")
        connection.execute(
            f"CREATE TEMPORARY TABLE tenant_number AS SELECT generate_series(0, {tenants - 1}) AS n"
        )
        for statement in (*_ACCOUNTS, _ROWS, *_TOTALS):
            connection.execute(statement, given if "%(" in statement else None)
    return time.monotonic() - began


async def timed(work: Awaitable[T]) -> tuple[T, float]:
    """What came of it, and the seconds it took."""
    began = time.monotonic()
    done = await work
    return done, time.monotonic() - began


async def draft_all(url: str, tenants: int, rows: int) -> float:
    """Fill, seal, and draft; returns the seconds that the whole run took."""
    await migrate(url)
    filled_s = await asyncio.to_thread(fill, url, tenants, rows)
    pool = await open_pool(url, 4, "aiaas-bench")
    sealed, sealed_s = await timed(seal_closed_months(pool))
    drafted, drafted_s = await timed(run_drafts(pool, PERIOD))
    assert (sealed, len(drafted)) == (tenants, tenants)
    assert all(one.status == "in_review" for one in drafted)
    again, again_s = await timed(run_drafts(pool, PERIOD))
    assert [one.invoice_id for one in again] == [one.invoice_id for one in drafted]
    print(
        f"{tenants} tenants, {rows} rows (filled in {filled_s:.0f} s): sealed in {sealed_s:.1f} s "
        f"({rows / sealed_s:.0f} rows/s), the draft run {drafted_s:.2f} s, once more {again_s:.2f} s",
        flush=True,
    )
    await pool.close()
    return drafted_s


async def page_ms(pool: Pool, invoice: Invoice, line: InvoiceLine, skipped: int) -> float:
    """A page of a hundred calls, in milliseconds: the median over pages that follow so many rows."""
    times_s: list[float] = []
    async with pool.connection() as connection:
        cursor = await connection.execute(
            "SELECT call_id FROM billing.usage_row WHERE tenant_id = %s AND period = %s AND meter = %s"
            " ORDER BY call_id OFFSET %s LIMIT 1",
            [LARGE, PERIOD, line.meter, skipped],
        )
        row = await cursor.fetchone()
    assert row is not None
    after = f"{row[0].hex}.0.0"
    while after is not None and len(times_s) < PAGES:
        page, took_s = await timed(line_calls(pool, invoice.invoice_id, line.line, after=after))
        after = page.next
        times_s.append(took_s)
    return median(times_s) * 1000


async def drill_down(url: str) -> None:
    """Pages of the large tenant's calls, and the proof of its invoice."""
    pool = await open_pool(url, 4, "aiaas-bench")
    (one,) = await list_invoices(pool, LARGE)
    invoice = await show_invoice(pool, one.invoice_id)
    for line in invoice.lines:
        first = await page_ms(pool, invoice, line, 0)
        late = await page_ms(pool, invoice, line, line.row_count // 2)
        print(
            f"a page of the {line.row_count:>7} calls of {line.meter:<15}: at the beginning {first:5.1f} ms, "
            f"in the middle {late:5.1f} ms"
        )
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    proof, took_s = await timed(verify(pool, invoice.invoice_id))
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    assert proof.ok, proof.differences
    print(f"verify over {proof.usage_rows} rows: {took_s:.1f} s, {grown_mib:.0f} MiB more memory here")
    await pool.close()


async def run(server_url: str, tenants: int, rows: int) -> None:
    with psycopg.connect(server_url, autocommit=True) as admin:
        for name in ("bench_tenth", "bench_all"):
            admin.execute(f"CREATE DATABASE {name}")
    base = server_url.rsplit("/", 1)[0]
    tenth_s = await draft_all(f"{base}/bench_tenth", tenants, rows // 10)
    all_s = await draft_all(f"{base}/bench_all", tenants, rows)
    print(f"the draft run over ten times the rows takes {all_s / tenth_s:.2f} times as long", flush=True)
    await drill_down(f"{base}/bench_all")


def main() -> None:
    """Run it over a server of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            asyncio.run(run(server.url, given.tenants, given.rows))
        finally:
            server.stop()


if __name__ == "__main__":
    sys.exit(main())
