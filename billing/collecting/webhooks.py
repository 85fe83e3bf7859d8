"""Events of Stripe: who signed them is checked over the bytes that came, then each is kept once.

An event is not believed, it only makes us look: in the transaction that keeps it, the invoice that it is
about becomes due, and the collector reads that one from Stripe and goes by what it finds. So it does not
matter in which order events come, of which version they are, or what they say. The event is marked as handled
in the transaction that records what was found.

Signatures (https://docs.stripe.com/webhooks#verify-manually): the header `Stripe-Signature` has a moment `t`
in Unix seconds, and signatures `v1`: HMAC-SHA256 in hexadecimal over `<t>.<body>`, keyed with the secret.
"""

import hmac
import time
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, ClassVar, Final, Literal

import msgspec

from billing.collecting.items import INVOICE_KEY
from billing.store import collecting as store
from billing.store import stripe_events as events_store
from billing.store.audit import NewEvent, insert_events
from billing.store.stripe_events import NewStripeEvent
from infra.database import Connection, Pool, borrow
from infra.errors import DomainError

MAX_EVENT_BYTES: Final = 1024 * 1024
TOLERANCE_S: Final = 300
_RECORDED_EVERY_S: Final = 600
_ABOUT_INVOICES: Final = ("invoice.", "invoice_payment.", "credit_note.")

Outcome = Literal["received", "ignored", "repeated"]


class StripeEventError(DomainError):
    """An event that is not taken. Nothing is changed."""

    code: ClassVar[str] = "stripe_event_invalid"


class SignatureError(StripeEventError):
    """It is not signed with one of our secrets."""

    code = "stripe_signature_invalid"


class OldEventError(StripeEventError):
    """It was signed too long ago, or is from the future."""

    code = "stripe_timestamp_invalid"


class EventsOffError(StripeEventError):
    """There is no secret to check it with."""

    code = "stripe_events_off"


class _Data(msgspec.Struct, frozen=True):
    object: dict[str, Any] = {}


class _Event(msgspec.Struct, frozen=True):
    id: str
    type: str
    livemode: bool = False
    api_version: str | None = None
    data: _Data = _Data()


class StripeEvents:
    """Receives events, for one process.

    Args:
        secrets: any one of them may have signed.
    """

    def __init__(self, pool: Pool, secrets: Sequence[str]) -> None:
        self._pool = pool
        self._secrets = secrets
        self._refused: dict[str, int] = {}
        self._recorded_at_s: dict[str, int] = {}

    async def receive(self, body: bytes, signature: str) -> Outcome:
        """Keep an event, and have what it is about looked at.

        Args:
            body: as it came.
            signature: the header `Stripe-Signature`.

        Raises:
            SignatureError, OldEventError, EventsOffError, StripeEventError: it is not taken.
            UnavailableError: the database is away; Stripe sends it again.
        """
        try:
            verify(self._secrets, body, signature, time.time())
            event = _decode(body)
        except StripeEventError as error:
            await self._note_refusal(error.code)
            raise
        async with borrow(self._pool) as connection, connection.transaction():
            kept = await _kept(connection, event)
            if not await events_store.insert_event(connection, kept):
                return "repeated"
            if kept.invoice_id and kept.outcome == "received":
                await store.wake(connection, [kept.invoice_id])
        return kept.outcome

    async def _note_refusal(self, code: str) -> None:
        """Put refusals on record, one event for all of a kind in ten minutes: anybody may send any number."""
        self._refused[code] = self._refused.get(code, 0) + 1
        now_s = int(time.monotonic())
        if now_s - self._recorded_at_s.get(code, -_RECORDED_EVERY_S) < _RECORDED_EVERY_S:
            return
        self._recorded_at_s[code] = now_s
        detail = {"code": code, "attempts": self._refused.pop(code)}
        async with borrow(self._pool) as connection:
            event = NewEvent("unknown", "stripe_event", "stripe", refused=True, detail=detail)
            await insert_events(connection, [event])


def verify(secrets: Sequence[str], body: bytes, signature: str, now_s: float) -> None:
    """Check who signed an event, and when.

    Raises:
        EventsOffError: there is no secret.
        SignatureError: none of the secrets signed it.
        OldEventError: it was signed more than `TOLERANCE_S` before now, or after it.
    """
    if not secrets:
        raise EventsOffError("This gateway takes no events: STRIPE_WEBHOOK_SECRET is not set.")
    entries = [entry.strip().partition("=") for entry in signature.split(",")]
    moments = [value for name, _, value in entries if name == "t"]
    signatures = [value.encode() for name, _, value in entries if name == "v1"]
    signed_at = moments[0] if len(moments) == 1 and moments[0].isascii() and moments[0].isdecimal() else ""
    signed = f"{signed_at}.".encode() + body
    expected = [hmac.new(secret.encode(), signed, sha256).hexdigest().encode() for secret in secrets]
    matches = [hmac.compare_digest(one, given) for one in expected for given in signatures]
    if not signed_at or not any(matches):
        raise SignatureError("The signature is not one of this endpoint's secret over this body.")
    if abs(now_s - int(signed_at)) > TOLERANCE_S:
        raise OldEventError(f"This was signed more than {TOLERANCE_S} s from now: check both clocks.")


def _decode(body: bytes) -> _Event:
    try:
        event = msgspec.json.decode(body, type=_Event)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise StripeEventError("The body is not an event as Stripe sends them.") from None
    if not 1 <= len(event.id) <= 255 or len(event.type) > 255 or len(event.api_version or "") > 100:
        raise StripeEventError("The body is not an event as Stripe sends them.")
    return event


async def _kept(connection: Connection, event: _Event) -> NewStripeEvent:
    """What is kept of an event: no more than tells it from others."""
    invoice_id, reason = await _subject(connection, event)
    return NewStripeEvent(
        event_id=event.id,
        type=event.type,
        livemode=event.livemode,
        api_version=event.api_version,
        invoice_id=invoice_id,
        outcome="ignored" if reason else "received",
        reason=reason,
    )


async def _subject(connection: Connection, event: _Event) -> tuple[str | None, str | None]:
    """The invoice of ours that an event is about, or why it is about none."""
    if not event.type.startswith(_ABOUT_INVOICES):
        return None, "unknown_type"
    about = event.data.object
    is_invoice = about.get("object") == "invoice"
    stripe_invoice_id = about.get("id") if is_invoice else about.get("invoice")
    named = _marks(about).get(INVOICE_KEY) if is_invoice else None
    found = await events_store.find_collection(connection, _text(stripe_invoice_id), _text(named))
    if found is None:
        return None, "not_ours"
    invoice_id, livemode = found
    return (invoice_id, None) if livemode == event.livemode else (None, "other_mode")


def _marks(about: dict[str, Any]) -> dict[str, Any]:
    try:
        return msgspec.convert(about.get("metadata"), dict[str, Any])
    except msgspec.ValidationError:
        return {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
