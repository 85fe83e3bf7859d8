"""The ledger: calls ready at the same moment are charged together, each answered when it is committed.

Group commit. A pump takes everything that waits, up to a limit, and charges it in one round trip; while that
commit is under way the next batch gathers. A charge never waits for company.

What goes wrong stays with whom it concerns. A batch that fails is tried again tenant by tenant, then charge
by charge. A tenant whose counters another transaction holds beyond the lock timeout is set aside: a second
pump with a connection of its own tries it until it is let in, and the others go on. A broken connection is
made anew and the same ids are sent again: what is there already was charged.
"""

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from psycopg import OperationalError

from billing.charge_connection import ChargeConnection, Failure
from billing.charges import (
    CallIdReusedError,
    CapReachedError,
    Charge,
    Charged,
    ChargeRejectedError,
    LedgerOverloadedError,
    LedgerUnavailableError,
    UnknownAccountError,
    check_charge,
)
from billing.headroom import Headroom
from billing.store import charges as store
from billing.store.charges import Outcome
from infra.database import unreachable
from infra.errors import DomainError
from infra.logs import event
from infra.telemetry import Telemetry

_RETRIES_WHEN_UNDONE: Final = 3
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.5
_REJECTED: Final = "The ledger refuses this charge. Tell the operator the call's id."


