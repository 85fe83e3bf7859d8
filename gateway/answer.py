"""A charged answer on its way out: an ASGI application that says when it has left.

It is sent past the framework's response objects: what a caller has paid for is bytes by then.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import ExitStack

from litestar.types import Receive, Scope, Send

from billing.charges import Charge
from billing.ledger import Ledger
from infra.ids import format_call_id
from serving.contract import SpeechPiece


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

    When the pieces break off, what was not delivered is taken back; all of it where a repeat of the request
    will be charged as a whole. When nothing but their end is missing, the answer ends as it should. When the
    caller hangs up, the charge stands.

    Args:
        held: let go of when the stream ends, is broken off, or is never sent.
        is_voided_whole: see above.
        headers: what it carries beside those of every charged answer.
    """

    def __init__(
        self,
        ledger: Ledger,
        charge: Charge,
        pieces: AsyncGenerator[SpeechPiece, None],
        media_type: str,
        held: ExitStack,
        *,
        is_replayed: bool = False,
        is_voided_whole: bool = False,
        headers: Sequence[tuple[bytes, bytes]] = (),
    ) -> None:
        super().__init__(ledger, charge, b"", media_type, is_replayed)
        self._pieces = pieces
        self.held = held
        self._is_voided_whole = is_voided_whole
        self._more_headers = headers
        self._units_sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.held:
            sending = asyncio.create_task(self._send(send))
            hung_up = asyncio.create_task(_hung_up(receive))
            try:
                await asyncio.wait((sending, hung_up), return_when=asyncio.FIRST_COMPLETED)
                if sending.done():
                    await sending  # raises what broke it off, which cuts the connection
                self._ledger.answered(self.charge.call_id)
            finally:
                for task in (sending, hung_up):
                    task.cancel()
                await asyncio.wait((sending, hung_up))
                await self._pieces.aclose()

    async def _send(self, send: Send) -> None:
        headers = [*self._headers(), *self._more_headers]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        try:
            async for piece in self._pieces:
                await send({"type": "http.response.body", "body": piece.sound, "more_body": True})
                self._units_sent = piece.characters
        except Exception:
            if self._units_sent < self.charge.units:
                await self._take_back()
                raise
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _take_back(self) -> None:
        units = self.charge.units if self._is_voided_whole else self.charge.units - self._units_sent
        await self._ledger.void(self.charge, units)


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
