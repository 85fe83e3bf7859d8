"""A charged answer on its way out: an ASGI application that says when it has left.

It is sent past the framework's response objects: what a caller has paid for is bytes by then.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import ExitStack

import msgspec
from litestar.types import Receive, Scope, Send

from billing.charges import Charge
from billing.ledger import Ledger
from infra.errors import DomainError
from infra.ids import format_call_id
from infra.logs import event

_DEFECT = "Something went wrong on our side; what was not delivered is not charged. Try again."


class Piece(msgspec.Struct, frozen=True):
    """A piece of a streamed answer, and how many of the charged units are delivered when it has left."""

    body: bytes
    units: int


class StreamKind(msgspec.Struct, frozen=True):
    """What a stream is to its reader.

    Attributes:
        headers: what the answer carries beside those of every charged answer.
        broken: what the reader is sent when the stream breaks off, which then ends as streams do; None cuts
            the connection, where a reader would take anything more for a part of the answer.
    """

    media_type: str
    headers: Sequence[tuple[bytes, bytes]] = ()
    broken: Callable[[DomainError], bytes] | None = None


class Answer:
    """An answer whose charge is committed: the only thing that a charged route may send.

    Args:
        is_replayed: it was charged, and answered as far as we know, before.
    """

    def __init__(
        self, ledger: Ledger, charge: Charge, body: bytes, media_type: str, is_replayed: bool = False
    ) -> None:
        self._ledger = ledger
        self._media_type = media_type
        self._is_replayed = is_replayed
        self.charge = charge
        self.body = body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it. A caller that hung up meanwhile has had its answer."""
        headers = self._headers()
        headers.append((b"content-length", str(len(self.body)).encode()))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": self.body, "more_body": False})
        except Exception:
            await self._ledger.void(self.charge)
            raise
        self._ledger.answered(self.charge.call_id)

    def _headers(self) -> list[tuple[bytes, bytes]]:
        """What every charged answer says of itself."""
        charge = self.charge
        headers = [
            (b"content-type", self._media_type.encode()),
            (b"x-aiaas-call-id", format_call_id(charge.call_id).encode()),
            (b"x-aiaas-meter", charge.meter.encode()),
            (b"x-aiaas-units", str(charge.units).encode()),
            (b"x-aiaas-engine", charge.engine.encode()),
        ]
        if self._is_replayed:
            headers.append((b"idempotent-replayed", b"true"))
        return headers


class StreamedAnswer(Answer):
    """An answer that is charged whole and sent in pieces.

    When the pieces break off, what was not delivered is taken back, and then the reader is told; all of it
    where a repeat of the request will be charged as a whole. When nothing but their end is missing, the
    answer ends as it should. When the caller hangs up, the charge stands.

    Args:
        held: let go of when the stream ends, is broken off, or is never sent.
        is_voided_whole: see above.
    """

    def __init__(
        self,
        ledger: Ledger,
        charge: Charge,
        pieces: AsyncGenerator[Piece, None],
        kind: StreamKind,
        held: ExitStack,
        *,
        is_replayed: bool = False,
        is_voided_whole: bool = False,
    ) -> None:
        super().__init__(ledger, charge, b"", kind.media_type, is_replayed)
        self._pieces = pieces
        self._kind = kind
        self.held = held
        self._is_voided_whole = is_voided_whole
        self._units_sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.held:
            sending = asyncio.create_task(self._send(send))
            leaving = asyncio.create_task(hung_up(receive))
            try:
                await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    await sending  # raises what broke it off, which cuts the connection
                self._ledger.answered(self.charge.call_id)
            finally:
                for task in (sending, leaving):
                    task.cancel()
                await asyncio.wait((sending, leaving))
                await self._pieces.aclose()

    async def _send(self, send: Send) -> None:
        headers = [*self._headers(), *self._kind.headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for piece in self._pieces:
                await send({"type": "http.response.body", "body": piece.body, "more_body": True})
                self._units_sent = piece.units
        except Exception as error:
            if self._units_sent < self.charge.units:
                await self._take_back()
                if self._kind.broken is None:
                    raise
                await self._tell(send, error, self._kind.broken)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, send: Send, error: Exception, broken: Callable[[DomainError], bytes]) -> None:
        told = error if isinstance(error, DomainError) else DomainError(_DEFECT)
        fields = {"code": told.code, "call_id": format_call_id(self.charge.call_id)}
        event("gateway", logging.WARNING, "stream_broken", fields, error=told is not error)
        await send({"type": "http.response.body", "body": broken(told), "more_body": True})

    async def _take_back(self) -> None:
        units = self.charge.units if self._is_voided_whole else self.charge.units - self._units_sent
        await self._ledger.void(self.charge, units)


async def hung_up(receive: Receive) -> None:
    """Return when the caller closes the connection; nothing of its request may be left to receive."""
    while (await receive())["type"] != "http.disconnect":
        pass
