"""A worker's own view of its tenants' caps: the refusal before the work, without a round trip.

It is read for the tenants that the worker serves, every second and when a cap changes, and corrected by
what the worker's own charges learn meanwhile. It may be wrong for about a second, since it is not believed
for longer; and it admits only to the work, never to a charge: that is `billing.charge`'s to decide.
"""

import asyncio
import logging
import time
from collections import Counter
from contextlib import AbstractContextManager, suppress
from typing import Final

from psycopg import Error, sql

from billing.charges import CapReachedError, Charge
from billing.store import caps as store
from billing.store.caps import RoomRow
from infra.database import Connection, connect, hang_up_after
from infra.logs import event

_REFRESH_S: Final = 0.8
_BELIEVED_S: Final = 1.2
_SERVED_LATELY_NS: Final = 30 * 10**9
_READ_TIMEOUT_S: Final = 2.0
_MAX_TENANTS: Final = 10_000

Holder = tuple[str | None, str]  # a key, or None for its tenant; and a meter
Flying = tuple[str, str | None, str]  # a tenant, its key or None for all of them, a meter
Rooms = dict[Holder, dict[str, int]]  # by the cap's name: the units that there is still room for


class _View:
    """What is left of one tenant's caps, as of `read_at_s` (monotonic)."""

    __slots__ = ("read_at_s", "rooms")

    def __init__(self, read_at_s: float) -> None:
        self.read_at_s = read_at_s
        self.rooms: Rooms = {}

    def add(self, holder: Holder, cap: str, units_left: int) -> None:
        of_holder = self.rooms.setdefault(holder, {})
        of_holder[cap] = min(units_left, of_holder.get(cap, units_left))


class _Held(AbstractContextManager[None]):
    """Units of a call in flight, of its tenant and of its key."""

    __slots__ = ("_flying", "_in_flight", "_units")

    def __init__(self, in_flight: Counter[Flying], flying: tuple[Flying, Flying], units: int) -> None:
        self._in_flight = in_flight
        self._flying = flying
        self._units = units
        for one in flying:
            in_flight[one] += units

    def __exit__(self, *_: object) -> None:
        for one in self._flying:
            self._in_flight[one] -= self._units
            if not self._in_flight[one]:
                del self._in_flight[one]


class Headroom:
    """The view of one worker. One event loop.

    Args:
        database_url: for the connection that reads the view and hears of changes.
    """

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url
        self._views: dict[str, _View] = {}
        self._served: dict[str, int] = {}  # when last, in monotonic nanoseconds
        self._in_flight: Counter[Flying] = Counter()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to read the view; until it is read, everything is admitted to the work."""
        self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop reading."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    def hold(self, tenant_id: str, key_id: str, meter: str, units: int) -> AbstractContextManager[None]:
        """Count a call as in flight, until the block ends.

        Raises:
            CapReachedError: with what is in flight already, there is no room for it.
        """
        self._serve(tenant_id)
        self._check(tenant_id, key_id, meter, units)
        return _Held(self._in_flight, ((tenant_id, None, meter), (tenant_id, key_id, meter)), units)

    def note_charged(self, charge: Charge) -> None:
        """A charge was made here: so much less is left, until the view is read again."""
        if view := self._views.get(charge.tenant_id):
            for key_id in (None, charge.key_id):
                rooms = view.rooms.get((key_id, charge.meter), {})
                for cap in rooms:
                    rooms[cap] -= charge.units

    def note_refused(self, charge: Charge, cap: str) -> None:
        """A charge did not fit: nor will a call as large, until the view is read again."""
        view = self._views.get(charge.tenant_id)
        if view is None or not self._is_believed(view):
            view = self._views[charge.tenant_id] = _View(time.monotonic())
        key_id = charge.key_id if cap.startswith("key ") else None
        view.add((key_id, charge.meter), cap, charge.units - 1)

    def _check(self, tenant_id: str, key_id: str, meter: str, units: int) -> None:
        view = self._views.get(tenant_id)
        if view is None or not self._is_believed(view):
            return
        for holder_id in (None, key_id):
            for cap, units_left in view.rooms.get((holder_id, meter), {}).items():
                if units_left - self._in_flight[tenant_id, holder_id, meter] < units:
                    raise CapReachedError(cap)

    def _is_believed(self, view: _View) -> bool:
        return time.monotonic() - view.read_at_s < _BELIEVED_S

    def _serve(self, tenant_id: str) -> None:
        """Note who is served, the latest last, `_MAX_TENANTS` at most."""
        self._served.pop(tenant_id, None)
        self._served[tenant_id] = time.monotonic_ns()
        if len(self._served) > _MAX_TENANTS:
            del self._served[next(iter(self._served))]

    async def _follow(self) -> None:
        while True:
            try:
                connection = await connect(self._database_url, "aiaas-headroom")
            except (Error, OSError):
                await asyncio.sleep(_REFRESH_S)
                continue
            try:
                await self._read_while_connected(connection)
            except (Error, OSError):
                event("headroom", logging.WARNING, "database_away", {})
                await asyncio.sleep(_REFRESH_S)
            finally:
                await connection.close()

    async def _read_while_connected(self, connection: Connection) -> None:
        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(store.CHANNEL)))
        while True:
            began_s = time.monotonic()
            self._forget(time.monotonic_ns() - _SERVED_LATELY_NS)
            if self._served:
                with hang_up_after(connection, _READ_TIMEOUT_S):
                    rows = await store.read_rooms(connection, list(self._served))
                self._views = _views(rows, began_s)
            async for _ in connection.notifies(timeout=_REFRESH_S, stop_after=1):
                break

    def _forget(self, before_ns: int) -> None:
        while self._served and next(iter(self._served.values())) < before_ns:
            del self._served[next(iter(self._served))]


def _views(rows: list[RoomRow], read_at_s: float) -> dict[str, _View]:
    views: dict[str, _View] = {}
    for row in rows:
        if row.units_left is not None:
            view = views.setdefault(row.tenant_id, _View(read_at_s))
            owner = "tenant" if row.key_id is None else "key"
            view.add((row.key_id, row.meter), f"{owner} {row.measure}", row.units_left)
    return views
