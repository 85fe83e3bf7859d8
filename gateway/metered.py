"""THE HEART: run a call, charge it, only then answer.

A charge is committed when `Metered.run` or `Metered.run_stream` returns; a caller that leaves earlier,
an engine that fails, a charge that cannot be made: each ends the call without an answer, and the first
two without a charge. A call that a cap leaves no room for is refused before the work as far as this worker
knows, and for certain by the charge: then its result is thrown away.
"""

import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Generic, TypeVar
from uuid import UUID

import msgspec

from billing.charges import Charge
from billing.ledger import Ledger
from billing.meters import METERS
from gateway.limits import Limits
from infra.errors import DomainError
from infra.ids import format_call_id, uuid7
from infra.telemetry import Telemetry
from tenants.records import KeyRecord, Product

T = TypeVar("T")
Trace = Mapping[str, str]
METER_OF_PRODUCT = {meter.product: meter.meter for meter in METERS}


class Served(msgspec.Struct, Generic[T], frozen=True):
    """What an engine answered, with what it costs in units of the product's meter."""

    value: T
    units: int
    engine: str
    model: str


class Charged(msgspec.Struct, Generic[T], frozen=True):
    """An answer whose charge is committed: the only thing a route may send."""

    value: T
    call_id: UUID
    meter: str
    units: int
    engine: str

    @property
    def id(self) -> str:
        """The call's id as people see it."""
        return format_call_id(self.call_id)

    def headers(self) -> dict[str, str]:
        """What every charged answer says of itself."""
        return {
            "x-aiaas-call-id": self.id,
            "x-aiaas-meter": self.meter,
            "x-aiaas-units": str(self.units),
            "x-aiaas-engine": self.engine,
        }


class Metered:
    """Runs calls for one worker."""

    def __init__(self, ledger: Ledger, limits: Limits, telemetry: Telemetry) -> None:
        self._ledger = ledger
        self._limits = limits
        self._telemetry = telemetry

    async def run(
        self, caller: KeyRecord, product: Product, trace: Trace, serve: Callable[[], Awaitable[Served[T]]]
    ) -> Charged[T]:
        """Serve and charge one call.

        Args:
            product: `asr`, `intent` or `tts`.
            trace: the call's span, as W3C headers.
            serve: asks the engine; called once.

        Raises:
            DomainError: refused or failed; nothing was charged, unless the charge's own outcome is unknown.
        """
        with self._limits.slot(caller):
            return await self._run_observed(caller, product, trace, serve)

    async def run_stream(
        self,
        caller: KeyRecord,
        product: Product,
        trace: Trace,
        serve: Callable[[], Awaitable[Served[AsyncGenerator[bytes, None]]]],
    ) -> Charged[AsyncGenerator[bytes, None]]:
        """Serve a streamed answer: charged once its first bytes are there and before they are sent.

        The tenant's place among calls in hand is held until the stream ends or is dropped.

        Raises:
            DomainError: refused, or failed before the first byte; nothing was charged.
        """
        with ExitStack() as stack:
            stack.enter_context(self._limits.slot(caller))

            async def serve_first_bytes() -> Served[AsyncGenerator[bytes, None]]:
                served = await serve()
                first = await anext(served.value, b"")
                return msgspec.structs.replace(served, value=_relay(first, served.value))

            charged = await self._run_observed(caller, product, trace, serve_first_bytes)
            weakref.finalize(charged.value, stack.pop_all().close)
        return charged

    async def _run_observed(
        self, caller: KeyRecord, product: Product, trace: Trace, serve: Callable[[], Awaitable[Served[T]]]
    ) -> Charged[T]:
        started = time.perf_counter()
        try:
            charged = await self._serve_and_charge(caller, product, trace, serve)
        except Exception as error:
            outcome = error.code if isinstance(error, DomainError) else "internal_error"
            self._telemetry.count_call(product, outcome, time.perf_counter() - started)
            raise
        self._telemetry.count_call(product, "ok", time.perf_counter() - started)
        self._telemetry.count_units(charged.meter, charged.units)
        return charged

    async def _serve_and_charge(
        self, caller: KeyRecord, product: Product, trace: Trace, serve: Callable[[], Awaitable[Served[T]]]
    ) -> Charged[T]:
        meter = METER_OF_PRODUCT[product]
        with self._ledger.hold(caller.tenant_id, caller.key_id, meter):
            return await self._serve_and_charge_held(caller, meter, trace, serve)

    async def _serve_and_charge_held(
        self, caller: KeyRecord, meter: str, trace: Trace, serve: Callable[[], Awaitable[Served[T]]]
    ) -> Charged[T]:
        call_id = uuid7()
        occurred_at = datetime.now(UTC)
        with self._telemetry.span("serve", trace):
            served = await serve()
        charge = Charge(
            call_id=call_id,
            tenant_id=caller.tenant_id,
            key_id=caller.key_id,
            meter=meter,
            units=served.units,
            engine=served.engine,
            model=served.model,
            occurred_at=occurred_at,
        )
        with self._telemetry.span("charge", trace):
            await self._ledger.charge(charge)
        return Charged(served.value, call_id, meter, served.units, served.engine)


async def _relay(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    try:
        yield first
        async for chunk in rest:
            yield chunk
    finally:
        await rest.aclose()
