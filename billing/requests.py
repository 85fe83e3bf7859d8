"""Requests that are known again: one logical request is one call id, however often it is sent.

A request is known by its claim: a digest of what its caller calls it, or of its body where the caller's
client only says that it tries again. Whoever claims it runs it under a lease; a repeat waits for the answer
within its own deadline. When the holder dies (its session's lock is free), fails, or its lease ends, the next
repeat runs it again under the same call id, which is charged once.

A first request of a client that tries again by itself is kept by its charge, and noted while it is served
where that takes longer than any client waits before it tries again: it waits for nothing.
"""

import asyncio
import logging
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final, TypeVar
from uuid import UUID

import msgspec

from billing.charges import KeptAnswer
from billing.store import requests as store
from billing.store.requests import ClaimRow, NotedRequest
from infra.database import Pool, borrow, delete_in_pages
from infra.errors import DomainError, RetryLaterError, UnavailableError
from infra.ids import uuid7
from infra.logs import event

T = TypeVar("T")

KEPT_S: Final = 24 * 3600.0
RETRIES_KEPT_S: Final = 600.0
MAX_KEPT_BYTES: Final = 256 * 1024
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.25
_RETRY_PAUSE_S: Final = 0.5
_GATHER_S: Final = 0.02  # notes that are written together; no client tries again so soon
_MAX_PENDING: Final = 10_000
_MAX_BATCH: Final = 1000
_EXPIRED_PER_TRANSACTION: Final = 5000


class IdempotencyKeyReusedError(DomainError):
    """The key was used for another request."""

    code = "idempotency_key_reused"


class RequestInProgressError(RetryLaterError):
    """The same request still runs elsewhere."""

    code = "idempotency_in_progress"


class Identity(msgspec.Struct, frozen=True):
    """What a request is known by.

    Attributes:
        claim: 32 bytes; equal for all repeats of the request.
        fingerprint: 32 bytes; differs where the request under the claim differs.
        kept_s: how long the request is remembered.
    """

    claim: bytes
    fingerprint: bytes
    kept_s: float


class ChargedCall(msgspec.Struct, frozen=True):
    """What an earlier run of the request was charged for."""

    key_id: str
    units: int
    model: str
    engine: str


class Claimed(msgspec.Struct, frozen=True):
    """A request that may be run now.

    Attributes:
        is_known: the call id is an earlier run's.
        charged: what that was charged for, where it came so far.
        kept: its answer, where that was kept.
    """

    call_id: UUID
    occurred_at: datetime
    is_known: bool
    charged: ChargedCall | None
    kept: KeptAnswer | None


class IdempotentRequests:
    """The requests of one worker. One event loop.

    Args:
        session_id: what the worker is known by while it lives (`Ledger.session_id`).
    """

    def __init__(self, pool: Pool, session_id: int) -> None:
        self._pool = pool
        self._session_id = session_id
        self._noted: dict[bytes, NotedRequest] = {}
        self._released: dict[bytes, UUID] = {}
        self._wake = asyncio.Event()
        self._is_closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write what is noted and released."""
        self._task = asyncio.create_task(self._write_on())

    async def close(self, timeout_s: float = 2.0) -> None:
        """Write what is pending, within `timeout_s`."""
        self._is_closing = True
        self._wake.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=timeout_s)
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def claim(self, identity: Identity, *, lease_s: float, wait_s: float) -> Claimed:
        """Claim a request, waiting up to `wait_s` while it runs elsewhere. `release` it if it fails.

        Raises:
            IdempotencyKeyReusedError: another request was made under this claim.
            RequestInProgressError: it still runs.
            UnavailableError: PostgreSQL does not answer.
        """
        fresh, occurred_at = uuid7(), datetime.now(UTC)
        deadline_s = asyncio.get_running_loop().time() + wait_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                async with borrow(self._pool) as connection:
                    row = await store.claim_request(
                        connection,
                        claim=identity.claim,
                        fingerprint=identity.fingerprint,
                        call_id=fresh,
                        occurred_at=occurred_at,
                        session_id=self._session_id,
                        lease_s=lease_s,
                        keep_s=identity.kept_s,
                    )
            except UnavailableError:
                self.release(identity, fresh)  # it may have been claimed all the same
                raise
            if row.outcome == store.MISMATCH:
                raise IdempotencyKeyReusedError(
                    "This Idempotency-Key was used for another request. Use a new key for a new request.",
                    "Idempotency-Key",
                )
            if row.outcome != store.RUNNING:
                return _claimed(identity, row, row.call_id != fresh)
            if asyncio.get_running_loop().time() + pause_s > deadline_s:
                raise RequestInProgressError(
                    "The same request is still being answered. Try again with the same key.", retry_after_s=1
                )
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def note(self, identity: Identity, call_id: UUID, occurred_at: datetime, lease_s: float) -> None:
        """Remember a request that runs now; its client may try again by itself."""
        if len(self._noted) >= _MAX_PENDING:
            event("requests", logging.WARNING, "note_dropped", {})
            return
        self._noted[identity.claim] = NotedRequest(
            claim=identity.claim,
            fingerprint=identity.fingerprint,
            call_id=call_id,
            occurred_at=occurred_at,
            lease_s=lease_s,
        )
        self._wake.set()

    def release(self, identity: Identity, call_id: UUID) -> None:
        """Let the next repeat run: this run failed."""
        if len(self._released) < _MAX_PENDING:
            self._released[identity.claim] = call_id
            self._wake.set()

    async def _write_on(self) -> None:
        while self._noted or self._released or not self._is_closing:
            if not self._noted and not self._released:
                self._wake.clear()
                await self._wake.wait()
                if not self._is_closing:
                    await asyncio.sleep(_GATHER_S)
                continue
            try:
                async with borrow(self._pool) as connection:
                    while self._noted:
                        batch = dict(list(self._noted.items())[:_MAX_BATCH])
                        await store.note_requests(
                            connection, list(batch.values()), self._session_id, RETRIES_KEPT_S
                        )
                        _drop(self._noted, batch)
                    while self._released:
                        freed = dict(list(self._released.items())[:_MAX_BATCH])
                        await store.release_requests(connection, list(freed.items()))
                        _drop(self._released, freed)
            except UnavailableError:
                await asyncio.sleep(_RETRY_PAUSE_S)
            except Exception:
                event("requests", logging.ERROR, "note_failed", {"requests": len(self._noted)}, error=True)
                self._noted.clear()
                self._released.clear()


async def forget_expired(pool: Pool) -> int:
    """Forget all requests whose time is over; returns how many. Safe to run from several processes."""
    return await delete_in_pages(
        pool,
        _EXPIRED_PER_TRANSACTION,
        lambda connection: store.delete_expired(connection, _EXPIRED_PER_TRANSACTION),
    )


def _drop(pending: dict[bytes, T], written: dict[bytes, T]) -> None:
    """Take out what was written, but for what was put there anew meanwhile."""
    for claim, value in written.items():
        if pending.get(claim) is value:
            del pending[claim]


def _claimed(identity: Identity, row: ClaimRow, is_known: bool) -> Claimed:
    charged = kept = None
    if row.outcome == store.DONE:
        assert row.key_id is not None
        assert row.units is not None
        charged = ChargedCall(row.key_id, row.units, row.model or "", row.engine or "")
        if row.body is not None:
            kept = KeptAnswer(identity.claim, row.media_type or "", row.body)
    return Claimed(row.call_id, row.occurred_at, is_known, charged, kept)
