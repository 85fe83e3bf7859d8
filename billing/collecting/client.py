"""The calls to Stripe, each with a bound on its time, and what their failures mean.

Repeats are not the library's but the collector's, with the same idempotency key. What Stripe says of an error
may quote what it was sent: of it only codes, the field's name and the request's id go further.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

import msgspec
import stripe
from stripe import HTTPXClient, StripeClient, StripeError, StripeObject

from billing.collecting.items import ITEM_KEY, TENANT_KEY, Item, Order
from billing.collecting.remote import API_VERSION, RemoteCreditNote, RemoteInvoice, RemoteLine
from billing.store.collecting import ContactRow
from infra.errors import DomainError, UnavailableError

_PAGE: Final = 100
_MOST_PAGES: Final = 2000
_MOST_LISTED: Final = 1000
_LONGEST_RETRY_AFTER_S: Final = 3600
_NOT_KEPT: Final = frozenset({401, 403, 409, 429})
_MISSING: Final = 404
_PAYMENTS: Final = ["payments.data.payment.payment_intent"]
T = TypeVar("T")


class StripeAwayError(UnavailableError):
    """Stripe did not answer, or not now: the same request again helps.

    Attributes:
        reason: a code, and Stripe's id of the request where it gave one.
        is_answered: the answer is kept with the idempotency key, so that asking again takes a new key.
    """

    def __init__(self, reason: str, retry_after_s: float = 1, is_answered: bool = False) -> None:
        super().__init__(f"Stripe does not answer for now ({reason}).", retry_after_s=retry_after_s)
        self.reason = reason
        self.is_answered = is_answered


class StripeRefusedError(DomainError):
    """Stripe will not do this; asking again does not help.

    Attributes:
        reason: codes, the field's name, and Stripe's id of the request.
        is_missing: what the request names is not there.
    """

    code = "stripe_refused"

    def __init__(self, reason: str, is_missing: bool = False) -> None:
        super().__init__(f"Stripe refused this ({reason}).")
        self.reason = reason
        self.is_missing = is_missing


class _Page(msgspec.Struct, frozen=True):
    data: list[dict[str, Any]]
    has_more: bool


class _Named(msgspec.Struct, frozen=True):
    id: str


class _ErrorDetail(msgspec.Struct, frozen=True):
    type: str | None = None
    code: str | None = None
    decline_code: str | None = None
    param: str | None = None


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _ErrorDetail


class StripeApi:
    """Stripe, as far as it is made use of. One event loop; close it in the end.

    Args:
        api_key: decides the mode: test or live.
        timeout_s: for each of connecting, sending, and waiting for the answer.
    """

    def __init__(self, api_key: str, api_base: str, timeout_s: float) -> None:
        stripe.enable_telemetry = False  # it would keep a file in the user's home
        self.livemode = "_live_" in api_key
        self._http = HTTPXClient(timeout=timeout_s)
        self._v1 = StripeClient(
            api_key,
            stripe_version=API_VERSION,
            base_addresses={"api": api_base},
            max_network_retries=0,
            http_client=self._http,
        ).v1

    async def close(self) -> None:
        """Close its connections."""
        await self._http.close_async()

    async def find_customer(self, tenant_id: str) -> str | None:
        """A customer that was made for the tenant; what was made within the last minute may not be found."""
        query = f"metadata['{TENANT_KEY}']:'{tenant_id}'"
        found = await _answer(self._v1.customers.search_async({"query": query, "limit": 1}), _Page)
        return msgspec.convert(found.data[0], _Named).id if found.data else None

    async def create_customer(self, tenant_id: str, key: str) -> str:
        """Make the tenant's customer."""
        made = self._v1.customers.create_async(
            {"metadata": {TENANT_KEY: tenant_id}}, {"idempotency_key": key}
        )
        return (await _answer(made, _Named)).id

    async def update_customer(self, customer_id: str, contact: ContactRow) -> None:
        """Say whom Stripe writes to."""
        await _answer(
            self._v1.customers.update_async(
                customer_id,
                {
                    "name": contact.name,
                    "email": contact.email,
                    "preferred_locales": [contact.language],
                },
            ),
            _Named,
        )

    async def list_invoices(
        self, since: datetime, customer_id: str | None = None
    ) -> AsyncIterator[RemoteInvoice]:
        """The invoices made since, of one customer or of all, the newest first."""
        params: Any = {"limit": _PAGE, "created": {"gte": int(since.timestamp())}}
        if customer_id:
            params["customer"] = customer_id
        for _ in range(_MOST_PAGES):
            page = await _answer(self._v1.invoices.list_async(params), _Page)
            for one in page.data:
                yield msgspec.convert(one, RemoteInvoice)
            if not page.has_more:
                return
            params["starting_after"] = msgspec.convert(page.data[-1], _Named).id
        raise StripeRefusedError("too_many_invoices")

    async def create_invoice(self, order: Order, customer_id: str, key: str) -> RemoteInvoice:
        """Make a draft without items, of which nothing is computed and which does nothing by itself."""
        params: Any = {
            "customer": customer_id,
            "currency": order.currency,
            "number": order.number,
            "collection_method": order.collection_method,
            "auto_advance": False,
            "automatic_tax": {"enabled": False},
            "discounts": "",
            "pending_invoice_items_behavior": "exclude",
            "metadata": order.metadata,
        }
        if order.collection_method == "send_invoice":
            params["days_until_due"] = order.days_until_due
        return await self._change(self._v1.invoices.create_async(params, {"idempotency_key": key}))

    async def add_items(self, stripe_invoice_id: str, items: Sequence[Item], key: str) -> None:
        """Add all items to a draft, in one request: all of them, or none."""
        lines: Any = [
            {
                "amount": item.amount,
                "description": item.description,
                "discountable": False,
                "metadata": {ITEM_KEY: str(number)},
            }
            for number, item in enumerate(items, 1)
        ]
        await self._change(
            self._v1.invoices.add_lines_async(stripe_invoice_id, {"lines": lines}, {"idempotency_key": key})
        )

    async def read_invoice(self, stripe_invoice_id: str) -> RemoteInvoice:
        """An invoice as it is now."""
        return await self._change(
            self._v1.invoices.retrieve_async(stripe_invoice_id, {"expand": list(_PAYMENTS)})
        )

    async def read_lines(self, stripe_invoice_id: str) -> list[RemoteLine]:
        """All lines of an invoice."""
        return await self._all(
            partial(self._v1.invoices.line_items.list_async, stripe_invoice_id), RemoteLine
        )

    async def finalise(self, stripe_invoice_id: str, key: str) -> None:
        """Make a draft final; nobody is told yet."""
        await self._change(
            self._v1.invoices.finalize_invoice_async(
                stripe_invoice_id, {"auto_advance": False}, {"idempotency_key": key}
            )
        )

    async def send(self, stripe_invoice_id: str, key: str) -> None:
        """Have Stripe e-mail it."""
        await self._change(
            self._v1.invoices.send_invoice_async(stripe_invoice_id, {}, {"idempotency_key": key})
        )

    async def pay(self, stripe_invoice_id: str, key: str, *, out_of_band: bool = False) -> None:
        """Charge the customer's default means of payment; or note that it was paid elsewhere."""
        params: Any = {"paid_out_of_band": True} if out_of_band else {}
        await self._change(self._v1.invoices.pay_async(stripe_invoice_id, params, {"idempotency_key": key}))

    async def advance(self, stripe_invoice_id: str) -> None:
        """Leave reminders and further charges to Stripe, as its account is set up."""
        await self._change(self._v1.invoices.update_async(stripe_invoice_id, {"auto_advance": True}))

    async def void(self, stripe_invoice_id: str, key: str) -> None:
        """Void a final invoice."""
        await self._change(
            self._v1.invoices.void_invoice_async(stripe_invoice_id, {}, {"idempotency_key": key})
        )

    async def mark_uncollectible(self, stripe_invoice_id: str, key: str) -> None:
        """Write it off; it can be paid all the same."""
        await self._change(
            self._v1.invoices.mark_uncollectible_async(stripe_invoice_id, {}, {"idempotency_key": key})
        )

    async def list_credit_notes(self, stripe_invoice_id: str) -> list[RemoteCreditNote]:
        """All credit notes of an invoice."""
        return await self._all(self._v1.credit_notes.list_async, RemoteCreditNote, invoice=stripe_invoice_id)

    async def create_credit_note(
        self,
        stripe_invoice_id: str,
        amount: int,
        out_of_band: int,
        memo: str,
        metadata: dict[str, str],
        key: str,
    ) -> None:
        """Take an amount off an invoice: off what is open of it, but for what is given back elsewhere."""
        params: Any = {"invoice": stripe_invoice_id, "amount": amount, "memo": memo, "metadata": metadata}
        if out_of_band:
            params["out_of_band_amount"] = out_of_band
        await _answer(self._v1.credit_notes.create_async(params, {"idempotency_key": key}), RemoteCreditNote)

    async def delete(self, stripe_invoice_id: str) -> None:
        """Delete a draft."""
        await _answer(self._v1.invoices.delete_async(stripe_invoice_id), _Named)

    @staticmethod
    async def _all(
        list_page: Callable[[Any], Awaitable[StripeObject]], kind: type[T], **params: Any
    ) -> list[T]:
        """All of a list that is known to be short."""
        found: list[T] = []
        params["limit"] = _PAGE
        while len(found) < _MOST_LISTED:
            page = await _answer(list_page(params), _Page)
            found += msgspec.convert(page.data, list[kind])
            if not page.has_more:
                break
            params["starting_after"] = msgspec.convert(page.data[-1], _Named).id
        return found

    @staticmethod
    async def _change(request: Awaitable[StripeObject]) -> RemoteInvoice:
        return await _answer(request, RemoteInvoice)


