"""What the system itself shows, from outside: usage rows by SQL, its reconciliation, its database's log."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from tests.faults.judge import Row, Tier
from tests.stack import Stack

_READ_TIMEOUT_S = 30.0
_READ_AGAIN_S = 0.3


def read_rows(database_url: str, since_s: float, until_s: float | None = None) -> list[Row]:
    """Usage rows of all calls that began from `since_s` to `until_s` (Unix seconds), whoever made them.

    Call ids are UUIDs version 7 (RFC 9562, section 5.7): they begin with their Unix milliseconds.
    """
    bounds = [_first_id(since_s), _first_id(until_s if until_s is not None else time.time() + 1)]
    query = """
        SELECT replace(call_id::text, '-', ''), slice, entry, calls, units, tenant_id, key_id, meter
        FROM billing.usage_row WHERE call_id >= %s AND call_id < %s
    """
    return [Row(*row) for row in _query(database_url, query, bounds)]


def read_tiers(database_url: str, price_version_id: str, meter: str) -> list[Tier]:
    """A meter's tiers, the first first."""
    query = """
        SELECT tier.up_to_units, tier.nanos, price.per_units
        FROM billing.price_tier tier JOIN billing.meter_price price USING (price_version_id, meter)
        WHERE price_version_id = %s AND meter = %s ORDER BY tier.tier
    """
    return [Tier(*row) for row in _query(database_url, query, [price_version_id, meter])]


def reconcile(stack: Stack) -> list[str]:
    """What `aiaas reconcile` finds wrong."""
    done = stack.run_cli("reconcile", "--json")
    if done.returncode == 0:
        return []
    return [
        f"aiaas reconcile ended with status {done.returncode}: {(done.stdout + done.stderr).strip()[:500]}"
    ]


class ServerLog:
    """PostgreSQL's log from now on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begin = path.stat().st_size

    def deadlocks(self) -> list[str]:
        """Deadlocks that PostgreSQL had to break."""
        with self._path.open("rb") as log:
            log.seek(self._begin)
            count = log.read().count(b"deadlock detected")
        return [f"PostgreSQL detected {count} deadlocks"] if count else []


def _first_id(at_s: float) -> UUID:
    return UUID(int=int(at_s * 1000) << 80)


def _query(database_url: str, query: str, parameters: Sequence[object]) -> list[tuple[Any, ...]]:
    """Ask, again while the server is coming back."""
    deadline = time.monotonic() + _READ_TIMEOUT_S
    while True:
        try:
            with psycopg.connect(database_url, autocommit=True, connect_timeout=5) as connection:
                return connection.execute(query, parameters).fetchall()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_READ_AGAIN_S)
