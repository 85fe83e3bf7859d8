"""The ledger: calls ready at the same moment are charged together, each answered when it is committed.

Group commit. A pump takes everything that waits, up to a limit, and charges it in one round trip; while that
commit is under way the next batch gathers. A charge never waits for company.

What goes wrong stays with whom it concerns. A batch that fails is tried again tenant by tenant, then charge
by charge. A tenant whose account another transaction holds beyond the lock timeout is set aside: a second
pump with a connection of its own tries it until it is let in, and the others go on. A broken connection is
made anew and the same ids are sent again: what is there already was charged.

A charged call is in flight until `answered` says that its answer has left. What is in flight is recorded
with every batch; what stays so, because the caller left before the charge was confirmed, because a stream
broke, or because this worker died, is taken back: a customer pays for answers.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final
from uuid import UUID

from psycopg import OperationalError

from billing.charge_connection import ChargeConnection
from billing.charges import (
    CapReachedError,
    Charge,
    Charged,
    KeptAnswer,
    KeptRequest,
    LedgerOverloadedError,
    LedgerUnavailableError,
    check_charge,
)
from billing.dead_sessions import DeadSessions
from billing.headroom import Headroom
from billing.pump import Pump, Waiting
from billing.store.charges import Entry, entry_of
from infra.database import unreachable
from infra.logs import event
from infra.telemetry import Telemetry

_VOID_TIMEOUT_S: Final = 5.0


class Ledger:
    """Charges calls on behalf of one gateway worker. One event loop; any number of callers.

    Args:
        database_url: where the schema `billing` is.
        charge_timeout_s: how long a caller waits while the server is away or its tenant is locked.
        batch_limit: charges in one commit, at most.
        queue_limit: charges that wait, at most; a quarter of it for tenants that are set aside.
        lock_timeout_ms: how long a batch waits for a lock before it is tried tenant by tenant.
        close_timeout_s: how long `close` lets waiting charges finish.
        grace_s: how long another worker is dead before its unanswered calls are taken back.
    """

    def __init__(
        self,
        database_url: str,
        telemetry: Telemetry,
        *,
        charge_timeout_s: float = 20.0,
        batch_limit: int = 512,
        queue_limit: int = 8192,
        lock_timeout_ms: int = 250,
        close_timeout_s: float = 10.0,
        grace_s: float = 10.0,
    ) -> None:
        self._telemetry = telemetry
        self._charge_timeout_s = charge_timeout_s
        self._batch_limit = batch_limit
        self._queue_limit = queue_limit
        self._close_timeout_s = close_timeout_s
        self._connection = ChargeConnection(database_url, "aiaas-ledger", lock_timeout_ms)
        self._side_connection = ChargeConnection(database_url, "aiaas-ledger-locked", lock_timeout_ms)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pump: Pump | None = None
        self._side_pump: Pump | None = None
        self._set_aside: Counter[str] = Counter()
        self._headroom = Headroom(database_url)
        own = (self._connection.session_id, self._side_connection.session_id)
        self._dead_sessions = DeadSessions(database_url, own, telemetry, grace_s)
        self._is_open = False

    async def start(self) -> None:
        """Connect and begin to charge.

        Raises:
            StartupError: the server cannot be reached.
        """
        try:
            await self._connection.open()
        except OperationalError as error:
            raise unreachable(error) from None
        self._loop = asyncio.get_running_loop()
        self._pump = self._new_pump(self._connection, self._move_aside)
        self._side_pump = self._new_pump(self._side_connection, self._wait_aside)
        self._headroom.start()
        self._dead_sessions.start()
        self._telemetry.watch_queue("ledger", self.depth)
        self._is_open = True

    @property
    def session_id(self) -> int:
        """What this worker is known by while it lives; see `billing.charge_connection`."""
        return self._connection.session_id

    async def charge(
        self, charge: Charge, keep: KeptAnswer | KeptRequest | None = None, *, is_known: bool = False
    ) -> Charged:
        """Charge one call; returns when its row is committed. Sent again with the same id, it counts once.

        The call is in flight then: see `answered` and `void`.

        Args:
            keep: the answer, or the request alone, kept in the same transaction for repeats of the request.
            is_known: the id comes from an earlier request. Where another worker has charged it and not
                answered it yet, the call is this one's now; where it is answered, the charge stands.

        Raises:
            InvalidValueError: the charge's meter, units or moment cannot be charged.
            UnknownAccountError: the tenant has no billing account.
            CallIdReusedError: another call was charged under this id.
            CapReachedError: the call would pass a cap; a repeat of a charged call never does.
            ChargeRejectedError: the database refuses this charge.
            LedgerOverloadedError: the queue is full.
            LedgerUnavailableError: not confirmed within `charge_timeout_s`, or the ledger is closed.
        """
        check_charge(charge)
        entry = entry_of(charge, keep, is_known)
        waiting = self._waiting(entry)
        self._add(waiting)
        try:
            charged = await waiting.answer
        except CapReachedError as error:
            self._headroom.note_refused(charge, error.cap)
            raise
        if not charged.is_repeat:
            self._headroom.note_charged(charge)
        return charged

    def answered(self, call_id: UUID) -> None:
        """The call's answer has left: it stays charged, whatever becomes of this worker."""
        self._connection.land((call_id,))
        self._side_connection.land((call_id,))

    async def void(self, charge: Charge, units: int | None = None) -> None:
        """Take a call back that was charged here and is not answered, wholly or `units` of it.

        Returns when that is committed, or after some seconds: it is done all the same, by this worker as
        soon as the server answers, or by another one when this one dies.
        """
        entry = entry_of(charge)
        waiting = self._take_back(entry, "answer_failed", units)
        if waiting:
            await asyncio.wait([one.answer for one in waiting], timeout=_VOID_TIMEOUT_S)

    def hold(self, tenant_id: str, key_id: str, meter: str, units: int = 1) -> AbstractContextManager[None]:
        """Keep room under the caps for a call while it is served and charged, in this worker's own view.

        No round trip. What is certain is decided by `charge`; this spares the work for calls that it would
        refuse. `units`: as many as are known before the work.

        Raises:
            CapReachedError: the view says that the call would pass a cap.
        """
        return self._headroom.hold(tenant_id, key_id, meter, units)

    def depth(self) -> int:
        """How many charges wait for their commit."""
        return sum(pump.depth() for pump in (self._pump, self._side_pump) if pump)

    async def close(self) -> None:
        """Take no more charges, finish those that wait within `close_timeout_s`, refuse the rest."""
        self._is_open = False
        await self._headroom.close()
        await self._dead_sessions.close()
        for pump in (self._pump, self._side_pump):
            if pump is not None:
                await pump.close(self._close_timeout_s)

    def _add(self, waiting: Waiting) -> None:
        if self._pump is None or not self._is_open:
            raise LedgerUnavailableError("The ledger is not open. Try again.")
        if waiting.entry.tenant_id in self._set_aside:
            self._add_aside(waiting)
        elif self._pump.depth() >= self._queue_limit:
            raise LedgerOverloadedError("Too many calls are waiting to be recorded. Try again.")
        else:
            self._pump.add(waiting)

    def _add_aside(self, waiting: Waiting) -> None:
        """Queue a charge of a tenant that is set aside; when its last one is settled, the tenant is back."""
        assert self._side_pump is not None
        if self._side_pump.depth() >= self._queue_limit // 4:
            raise LedgerOverloadedError("Too many of your calls are waiting to be recorded. Try again.")
        tenant_id = waiting.entry.tenant_id
        self._set_aside[tenant_id] += 1

        def settled(_: asyncio.Future[Charged]) -> None:
            self._set_aside[tenant_id] -= 1
            if not self._set_aside[tenant_id]:
                del self._set_aside[tenant_id]

        waiting.answer.add_done_callback(settled)
        self._side_pump.add(waiting)

    def _move_aside(self, batch: list[Waiting]) -> None:
        """Hand a locked tenant's charges to the second pump, those that wait in the first one too."""
        assert self._pump is not None
        tenant_id = batch[0].entry.tenant_id
        event("ledger", logging.WARNING, "tenant_locked", {"tenant_id": tenant_id, "calls": len(batch)})
        for one in (*batch, *self._pump.withdraw(tenant_id)):
            try:
                if not one.answer.done():
                    self._add_aside(one)
            except LedgerOverloadedError as error:
                one.refuse(error)

    def _wait_aside(self, batch: list[Waiting]) -> None:
        """Let other tenants that are set aside try first; the callers' own time-outs end it."""
        assert self._side_pump is not None
        for one in batch:
            if not one.answer.done():
                self._side_pump.add(one)

    def _take_back(
        self, entry: Entry, reason: str = "caller_left", units: int | None = None
    ) -> list[Waiting]:
        """Queue the void of a call with each session that may have charged it; one of them will have."""
        queued = list[Waiting]()
        for pump in (self._pump, self._side_pump):
            if pump is not None and pump.connection.is_in_flight(entry.call_id):
                queued.append(self._queue_void(pump, entry, units))
        if queued:
            self._telemetry.count_voids(reason, 1)
        return queued

    def _queue_void(self, pump: Pump, entry: Entry, units: int | None) -> Waiting:
        """Have a call taken back from a pump's session; it is in flight of it until that is done."""
        void = self._waiting(_void(entry, pump.connection.session_id, units))

        def settled(answer: asyncio.Future[Charged]) -> None:
            if not answer.cancelled() and answer.exception() is None:
                pump.connection.land((entry.call_id,))

        void.answer.add_done_callback(settled)
        pump.add(void)
        return void

    def _waiting(self, entry: Entry) -> Waiting:
        assert self._loop is not None
        return Waiting(entry, self._loop.create_future(), self._loop.time() + self._charge_timeout_s)

    def _new_pump(self, connection: ChargeConnection, on_locked: Callable[[list[Waiting]], None]) -> Pump:
        return Pump(connection, self._batch_limit, self._telemetry, on_locked, self._take_back)


def _void(entry: Entry, session_id: int, units: int | None) -> Entry:
    return Entry(
        call_id=entry.call_id,
        slice=entry.slice,
        tenant_id=entry.tenant_id,
        key_id=entry.key_id,
        meter=entry.meter,
        units=-(entry.units if units is None else units),
        model=entry.model,
        engine=entry.engine,
        occurred_at=entry.occurred_at,
        voided_from=session_id,
    )
