"""THE HEART: run a call, charge it, only then answer.

A charge is committed when `Metered.run` or `Metered.run_stream` returns; a caller that leaves earlier,
an engine that fails, a charge that cannot be made: each ends the call without an answer and without a charge,
at once or as soon as the database can be reached. A call that a cap leaves no room for is refused before the
work as far as this worker knows, and for certain by the charge: then its result is thrown away.

A request that is known again goes the same way, under the call id that its first run had: an answer that was
kept takes the work's place, and what was charged before is not charged again.
"""

import asyncio
import time
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from billing.charges import Charge, KeptAnswer, KeptRequest
from billing.ledger import Ledger
from billing.meters import METERS
from billing.requests import MAX_KEPT_BYTES, Claimed, IdempotentRequests
from gateway.answer import Answer, Piece, StreamedAnswer, StreamKind
from gateway.errors import CallerLeftError
from gateway.limits import Limits
from gateway.repeats import Repeatable
from infra.errors import DomainError
from infra.ids import CallIds
from infra.telemetry import Telemetry
from tenants.records import KeyRecord, Product

T = TypeVar("T")
A = TypeVar("A", bound=Answer)
Trace = Mapping[str, str]
METER_OF_PRODUCT = {meter.product: meter.meter for meter in METERS}
_NOTED_AFTER_S = 0.2  # the official client waits 0.4 s and more before it tries again
_LEASE_MARGIN_S = 30.0  # for what comes before and after the work: the queue, the charge


class Served(msgspec.Struct, Generic[T], frozen=True):
    """What an engine answered, with what it costs in units of the product's meter."""

    value: T
    units: int
    engine: str
    model: str


class Rendered(msgspec.Struct, frozen=True):
    """An answer as it is sent."""

    body: bytes
    media_type: str


