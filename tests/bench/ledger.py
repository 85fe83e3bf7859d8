"""How many charges a second the ledger commits: `python -m tests.bench.ledger [--seconds S]`.

Three things over the same server, which it starts in a folder of its own:
    rows      one row, one durable commit, one after the other: what charging call by call would cost
    function  `billing.charge` in batches of 512, the making of the charges included
    ledger    `Ledger.charge`, one ledger a process, each with many callers who wait for their answer
Two hot tenants, and 200 tenants; without caps, with caps in money and units that leave room, and with one
that is hit: a third of the calls are refused, so all of a batch are decided one by one. The ratio is to the
rows a second of as many connections.
"""

import argparse
import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg

from billing.caps import set_caps
from billing.charges import Charge
from billing.meters import INTENT_CALLS, METERS, MONEY
from billing.store import charges as store
from infra.database import connect, open_pool
from infra.ids import uuid7
from infra.migrations import migrate
from infra.postgres import EmbeddedPostgres
from tests.billing_world import add_account, audit, open_ledger, write

BATCH = 512
ROOM = {MONEY: 10**18, **{meter.meter: 10**15 for meter in METERS}}


class Result(msgspec.Struct):
    """What one process did: how many in how long, and the single waits of its callers."""

    count: int
    elapsed_s: float
    waits_s: list[float] = []


def _charge(tenants: list[str], number: int, now: datetime) -> Charge:
    meter = METERS[number % 3].meter
    tenant_id = tenants[number // 3 % len(tenants)]
    return Charge(
        call_id=uuid7(),
        tenant_id=tenant_id,
        key_id=f"key_{tenant_id[4:]}",
        meter=meter,
        units=1 if meter == "intent.calls" else 2500,
        model="default",
        engine="pocketsphinx-en-us",
        occurred_at=now,
    )


def rows(database_url: str, _tenants: list[str], _callers: int, seconds: float) -> Result:
    with psycopg.connect(database_url, autocommit=True) as connection:
        insert = "INSERT INTO public.bench_row (call_id, units) VALUES (%s, %s)"
        count, began = 0, time.monotonic()
        while time.monotonic() - began < seconds:
            connection.execute(insert, [uuid7(), count], prepare=True)
            count += 1
        return Result(count, time.monotonic() - began)


def function(database_url: str, tenants: list[str], _callers: int, seconds: float) -> Result:
    return asyncio.run(_function(database_url, tenants, seconds))


async def _function(database_url: str, tenants: list[str], seconds: float) -> Result:
    connection = await connect(database_url, "aiaas-bench")
    await store.set_up_session(connection, lock_timeout_ms=1000, statement_timeout_ms=10_000)
    count, began = 0, time.monotonic()
    while time.monotonic() - began < seconds:
        now = datetime.now(UTC)
        batch = [_charge(tenants, count + n, now) for n in range(BATCH)]
        outcomes = await write(connection, batch)
        assert all(outcome.outcome in (store.CHARGED, store.OVER_CAP) for outcome in outcomes)
        count += BATCH
    elapsed_s = time.monotonic() - began
    await connection.close()
    return Result(count, elapsed_s)


def ledger(database_url: str, tenants: list[str], callers: int, seconds: float) -> Result:
    return asyncio.run(_ledger(database_url, tenants, callers, seconds))


async def _ledger(database_url: str, tenants: list[str], callers: int, seconds: float) -> Result:
    waits_s: list[float] = []
    async with open_ledger(database_url) as opened:
        began = time.monotonic()

        async def call(number: int) -> None:
            while (before := time.monotonic()) - began < seconds:
                charge = _charge(tenants, number, datetime.now(UTC))
                await opened.charge(charge)
                opened.answered(charge.call_id)
                waits_s.append(time.monotonic() - before)
                number += callers

        await asyncio.gather(*(call(number) for number in range(callers)))
        elapsed_s = time.monotonic() - began
    return Result(len(waits_s), elapsed_s, waits_s)


def _measure(
    work: Callable[[str, list[str], int, float], Result],
    database_url: str,
    tenants: list[str],
    connections: int,
    callers: int,
    seconds: float,
) -> tuple[float, str]:
    """Charges a second over all connections, and what the callers waited."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(connections, mp_context=context) as pool:
        runs = [pool.submit(work, database_url, tenants, callers, seconds) for _ in range(connections)]
        results = [run.result(timeout=seconds + 60) for run in runs]
    waits_s = sorted(wait for result in results for wait in result.waits_s)
    text = ""
    if waits_s:
        p50, p99 = waits_s[len(waits_s) // 2], waits_s[len(waits_s) * 99 // 100]
        text = f"p50 {p50 * 1000:6.2f} ms  p99 {p99 * 1000:6.2f} ms"
    return sum(result.count / result.elapsed_s for result in results), text


async def _prepare(database_url: str) -> dict[str, list[str]]:
    await migrate(database_url)
    pool = await open_pool(database_url, 4, "aiaas-bench")
    async with pool.connection() as connection:
        await connection.execute("CREATE TABLE public.bench_row (call_id uuid PRIMARY KEY, units bigint)")
    free = [await add_account(pool, now=datetime.now(UTC)) for _ in range(200)]
    capped = [await add_account(pool, now=datetime.now(UTC)) for _ in range(200)]
    for tenant_id in capped:
        await set_caps(pool, tenant_id, ROOM)
    full = [await add_account(pool, now=datetime.now(UTC)) for _ in range(2)]
    for tenant_id in full:
        await set_caps(pool, tenant_id, ROOM | {INTENT_CALLS: 1000})
    await pool.close()
    return {"none": free, "room": capped, "hit": full}


def run(seconds: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        server = EmbeddedPostgres(Path(folder))
        server.start()
        try:
            tenants = asyncio.run(_prepare(server.url))
            print(
                f"{'what':<10}{'connections':>12}{'tenants':>9}{'caps':>6}{'callers':>9}"
                f"{'a second':>10}{'ratio':>8}"
            )
            baseline: dict[int, float] = {}
            for work, connections, width, caps, callers in (
                (rows, 1, 0, "none", 1),
                (rows, 4, 0, "none", 1),
                (function, 1, 2, "none", 1),
                (function, 1, 2, "room", 1),
                (function, 4, 2, "none", 1),
                (function, 4, 2, "room", 1),
                (function, 4, 2, "hit", 1),
                (function, 4, 200, "none", 1),
                (function, 4, 200, "room", 1),
                (ledger, 1, 2, "none", 1),
                (ledger, 1, 2, "none", 32),
                (ledger, 1, 2, "none", 512),
                (ledger, 1, 2, "room", 512),
                (ledger, 4, 2, "none", 256),
                (ledger, 4, 2, "room", 256),
                (ledger, 4, 200, "none", 256),
            ):
                some = tenants[caps][:width]
                rate, text = _measure(work, server.url, some, connections, callers, seconds)
                if work is rows:
                    baseline[connections] = rate
                what = f"{work.__name__:<10}{connections:>12}{width:>9}{caps:>6}{callers:>9}"
                print(f"{what}{rate:>10.0f}{rate / baseline[connections]:>8.1f}  {text}", flush=True)
            calls, _ = audit(server.url)
            print(f"{calls} charges: counters and roll-ups equal the rows, to the unit")
        finally:
            server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each line is measured")
    run(parser.parse_args().seconds)
