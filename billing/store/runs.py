"""Runs of a month, as they are kept."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal

import msgspec
from psycopg import sql
from psycopg.rows import class_row

from infra.database import Connection

RunState = Literal["waiting", "sealing", "drafting", "done", "failed", "replaced"]


class InvoiceRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run of a month.

    Attributes:
        requested_by: who prepares the invoices that it makes or changes.
        after_tenant: all tenants up to this one have their invoice.
        tenants_done: of `tenants_total`; while it is sealing, how many months were sealed for it.
        months_open: how many of its invoices are drafts only, since their month was not closed; at the end.
        failures: how often it broke off; `last_error` says why, the last time.
        replaced_by: the later run of the same month that took its place.
    """

    run_id: str
    period: str
    requested_by: str
    requested_at: datetime
    state: RunState
    after_tenant: str
    tenants_done: int
    tenants_total: int | None
    months_open: int | None
    started_at: datetime | None
    finished_at: datetime | None
    failures: int
    last_error: str | None
    replaced_by: str | None


_COLUMNS = sql.SQL(", ").join(map(sql.Identifier, InvoiceRun.__struct_fields__))
_READ = sql.SQL("SELECT {columns} FROM billing.invoice_run WHERE run_id = %(run_id)s").format(
    columns=_COLUMNS
)
_LOCK = sql.SQL("{read} FOR UPDATE").format(read=_READ)
_INSERT = sql.SQL(
    """
    INSERT INTO billing.invoice_run (run_id, period, requested_by)
    VALUES (%(run_id)s, %(period)s, %(requested_by)s) RETURNING {columns}
    """
).format(columns=_COLUMNS)
_ADVANCE = sql.SQL(
    """
    UPDATE billing.invoice_run run
    SET tenants_done = tenants_done + %(count)s, after_tenant = greatest(after_tenant, %(last)s),
        state = CASE WHEN %(is_last)s THEN 'done' ELSE state END,
        finished_at = CASE WHEN %(is_last)s THEN clock_timestamp() END,
        months_open = CASE WHEN %(is_last)s THEN (
            SELECT count(*) FROM billing.invoice
            WHERE invoice.period = run.period AND NOT invoice.period_complete) END
    WHERE run_id = %(run_id)s RETURNING {columns}
    """
).format(columns=_COLUMNS)


async def replace_run(connection: Connection, run_id: str, period: str, requested_by: str) -> InvoiceRun:
    """Add a run in the place of the one at hand of that month, if there is one. In a transaction."""
    given = {"run_id": run_id, "period": period, "requested_by": requested_by}
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('billing.invoice_run'))")
    await connection.execute(
        """
        UPDATE billing.invoice_run
        SET state = 'replaced', finished_at = clock_timestamp(), replaced_by = %(run_id)s
        WHERE period = %(period)s AND finished_at IS NULL
        """,
        given,
    )
    return await _one(connection, _INSERT, given)


async def read_run(connection: Connection, run_id: str) -> InvoiceRun | None:
    """One run by its id."""
    async with connection.cursor(row_factory=class_row(InvoiceRun)) as cursor:
        await cursor.execute(_READ, {"run_id": run_id})
        return await cursor.fetchone()


async def lock_run(connection: Connection, run_id: str) -> InvoiceRun:
    """One run that is there, locked until the transaction ends: its next page is taken."""
    return await _one(connection, _LOCK, {"run_id": run_id})


async def read_due(connection: Connection, limit: int) -> list[str]:
    """The runs at hand that are due, the oldest first."""
    cursor = await connection.execute(
        """
        SELECT run_id FROM billing.invoice_run
        WHERE finished_at IS NULL AND due_at <= now() ORDER BY requested_at LIMIT %(limit)s
        """,
        {"limit": limit},
    )
    return [str(run_id) for (run_id,) in await cursor.fetchall()]


async def set_sealing(connection: Connection, run_id: str) -> None:
    """Note that a run was begun, if it was not."""
    await connection.execute(
        """
        UPDATE billing.invoice_run SET state = 'sealing', started_at = clock_timestamp()
        WHERE run_id = %(run_id)s AND state = 'waiting'
        """,
        {"run_id": run_id},
    )


async def add_sealed(connection: Connection, run_id: str, months: int) -> None:
    """Note that so many months more were sealed for a run."""
    await connection.execute(
        """
        UPDATE billing.invoice_run SET tenants_done = tenants_done + %(months)s
        WHERE run_id = %(run_id)s AND state = 'sealing'
        """,
        {"run_id": run_id, "months": months},
    )


async def set_drafting(connection: Connection, run_id: str, tenants_total: int) -> None:
    """Note that a run's months are sealed, if it was not noted."""
    await connection.execute(
        """
        UPDATE billing.invoice_run SET state = 'drafting', tenants_done = 0, tenants_total = %(total)s
        WHERE run_id = %(run_id)s AND state = 'sealing'
        """,
        {"run_id": run_id, "total": tenants_total},
    )


async def advance(
    connection: Connection, run_id: str, tenant_ids: Sequence[str], *, is_last: bool
) -> InvoiceRun:
    """Note a page of tenants as done. Under `lock_run`, in the transaction that made their invoices."""
    return await _one(
        connection,
        _ADVANCE,
        {
            "run_id": run_id,
            "count": len(tenant_ids),
            "last": tenant_ids[-1] if tenant_ids else "",
            "is_last": is_last,
        },
    )


async def add_failure(
    connection: Connection, run_id: str, error: str, most_failures: int, pause_s: int
) -> None:
    """Note that a run broke off: due again after a pause, which grows; after too many, it is given up."""
    await connection.execute(
        """
        UPDATE billing.invoice_run
        SET failures = failures + 1, last_error = %(error)s,
            due_at = now() + (failures + 1) * %(pause_s)s * interval '1 second',
            state = CASE WHEN failures + 1 >= %(most)s THEN 'failed' ELSE state END,
            finished_at = CASE WHEN failures + 1 >= %(most)s THEN clock_timestamp() END
        WHERE run_id = %(run_id)s AND finished_at IS NULL
        """,
        {"run_id": run_id, "error": error, "most": most_failures, "pause_s": pause_s},
    )


async def _one(connection: Connection, query: sql.Composed, given: Mapping[str, object]) -> InvoiceRun:
    async with connection.cursor(row_factory=class_row(InvoiceRun)) as cursor:
        await cursor.execute(query, given)
        found = await cursor.fetchone()
    assert found is not None, "a run that is worked on is there"
    return found
