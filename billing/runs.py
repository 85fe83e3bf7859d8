"""Runs of a month: asked for, worked on by whoever is there (`billing.drafts`), and looked at.

    waiting -> sealing -> drafting -> done
                                      failed    broke off too often
                                      replaced  somebody asked for another run of the month

A run is a row, and what is done of it is on the row: any process carries it on, after any crash. The billing
worker looks for runs by the clock; a command works on its own, whether there is a worker or not. A new run of
a month takes the place of one that is not finished: something may have changed for those that it has passed.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from billing import audit
from billing.periods import period_labelled
from billing.store import drafts as drafts_store
from billing.store import runs as store
from billing.store.locks import set_lock_timeout
from billing.store.runs import InvoiceRun
from infra.database import Connection, Pool, borrow
from infra.errors import DomainError, InvalidValueError, NotFoundError, UnavailableError
from infra.ids import new_id

Report = Callable[[InvoiceRun], None]
MOST_FAILURES: Final = 5
_PAUSE_S: Final = 60
_MOST_AT_ONCE: Final = 100
_TIMEOUT_S: Final = 60.0
_LOCK_TIMEOUT_MS: Final = 30_000
_FIRST_CLOCK: Final = ZoneInfo("Pacific/Kiritimati")  # where each month begins first


class RunFailedError(DomainError):
    """A run broke off too often and was given up."""

    code = "invoice_run_failed"


def say_nothing(run: InvoiceRun) -> None:
    """Report to nobody."""


async def request_run(pool: Pool, period: str, actor: str, now: datetime) -> InvoiceRun:
    """Ask for a run of the month `YYYY-MM`; it takes the place of one that is not finished.

    Raises:
        InvalidValueError: the period's label, or the month has not begun on any clock.
    """
    begins_at = period_labelled(period, _FIRST_CLOCK).starts_at
    async with (
        audit.refusals_recorded(pool, actor, "run", period),
        borrow(pool, use_timeout_s=_TIMEOUT_S) as connection,
        connection.transaction(),
    ):
        if now < begins_at:
            raise InvalidValueError(f"The month {period} has not begun: there is nothing to bill.", "period")
        await set_lock_timeout(connection, _LOCK_TIMEOUT_MS)
        run = await store.replace_run(connection, new_id("run"), period, actor)
        await audit.record(connection, actor, "run", run.run_id, period=period)
        return run


async def show_run(pool: Pool, run_id: str) -> InvoiceRun:
    """One run.

    Raises:
        NotFoundError: there is no such run.
    """
    async with borrow(pool) as connection:
        return await _read(connection, run_id)


async def due_runs(pool: Pool) -> list[str]:
    """The runs that wait for somebody to work on them, the oldest first."""
    async with borrow(pool) as connection:
        return await store.read_due(connection, _MOST_AT_ONCE)


async def begin_sealing(pool: Pool, run_id: str) -> InvoiceRun:
    """Begin a run that waits; one that was begun stays as it is.

    Raises:
        NotFoundError: there is no such run.
    """
    async with borrow(pool) as connection:
        await store.set_sealing(connection, run_id)
        return await _read(connection, run_id)


async def note_sealed(pool: Pool, run_id: str, months: int) -> InvoiceRun:
    """Note how many months more were sealed."""
    async with borrow(pool) as connection:
        await store.add_sealed(connection, run_id, months)
        return await _read(connection, run_id)


async def begin_drafting(pool: Pool, run_id: str) -> InvoiceRun:
    """The months are sealed: count whose invoices are made."""
    async with borrow(pool, use_timeout_s=_TIMEOUT_S) as connection:
        run = await _read(connection, run_id)
        total = await drafts_store.count_billable_months(connection, run.period)
        await store.set_drafting(connection, run_id, total)
        return await _read(connection, run_id)


@asynccontextmanager
async def failures_noted(pool: Pool, run_id: str) -> AsyncGenerator[None]:
    """Note what goes wrong inside and let it pass on; of what is no refusal of ours, its type alone.

    Five times, and the run is given up.
    """
    try:
        yield
    except NotFoundError:
        raise
    except Exception as error:
        said = error.message if isinstance(error, DomainError) else type(error).__name__
        with suppress(UnavailableError):
            async with borrow(pool) as connection:
                await store.add_failure(connection, run_id, said[:1000], MOST_FAILURES, _PAUSE_S)
        raise


async def _read(connection: Connection, run_id: str) -> InvoiceRun:
    found = await store.read_run(connection, run_id)
    if found is None:
        raise NotFoundError("There is no such run.", "run_id")
    return found