class Work(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """One call to be run.

    Attributes:
        product: `asr`, `intent` or `tts`.
        trace: the call's span, as W3C headers.
        timeout_s: how long the work may take.
        repeatable: what the request is known by, where it may be repeated.
        units_ahead: the units that are certain before the work.
        serve: asks the engine; called once, or not at all when the answer was kept.
        left: returns when the caller hangs up, which ends the work that is not charged by then; None where
            the work is too short to look.
    """

    caller: KeyRecord
    product: Product
    trace: Trace
    timeout_s: float
    repeatable: Repeatable | None
    units_ahead: int
    serve: Callable[[], Awaitable[Served[T]]]
    left: Callable[[], Coroutine[Any, Any, None]] | None = None

    @property
    def meter(self) -> str:
        return METER_OF_PRODUCT[self.product]

    @property
    def lease_s(self) -> float:
        return self.timeout_s + _LEASE_MARGIN_S


class Metered:
    """Runs calls for one worker."""

    def __init__(
        self, ledger: Ledger, requests: IdempotentRequests, limits: Limits, telemetry: Telemetry
    ) -> None:
        self._ledger = ledger
        self._requests = requests
        self._limits = limits
        self._telemetry = telemetry
        self._call_ids = CallIds()

    async def run(self, work: Work[T], render: Callable[[Served[T], UUID], Rendered]) -> Answer:
        """Serve and charge one call.

        Args:
            render: the answer of what was served and the call's id; called before the charge, so that what
                cannot be rendered is not charged.

        Raises:
            DomainError: refused or failed; it was not charged, or will be taken back.
        """

        async def answer(claimed: Claimed) -> Answer:
            if claimed.kept is not None:
                assert claimed.charged is not None
                rendered = Rendered(claimed.kept.body, claimed.kept.media_type)
                served = Served(None, claimed.charged.units, claimed.charged.engine, claimed.charged.model)
                charge = await self._charge(work, claimed, served, None)
            else:
                with self._telemetry.span("serve", work.trace):
                    served = await _unless_left(work.serve(), work.left)
                rendered = render(served, claimed.call_id)
                charge = await self._charge(work, claimed, served, rendered)
            return Answer(
                self._ledger, charge, rendered.body, rendered.media_type, claimed.charged is not None
            )

        with self._limits.slot(work.caller):
            return await self._run(work, answer)

    async def run_stream(self, work: Work[AsyncGenerator[Piece, None]], kind: StreamKind) -> StreamedAnswer:
        """Serve a streamed answer: charged once its first bytes are there and before they are sent.

        The tenant's place among calls in hand is held until the stream ends or is dropped.

        Raises:
            DomainError: refused, or failed before the first byte; it was not charged, or will be taken back.
        """

        async def answer(claimed: Claimed) -> StreamedAnswer:
            with self._telemetry.span("serve", work.trace):
                served, first = await _unless_left(_begin(work), work.left)
            try:
                charge = await self._charge(work, claimed, served, None)
            except BaseException:
                await served.value.aclose()
                raise
            return StreamedAnswer(
                self._ledger,
                charge,
                _relay(first, served.value),
                kind,
                stack.pop_all(),
                is_replayed=claimed.charged is not None,
                is_voided_whole=work.repeatable is not None,
            )

        with ExitStack() as stack:
            stack.enter_context(self._limits.slot(work.caller))
            streamed = await self._run(work, answer)
            weakref.finalize(streamed, streamed.held.close)
        return streamed

    async def _run(self, work: Work[T], answer: Callable[[Claimed], Awaitable[A]]) -> A:
        started = time.perf_counter()
        try:
            answered = await self._run_claimed(work, answer)
        except Exception as error:
            outcome = error.code if isinstance(error, DomainError) else "internal_error"
            self._telemetry.count_call(work.product, outcome, time.perf_counter() - started)
            raise
        self._telemetry.count_call(work.product, "ok", time.perf_counter() - started)
        return answered

    async def _run_claimed(self, work: Work[T], answer: Callable[[Claimed], Awaitable[A]]) -> A:
        """Run it under its request's call id; a run that fails leaves the request to the next repeat."""
        claimed = await self._claim(work)
        note = self._note_if_slow(work, claimed)
        try:
            with self._room(work, claimed):
                return await answer(claimed)
        except BaseException:
            # Of a client's first request nobody knows yet while its note is still to come.
            is_known = note is None or note.when() <= asyncio.get_running_loop().time()
            if work.repeatable is not None and is_known:
                self._requests.release(work.repeatable.identity, claimed.call_id)
            raise
        finally:
            if note is not None:
                note.cancel()

    async def _claim(self, work: Work[T]) -> Claimed:
        if work.repeatable is not None and work.repeatable.kind != "first":
            return await self._requests.claim(
                work.repeatable.identity, lease_s=work.lease_s, wait_s=work.timeout_s
            )
        return Claimed(self._call_ids.next(), datetime.now(UTC), False, None, None)

    def _note_if_slow(self, work: Work[T], claimed: Claimed) -> asyncio.TimerHandle | None:
        """Have a client's retry find its first request though that still runs."""
        if work.repeatable is None or work.repeatable.kind != "first":
            return None
        return asyncio.get_running_loop().call_later(
            _NOTED_AFTER_S,
            self._requests.note,
            work.repeatable.identity,
            claimed.call_id,
            claimed.occurred_at,
            work.lease_s,
        )

    def _room(self, work: Work[T], claimed: Claimed) -> AbstractContextManager[None]:
        """Room under the caps while the call runs; a call that was charged has it."""
        if claimed.charged is not None:
            return nullcontext()
        return self._ledger.hold(work.caller.tenant_id, work.caller.key_id, work.meter, work.units_ahead)

    async def _charge(
        self, work: Work[T], claimed: Claimed, served: Served[T] | Served[None], rendered: Rendered | None
    ) -> Charge:
        charge = Charge(
            call_id=claimed.call_id,
            tenant_id=work.caller.tenant_id,
            key_id=claimed.charged.key_id if claimed.charged else work.caller.key_id,
            meter=work.meter,
            units=served.units,
            engine=served.engine,
            model=served.model,
            occurred_at=claimed.occurred_at,
        )
        with self._telemetry.span("charge", work.trace):
            charged = await self._ledger.charge(charge, _kept(work, rendered), is_known=claimed.is_known)
        if not charged.is_repeat:
            self._telemetry.count_units(charge.meter, charge.units)
        return charge


def _kept(work: Work[T], rendered: Rendered | None) -> KeptAnswer | KeptRequest | None:
    """Only a caller's own key has an answer kept: a client's retry is so rare that the work is done again."""
    if work.repeatable is not None and work.repeatable.kind == "first":
        identity = work.repeatable.identity
        return KeptRequest(identity.claim, identity.fingerprint, identity.kept_s)
    if work.repeatable is None or work.repeatable.kind != "key" or rendered is None:
        return None
    if len(rendered.body) > MAX_KEPT_BYTES:
        return None
    return KeptAnswer(work.repeatable.identity.claim, rendered.media_type, rendered.body)


async def _unless_left(serving: Awaitable[T], left: Callable[[], Coroutine[Any, Any, None]] | None) -> T:
    """What is served, unless the caller leaves first: that ends the work.

    Raises:
        CallerLeftError: there is nobody to answer.
    """
    if left is None:
        return await serving
    working, leaving = asyncio.ensure_future(serving), asyncio.ensure_future(left())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CallerLeftError
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _begin(
    work: Work[AsyncGenerator[Piece, None]],
) -> tuple[Served[AsyncGenerator[Piece, None]], Piece | None]:
    served = await work.serve()
    return served, await anext(served.value, None)


async def _relay(first: Piece | None, rest: AsyncGenerator[Piece, None]) -> AsyncGenerator[Piece, None]:
    try:
        if first is not None:
            yield first
        async for piece in rest:
            yield piece
    finally:
        await rest.aclose()