async def _answer(request: Awaitable[StripeObject], kind: type[T]) -> T:
    """What Stripe answers.

    Raises:
        StripeAwayError, StripeRefusedError: see there.
    """
    try:
        found = (await request).to_dict()
    except StripeError as error:
        raise _failure(error) from None
    try:
        return msgspec.convert(found, kind)
    except msgspec.ValidationError:
        raise StripeRefusedError("unexpected_answer") from None


def _failure(error: StripeError) -> StripeAwayError | StripeRefusedError:
    """What an error means.

    With a key that is wrong no invoice is: all wait for a good one. Stripe keeps what it answered with the
    idempotency key, errors of its own included, but not that it was too busy, or at work on the same already.
    """
    status, reason = error.http_status, " ".join(_words(error))
    if isinstance(error, stripe.APIConnectionError):
        return StripeAwayError("no_answer")
    if status in _NOT_KEPT or isinstance(error, stripe.RateLimitError):
        return StripeAwayError(reason, _retry_after_s(error))
    if isinstance(error, stripe.IdempotencyError) or status is None or not 400 <= status < 500:
        return StripeAwayError(reason, _retry_after_s(error), is_answered=True)
    return StripeRefusedError(reason, is_missing=status == _MISSING)


def _words(error: StripeError) -> list[str]:
    words: list[object] = [f"http_{error.http_status}"]
    with suppress(msgspec.ValidationError):
        told = msgspec.convert(error.json_body, _ErrorBody).error
        words += [told.type, told.code, told.decline_code, told.param]
    return [str(word)[:100] for word in (*words, error.request_id) if word]


def _retry_after_s(error: StripeError) -> int:
    given = str((error.headers or {}).get("retry-after", ""))
    return min(int(given), _LONGEST_RETRY_AFTER_S) if given.isdecimal() else 1