class _Waiting:
    """A charge and the caller who waits for it. A caller that went away has a future that is done."""

    __slots__ = ("answer", "charge")

    def __init__(self, charge: Charge, answer: asyncio.Future[Charged]) -> None:
        self.charge = charge
        self.answer = answer

    def settle(self, outcome: Outcome) -> None:
        if self.answer.done():
            return
        if outcome.outcome in (store.CHARGED, store.ALREADY_CHARGED):
            assert outcome.period is not None
            assert outcome.units_before is not None
            is_repeat = outcome.outcome == store.ALREADY_CHARGED
            self.answer.set_result(Charged(outcome.period, outcome.units_before, is_repeat))
        else:
            self.refuse(_refusal(outcome))

    def refuse(self, error: DomainError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class _Pump:
    """A queue, a connection, and the task that empties the one through the other.

    Args:
        on_locked: what to do with one tenant's charges that met a lock they could not pass.
    """

    def __init__(
        self,
        connection: ChargeConnection,
        batch_limit: int,
        telemetry: Telemetry,
        on_locked: Callable[[list[_Waiting]], None],
    ) -> None:
        self._connection = connection
        self._batch_limit = batch_limit
        self._telemetry = telemetry
        self._on_locked = on_locked
        self._waiting: deque[_Waiting] = deque()
        self._in_hand: list[_Waiting] = []
        self._wake = asyncio.Event()
        self._is_closing = False
        self.task = asyncio.create_task(self._run())

    def depth(self) -> int:
        return len(self._waiting) + len(self._in_hand)

    def add(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        self._wake.set()

    def withdraw(self, tenant_id: str) -> list[_Waiting]:
        """Take a tenant's charges out of the queue."""
        withdrawn = [one for one in self._waiting if one.charge.tenant_id == tenant_id]
        self._waiting = deque(one for one in self._waiting if one.charge.tenant_id != tenant_id)
        return withdrawn

    async def close(self, timeout_s: float) -> None:
        """Charge what waits, within `timeout_s`; refuse what is left."""
        self._is_closing = True
        self._wake.set()
        await asyncio.wait([self.task], timeout=timeout_s)
        self.task.cancel()
        await asyncio.wait([self.task], timeout=timeout_s)
        for one in (*self._in_hand, *self._waiting):
            one.refuse(LedgerUnavailableError("The ledger is shutting down. Try again."))
        await self._connection.close()

    async def _run(self) -> None:
        while self._waiting or not self._is_closing:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            self._in_hand = self._take()
            try:
                await self._charge(self._in_hand)
            except Exception:
                event("ledger", logging.ERROR, "charge_failed", {"calls": len(self._in_hand)}, error=True)
                for one in self._in_hand:
                    one.refuse(LedgerUnavailableError("The charge could not be made. Try again."))
            self._in_hand = []

    def _take(self) -> list[_Waiting]:
        """The oldest charges whose callers still wait; one id is in a batch at most once."""
        taken: dict[tuple[object, int], _Waiting] = {}
        repeats: list[_Waiting] = []
        while self._waiting and len(taken) < self._batch_limit:
            one = self._waiting.popleft()
            if one.answer.done():
                continue
            if taken.setdefault((one.charge.call_id, one.charge.slice), one) is not one:
                repeats.append(one)
        self._waiting.extendleft(reversed(repeats))
        return list(taken.values())

    async def _charge(self, batch: list[_Waiting]) -> None:
        """Charge a batch; if it fails as a whole, each tenant by itself, then each charge."""
        failure = await self._try(batch)
        if failure is None:
            return
        parts = _by_tenant(batch)
        if len(parts) == 1 and failure is Failure.LOCKED:
            self._on_locked(batch)
            return
        if len(parts) == 1:
            parts = [[one] for one in batch]
        if len(parts) == 1:
            event("ledger", logging.ERROR, "charge_rejected", {"call_id": str(batch[0].charge.call_id)})
            batch[0].refuse(ChargeRejectedError(_REJECTED))
            return
        for part in parts:
            await self._charge(part)

    async def _try(self, batch: list[_Waiting]) -> Failure | None:
        """Charge a batch in one transaction; sent again while the server is away and somebody waits."""
        undone, pause_s = 0, _FIRST_PAUSE_S
        while wanted := [one for one in batch if not one.answer.done()]:
            result = await self._connection.charge([one.charge for one in wanted])
            if not isinstance(result, Failure):
                self._telemetry.count_charge_batch(len(wanted))
                for one, outcome in zip(wanted, result, strict=True):
                    one.settle(outcome)
                return None
            if result is Failure.AWAY:
                event("ledger", logging.WARNING, "database_away", {"calls": len(wanted)})
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            elif result is Failure.UNDONE and undone < _RETRIES_WHEN_UNDONE:
                undone += 1
            else:
                return result
        return None


class Ledger:
    """Charges calls on behalf of one gateway worker. One event loop; any number of callers.

    Args:
        database_url: where the schema `billing` is.
        charge_timeout_s: how long a caller waits while the server is away or its tenant is locked.
        batch_limit: charges in one commit, at most.
        queue_limit: charges that wait, at most; a quarter of it for tenants that are set aside.
        lock_timeout_ms: how long a batch waits for a lock before it is tried tenant by tenant.
        close_timeout_s: how long `close` lets waiting charges finish.
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
    ) -> None:
        self._database_url = database_url
        self._telemetry = telemetry
        self._charge_timeout_s = charge_timeout_s
        self._batch_limit = batch_limit
        self._queue_limit = queue_limit
        self._lock_timeout_ms = lock_timeout_ms
        self._close_timeout_s = close_timeout_s
        self._pump: _Pump | None = None
        self._side_pump: _Pump | None = None
        self._set_aside: Counter[str] = Counter()
        self._headroom = Headroom(database_url)
        self._is_open = False

    async def start(self) -> None:
        """Connect and begin to charge.

        Raises:
            StartupError: the server cannot be reached.
        """
        connection = self._connection("aiaas-ledger")
        try:
            await connection.open()
        except OperationalError as error:
            raise unreachable(error) from None
        self._pump = self._new_pump(connection, self._move_aside)
        self._side_pump = self._new_pump(self._connection("aiaas-ledger-locked"), self._wait_aside)
        self._headroom.start()
        self._telemetry.watch_queue("ledger", self.depth)
        self._is_open = True

    async def charge(self, charge: Charge) -> Charged:
        """Charge one call; returns when its row is committed. Sent again with the same id, it counts once.

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
        waiting = _Waiting(charge, asyncio.get_running_loop().create_future())
        self._add(waiting)
        try:
            async with asyncio.timeout(self._charge_timeout_s):
                charged = await waiting.answer
            self._headroom.note_charged(charge)
            return charged
        except CapReachedError as error:
            self._headroom.note_refused(charge, error.cap)
            raise
        except TimeoutError:
            raise LedgerUnavailableError(
                "The call could not be recorded in time. Try again.", retry_after_s=2
            ) from None

    @contextmanager
    def hold(self, tenant_id: str, key_id: str, meter: str, units: int = 1) -> Generator[None]:
        """Keep room under the caps for a call while it is served and charged, in this worker's own view.

        No round trip. What is certain is decided by `charge`; this spares the work for calls that it would
        refuse. `units`: as many as are known before the work.

        Raises:
            CapReachedError: the view says that the call would pass a cap.
        """
        with self._headroom.hold(tenant_id, key_id, meter, units):
            yield

    def depth(self) -> int:
        """How many charges wait for their commit."""
        return sum(pump.depth() for pump in (self._pump, self._side_pump) if pump)

    async def close(self) -> None:
        """Take no more charges, finish those that wait within `close_timeout_s`, refuse the rest."""
        self._is_open = False
        await self._headroom.close()
        for pump in (self._pump, self._side_pump):
            if pump is not None:
                await pump.close(self._close_timeout_s)

    def _add(self, waiting: _Waiting) -> None:
        if self._pump is None or not self._is_open:
            raise LedgerUnavailableError("The ledger is not open. Try again.")
        if waiting.charge.tenant_id in self._set_aside:
            self._add_aside(waiting)
        elif self._pump.depth() >= self._queue_limit:
            raise LedgerOverloadedError("Too many calls are waiting to be recorded. Try again.")
        else:
            self._pump.add(waiting)

    def _add_aside(self, waiting: _Waiting) -> None:
        """Queue a charge of a tenant that is set aside; when its last one is settled, the tenant is back."""
        assert self._side_pump is not None
        if self._side_pump.depth() >= self._queue_limit // 4:
            raise LedgerOverloadedError("Too many of your calls are waiting to be recorded. Try again.")
        tenant_id = waiting.charge.tenant_id
        self._set_aside[tenant_id] += 1

        def settled(_: asyncio.Future[Charged]) -> None:
            self._set_aside[tenant_id] -= 1
            if not self._set_aside[tenant_id]:
                del self._set_aside[tenant_id]

        waiting.answer.add_done_callback(settled)
        self._side_pump.add(waiting)

    def _move_aside(self, batch: list[_Waiting]) -> None:
        """Hand a locked tenant's charges to the second pump, those that wait in the first one too."""
        assert self._pump is not None
        tenant_id = batch[0].charge.tenant_id
        event("ledger", logging.WARNING, "tenant_locked", {"tenant_id": tenant_id, "calls": len(batch)})
        for one in (*batch, *self._pump.withdraw(tenant_id)):
            try:
                if not one.answer.done():
                    self._add_aside(one)
            except LedgerOverloadedError as error:
                one.refuse(error)

    def _wait_aside(self, batch: list[_Waiting]) -> None:
        """Let other tenants that are set aside try first; the callers' own time-outs end it."""
        assert self._side_pump is not None
        for one in batch:
            if not one.answer.done():
                self._side_pump.add(one)

    def _connection(self, application_name: str) -> ChargeConnection:
        return ChargeConnection(self._database_url, application_name, self._lock_timeout_ms)

    def _new_pump(self, connection: ChargeConnection, on_locked: Callable[[list[_Waiting]], None]) -> _Pump:
        return _Pump(connection, self._batch_limit, self._telemetry, on_locked)


def _by_tenant(batch: list[_Waiting]) -> list[list[_Waiting]]:
    groups: dict[str, list[_Waiting]] = {}
    for one in batch:
        groups.setdefault(one.charge.tenant_id, []).append(one)
    return list(groups.values())


def _refusal(outcome: Outcome) -> DomainError:
    match outcome.outcome:
        case store.OVER_CAP:
            assert outcome.cap is not None
            return CapReachedError(outcome.cap)
        case store.UNKNOWN_TENANT:
            return UnknownAccountError("This tenant has no billing account. Ask the operator to open one.")
        case store.CALL_ID_REUSED:
            return CallIdReusedError("Another call was charged under this id. Use a new one.")
        case _:
            return ChargeRejectedError(_REJECTED)
