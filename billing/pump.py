"""A pump: a queue of entries, a connection, and the task that empties the one through the other."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from billing.charge_connection import ChargeConnection, Failure
from billing.charges import (
    CallIdReusedError,
    CapReachedError,
    Charged,
    ChargeRejectedError,
    LedgerUnavailableError,
    UnknownAccountError,
)
from billing.store import charges as store
from billing.store.charges import Entry, Outcome
from infra.errors import DomainError
from infra.logs import event
from infra.telemetry import Telemetry

_RETRIES_WHEN_UNDONE: Final = 3
_FIRST_PAUSE_S: Final = 0.02
_LONGEST_PAUSE_S: Final = 0.5
_RECORD_AFTER_S: Final = 0.01  # how long an idle pump leaves answered calls on record as in flight
_EXPIRE_EVERY_S: Final = 0.1
_TOO_LATE: Final = "The call could not be recorded in time. Try again."
_REJECTED: Final = "The ledger refuses this charge. Tell the operator the call's id."
_WRITTEN: Final = (store.CHARGED, store.ALREADY_CHARGED)


class Waiting:
    """An entry and the caller who waits for it. A caller that went away has a future that is done.

    Attributes:
        give_up_s: when the caller is told that it takes too long, on the event loop's clock.
        is_answered_elsewhere: an earlier request made this charge: it stands when this caller goes away.
        is_uncertain: it was sent over a connection that broke.
    """

    __slots__ = ("answer", "entry", "give_up_s", "is_answered_elsewhere", "is_uncertain")

    def __init__(
        self, entry: Entry, answer: asyncio.Future[Charged], give_up_s: float, is_answered_elsewhere: bool
    ) -> None:
        self.entry = entry
        self.answer = answer
        self.give_up_s = give_up_s
        self.is_answered_elsewhere = is_answered_elsewhere
        self.is_uncertain = False

    @property
    def is_void(self) -> bool:
        return self.entry.voided_from is not None

    def settle(self, outcome: Outcome) -> None:
        if self.answer.done():
            return
        if outcome.outcome in _WRITTEN or self.is_void:
            is_repeat = outcome.outcome != store.CHARGED
            self.answer.set_result(Charged(outcome.period or "", outcome.units_before or 0, is_repeat))
        else:
            self.refuse(_refusal(outcome))

    def refuse(self, error: DomainError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Pump:
    """Charges what is added, everything that waits in one transaction, while the next batch gathers.

    Args:
        on_locked: what to do with one tenant's entries that met a lock they could not pass.
        take_back: called with a charge that is written, or may be, though its caller has left.
    """

    def __init__(
        self,
        connection: ChargeConnection,
        batch_limit: int,
        telemetry: Telemetry,
        on_locked: Callable[[list[Waiting]], None],
        take_back: Callable[[Entry], object],
    ) -> None:
        self.connection = connection
        self._batch_limit = batch_limit
        self._telemetry = telemetry
        self._on_locked = on_locked
        self._take_back = take_back
        self._waiting: deque[Waiting] = deque()
        self._in_hand: list[Waiting] = []
        self._wake = asyncio.Event()
        self._is_closing = False
        self.task = asyncio.create_task(self._run())
        self._expiry = asyncio.create_task(self._expire())

    def depth(self) -> int:
        return len(self._waiting) + len(self._in_hand)

    def add(self, waiting: Waiting) -> None:
        self._waiting.append(waiting)
        self._wake.set()

    def withdraw(self, tenant_id: str) -> list[Waiting]:
        """Take a tenant's entries out of the queue, but for those that only this pump's session may write."""
        withdrawn = [one for one in self._waiting if one.entry.tenant_id == tenant_id and not one.is_void]
        kept = set(map(id, withdrawn))
        self._waiting = deque(one for one in self._waiting if id(one) not in kept)
        return withdrawn

    async def close(self, timeout_s: float) -> None:
        """Write what waits, within `timeout_s`; refuse what is left."""
        self._is_closing = True
        self._wake.set()
        await asyncio.wait([self.task], timeout=timeout_s)
        self.task.cancel()
        await asyncio.wait([self.task], timeout=timeout_s)
        self._expiry.cancel()
        await asyncio.wait([self._expiry])
        for one in (*self._in_hand, *self._waiting):
            one.refuse(LedgerUnavailableError("The ledger is shutting down. Try again."))
        await self.connection.close()

    async def _run(self) -> None:
        while self._waiting or not self._is_closing:
            if not self._waiting:
                await self._idle()
                continue
            self._in_hand = self._take()
            try:
                await self._charge(self._in_hand)
            except Exception:
                event("ledger", logging.ERROR, "charge_failed", {"calls": len(self._in_hand)}, error=True)
                for one in self._in_hand:
                    one.refuse(LedgerUnavailableError("The charge could not be made. Try again."))
            self._in_hand = []

    async def _expire(self) -> None:
        """Tell callers that it takes too long: one timer for all of them, as each is two microseconds."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_EXPIRE_EVERY_S)
            now_s = loop.time()
            for one in (*self._in_hand, *self._waiting):
                if one.give_up_s <= now_s and not one.is_void:
                    one.refuse(LedgerUnavailableError(_TOO_LATE, retry_after_s=2))

    async def _idle(self) -> None:
        """Wait for work; meanwhile have the record follow the answers that leave."""
        self._wake.clear()
        timer = None
        if self.connection.is_busy:
            timer = asyncio.get_running_loop().call_later(_RECORD_AFTER_S, self._wake.set)
        await self._wake.wait()
        if timer is not None:
            timer.cancel()
        if not self._waiting and not self.connection.is_recorded and await self.connection.record():
            await asyncio.sleep(_LONGEST_PAUSE_S)

    def _take(self) -> list[Waiting]:
        """The oldest entries whose callers still wait; one call is in a batch at most once."""
        taken: dict[tuple[object, int], Waiting] = {}
        repeats: list[Waiting] = []
        while self._waiting and len(taken) < self._batch_limit:
            one = self._waiting.popleft()
            if one.answer.done():
                self._give_up([one])
                continue
            if taken.setdefault((one.entry.call_id, one.entry.slice), one) is not one:
                repeats.append(one)
        self._waiting.extendleft(reversed(repeats))
        return list(taken.values())

    async def _charge(self, batch: list[Waiting]) -> None:
        """Write a batch; if it fails as a whole, each tenant by itself, then each entry."""
        failure = await self._try(batch)
        if failure is None:
            return
        parts = _by_tenant(batch)
        if len(parts) == 1 and failure is Failure.LOCKED:
            self.connection.land(one.entry.call_id for one in batch if not one.is_uncertain)
            self._on_locked(batch)
            return
        if len(parts) == 1:
            parts = [[one] for one in batch]
        if len(parts) == 1:
            event("ledger", logging.ERROR, "charge_rejected", {"call_id": str(batch[0].entry.call_id)})
            self.connection.land([batch[0].entry.call_id])
            batch[0].refuse(ChargeRejectedError(_REJECTED))
            return
        for part in parts:
            await self._charge(part)

    async def _try(self, batch: list[Waiting]) -> Failure | None:
        """Write a batch in one transaction; sent again while the server is away and somebody waits."""
        undone, pause_s = 0, _FIRST_PAUSE_S
        while wanted := [one for one in batch if not one.answer.done()]:
            result = await self.connection.charge([one.entry for one in wanted])
            if not isinstance(result, Failure):
                self._telemetry.count_charge_batch(len(wanted))
                self._settle(wanted, result)
                return None
            if result is Failure.AWAY:
                event("ledger", logging.WARNING, "database_away", {"calls": len(wanted)})
                for one in wanted:
                    one.is_uncertain = True
                await asyncio.sleep(pause_s)
                self._give_up(batch)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            elif result is Failure.UNDONE and undone < _RETRIES_WHEN_UNDONE:
                undone += 1
            else:
                return result
        return None

    def _give_up(self, batch: list[Waiting]) -> None:
        """Take back what was sent over a connection that broke, where nobody waits to hear of it."""
        for one in batch:
            if one.is_uncertain and one.answer.done() and not one.is_void:
                one.is_uncertain = False
                self._take_back(one.entry)

    def _settle(self, batch: list[Waiting], outcomes: list[Outcome]) -> None:
        self.connection.land(
            one.entry.call_id
            for one, outcome in zip(batch, outcomes, strict=True)
            if outcome.outcome not in _WRITTEN
        )
        for one, outcome in zip(batch, outcomes, strict=True):
            has_left = one.answer.done()
            one.settle(outcome)
            if not has_left or outcome.outcome not in _WRITTEN:
                continue
            if one.is_answered_elsewhere:
                self.connection.land([one.entry.call_id])
            else:
                self._take_back(one.entry)


def _by_tenant(batch: list[Waiting]) -> list[list[Waiting]]:
    groups: dict[str, list[Waiting]] = {}
    for one in batch:
        groups.setdefault(one.entry.tenant_id, []).append(one)
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
