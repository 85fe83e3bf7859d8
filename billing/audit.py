"""Who did what with money, and what was refused to whom: an audit trail that is only ever added to.

A deed is recorded in its own transaction, so there is no deed without its record. A refusal, whose
transaction is undone, is recorded in one of its own.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final

from billing.store import audit as store
from billing.store.audit import AuditEvent, NewEvent
from infra.database import Connection, Pool, borrow
from infra.errors import DomainError, NotFoundError, RetryLaterError

WORKER: Final = "worker"
MAX_PAGE: Final = 500


async def record(connection: Connection, actor: str, action: str, subject: str, **detail: Any) -> None:
    """Note a deed, in the caller's transaction."""
    await store.insert_events(connection, [NewEvent(actor, action, subject, detail=detail)])


@asynccontextmanager
async def refusals_recorded(pool: Pool, actor: str, action: str, subject: str) -> AsyncGenerator[None]:
    """Note what is refused inside, with the refusal's code, and let it pass on.

    What is not there has no record, and what is away for now cannot be written.
    """
    try:
        yield
    except (NotFoundError, RetryLaterError):
        raise
    except DomainError as error:
        async with borrow(pool) as connection:
            event = NewEvent(actor, action, subject, refused=True, detail={"code": error.code})
            await store.insert_events(connection, [event])
        raise


async def audit_trail(
    pool: Pool, subject: str | None = None, before: int | None = None, limit: int = MAX_PAGE
) -> list[AuditEvent]:
    """Events of one subject or of all, the newest first, a page at a time: `before` is the last id of the
    page.
    """
    async with borrow(pool) as connection:
        return await store.read_events(connection, subject, before, min(limit, MAX_PAGE))
