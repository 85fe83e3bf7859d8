"""Calls that were refused, counted by tenant, month and code: a hint for those who review invoices."""

from typing import Final

from billing.store import refusals as store
from infra.database import Pool, borrow
from infra.flushing import FLUSH_EVERY_S, Flusher

_MAX_COUNTERS: Final = 10_000


class Refusals:
    """Counts in memory and writes down together. One event loop.

    Not a record to bill by: a worker that dies loses the last seconds, and so do tenants beyond
    `max_counters` between two writes.
    """

    def __init__(
        self, pool: Pool, max_counters: int = _MAX_COUNTERS, flush_every_s: float = FLUSH_EVERY_S
    ) -> None:
        self._pool = pool
        self._max_counters = max_counters
        self._calls: dict[tuple[str, str], int] = {}
        self._flusher = Flusher("refusals", self.flush, flush_every_s)
        self.start, self.close = self._flusher.start, self._flusher.close

    def note(self, tenant_id: str, code: str) -> None:
        """A call of the tenant was refused just now."""
        counter = (tenant_id, code)
        if counter in self._calls or len(self._calls) < self._max_counters:
            self._calls[counter] = self._calls.get(counter, 0) + 1

    async def flush(self) -> None:
        """Write down what was counted.

        Raises:
            UnavailableError: PostgreSQL does not answer; the counts are kept.
        """
        counted = dict(self._calls)
        if not counted:
            return
        async with borrow(self._pool) as connection:
            await store.add_refusals(
                connection, [(tenant_id, code, calls) for (tenant_id, code), calls in sorted(counted.items())]
            )
        for counter, calls in counted.items():
            self._calls[counter] -= calls
            if not self._calls[counter]:
                del self._calls[counter]
