"""What Stripe keeps, and its rules: customers, invoices and their lines, credit notes, events.

Written from the published API reference and the types of the `stripe` package, with none of our code.
"""

import itertools
import re
import time
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
MINIMA = {"usd": 50, "eur": 50, "hkd": 400, "cny": 400, "jpy": 50, "twd": 1500}
WHOLE_ONLY = {"twd": 100}  # two decimals, which must be zero
MOST_LINES = 250


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, code: str, param: str | None = None, kind: str = "invalid_request_error"):
        super().__init__(code)
        self.status = status
        self.body: Json = {"error": {"type": kind, "code": code, "message": "about it", "param": param}}


class StripeObjects:
    """One account in test mode.

    Attributes:
        charge: what becomes of charges: `succeeded`, `declined`, `requires_action` or `processing`.
        tamper: may change an invoice when it is read, as somebody in the dashboard does.
    """

    def __init__(self) -> None:
        self.customers: dict[str, Json] = {}
        self.invoices: dict[str, Json] = {}
        self.lines: dict[str, list[Json]] = {}
        self.credit_notes: dict[str, Json] = {}
        self.events: list[Json] = []
        self.emails: list[str] = []
        self.charge = "succeeded"
        self.tamper: Callable[[Json], None] = lambda invoice: None
        self.now_s: Callable[[], int] = lambda: int(time.time())
        self._ids = itertools.count(1)

    # Customers

    def create_customer(self, given: Json) -> Json:
        customer = {
            "id": self._id("cus"),
            "object": "customer",
            "created": self.now_s(),
            "livemode": False,
            "balance": 0,
            "email": None,
            "name": None,
            "metadata": {},
            **given,
        }
        self.customers[customer["id"]] = customer
        return customer

    def update_customer(self, customer_id: str, given: Json) -> Json:
        customer = self._customer(customer_id)
        customer.update(given)
        return customer

    def search_customers(self, given: Json) -> Json:
        match = re.fullmatch(r"metadata\['(\w+)'\]:'([\w-]+)'", given["query"])
        assert match is not None, given["query"]
        found = [one for one in self.customers.values() if one["metadata"].get(match[1]) == match[2]]
        return {"object": "search_result", "url": "/v1/customers/search", "data": found, "has_more": False}

    # Invoices

    def create_invoice(self, given: Json) -> Json:
        customer = self._customer(given["customer"])
        sends = given.get("collection_method") == "send_invoice"
        if sends and "days_until_due" not in given and "due_date" not in given:
            raise ApiError(400, "parameter_missing", "days_until_due")
        if not sends and "days_until_due" in given:
            raise ApiError(400, "parameter_unknown", "days_until_due")
        if len(given.get("number", "")) > 26:
            raise ApiError(400, "invalid_string_length", "number")
        now_s = self.now_s()
        invoice = _blank_invoice(self._id("in"), now_s)
        invoice |= {
            "customer": customer["id"],
            "customer_email": customer["email"],
            "customer_name": customer["name"],
            "currency": given["currency"],
            "number": given.get("number"),
            "auto_advance": given.get("auto_advance") == "true",
            "collection_method": given.get("collection_method", "charge_automatically"),
            "due_date": now_s + 86_400 * int(given["days_until_due"]) if sends else None,
            "metadata": given.get("metadata", {}),
            "starting_balance": customer["balance"],
        }
        self.invoices[invoice["id"]] = invoice
        self.lines[invoice["id"]] = []
        self._emit("invoice.created", invoice)
        return self._shown(invoice)

    def read_invoice(self, invoice_id: str) -> Json:
        return self._shown(self._invoice(invoice_id))

    def list_invoices(self, given: Json) -> Json:
        since = int(given.get("created", {}).get("gte", 0))
        found = [
            self._shown(one)
            for one in reversed(self.invoices.values())
            if given.get("customer") in (None, one["customer"]) and one["created"] >= since
        ]
        return _page(found, given, "/v1/invoices")

    def update_invoice(self, invoice_id: str, given: Json) -> Json:
        invoice = self._invoice(invoice_id)
        _require(invoice, "draft", "open")
        invoice["auto_advance"] = given["auto_advance"] == "true"
        self._emit("invoice.updated", invoice)
        return self._shown(invoice)

    def delete_invoice(self, invoice_id: str) -> Json:
        invoice = self._invoice(invoice_id)
        _require(invoice, "draft")
        del self.invoices[invoice_id]
        self._emit("invoice.deleted", invoice)
        return {"id": invoice_id, "object": "invoice", "deleted": True}

    def add_lines(self, invoice_id: str, given: Json) -> Json:
        invoice = self._invoice(invoice_id)
        _require(invoice, "draft")
        added = [self._line(invoice, one) for one in given["lines"].values()]
        if len(self.lines[invoice_id]) + len(added) > MOST_LINES:
            raise ApiError(400, "invoice_too_many_items", "lines")
        self.lines[invoice_id] += added
        total = sum(line["amount"] for line in self.lines[invoice_id])
        due = max(0, total + invoice["starting_balance"])
        invoice |= {"total": total, "subtotal": total, "amount_due": due, "amount_remaining": due}
        self._emit("invoice.updated", invoice)
        return self._shown(invoice)

    def list_lines(self, invoice_id: str, given: Json) -> Json:
        self._invoice(invoice_id)
        return _page(self.lines[invoice_id], given, f"/v1/invoices/{invoice_id}/lines")

    def finalise(self, invoice_id: str, given: Json) -> Json:
        invoice = self._invoice(invoice_id)
        _require(invoice, "draft")
        currency, total = invoice["currency"], invoice["total"]
        if total % WHOLE_ONLY.get(currency, 1):
            raise ApiError(400, "invalid_amount", "amount")
        due = max(0, total + invoice["starting_balance"])
        # What is too little to charge is owed with the next invoice, and this one is paid.
        kept = due if due < MINIMA[currency] else 0
        invoice |= {
            "status": "paid" if due == kept else "open",
            "amount_due": due - kept,
            "amount_remaining": due - kept,
            "ending_balance": kept,
            "auto_advance": given.get("auto_advance") == "true",
            "status_transitions": invoice["status_transitions"] | {"finalized_at": self.now_s()},
        }
        self._emit("invoice.finalized", invoice)
        return self._shown(invoice)

    def send(self, invoice_id: str) -> Json:
        invoice = self._invoice(invoice_id)
        _require(invoice, "open")
        if not self._customer(invoice["customer"])["email"]:
            raise ApiError(400, "missing_email", "customer")
        self.emails.append(invoice_id)
        self._emit("invoice.sent", invoice)
        return self._shown(invoice)

    def pay(self, invoice_id: str, given: Json) -> Json:
        invoice = self._invoice(invoice_id)
        _require(invoice, "open", "uncollectible")
        if given.get("paid_out_of_band") == "true":
            invoice |= {"amount_paid_off_stripe": invoice["amount_remaining"]}
            return self._shown(self.receive_payment(invoice_id))
        invoice |= {"attempted": True, "attempt_count": invoice["attempt_count"] + 1}
        intents = {"declined": "requires_payment_method"}
        invoice["payments"] = [self._payment(invoice, intents.get(self.charge, self.charge))]
        if self.charge == "succeeded":
            return self._shown(self.receive_payment(invoice_id))
        if self.charge == "declined":
            invoice["next_payment_attempt"] = self.now_s() + 3 * 86_400
            self._emit("invoice.payment_failed", invoice)
            raise ApiError(402, "card_declined", kind="card_error")
        if self.charge == "requires_action":
            self._emit("invoice.payment_action_required", invoice)
            raise ApiError(402, "invoice_payment_intent_requires_action", kind="card_error")
        return self._shown(invoice)

    def receive_payment(self, invoice_id: str, amount: int | None = None) -> Json:
        """The customer pays, as on the page that Stripe hosts."""
        invoice = self.invoices[invoice_id]
        paid = invoice["amount_paid"] + (invoice["amount_remaining"] if amount is None else amount)
        left = max(0, invoice["amount_due"] - paid)
        over = max(0, paid - invoice["amount_due"])
        invoice |= {
            "amount_paid": paid,
            "amount_overpaid": over,
            "amount_remaining": left,
            "attempted": True,
            "status": invoice["status"] if left else "paid",
            "auto_advance": invoice["auto_advance"] and left > 0,
        }
        self._emit("invoice.payment_succeeded" if left else "invoice.paid", invoice)
        return invoice

    def void(self, invoice_id: str) -> Json:
        return self._end(invoice_id, "void", "voided", "open", "uncollectible")

    def mark_uncollectible(self, invoice_id: str) -> Json:
        return self._end(invoice_id, "uncollectible", "marked_uncollectible", "open")

    # Credit notes

    def create_credit_note(self, given: Json) -> Json:
        invoice = self._invoice(given["invoice"])
        _require(invoice, "open", "paid")
        amount = int(given["amount"])
        before = min(amount, invoice["amount_remaining"])
        after = amount - before
        outside = int(given.get("out_of_band_amount", 0)) + int(given.get("credit_amount", 0))
        outside += int(given.get("refund_amount", 0))
        credited = invoice["pre_payment_credit_notes_amount"] + invoice["post_payment_credit_notes_amount"]
        if amount <= 0 or credited + amount > invoice["total"] or outside != after:
            raise ApiError(400, "credit_note_amount", "amount")
        invoice["pre_payment_credit_notes_amount"] += before
        invoice["post_payment_credit_notes_amount"] += after
        invoice["amount_remaining"] -= before
        invoice["amount_due"] -= before
        if not invoice["amount_remaining"] and invoice["status"] == "open":
            invoice |= {"status": "paid", "auto_advance": False}
        note = _blank_credit_note(self._id("cn"), invoice, self.now_s(), amount, before)
        note |= {"metadata": given.get("metadata", {}), "memo": given.get("memo")}
        note["out_of_band_amount"] = (
            int(given["out_of_band_amount"]) if "out_of_band_amount" in given else None
        )
        self.credit_notes[note["id"]] = note
        self._emit("credit_note.created", note)
        return note

    def list_credit_notes(self, given: Json) -> Json:
        found = [one for one in self.credit_notes.values() if one["invoice"] == given["invoice"]]
        return _page(list(reversed(found)), given, "/v1/credit_notes")

    # What holds it together

    def _end(self, invoice_id: str, status: str, moment: str, *before: str) -> Json:
        invoice = self._invoice(invoice_id)
        _require(invoice, *before)
        invoice |= {"status": status, "auto_advance": False}
        invoice["status_transitions"] |= {f"{moment}_at": self.now_s()}
        self._emit(f"invoice.{moment}", invoice)
        return self._shown(invoice)

    def _shown(self, invoice: Json) -> Json:
        shown = dict(invoice)
        embedded = self.lines[invoice["id"]][:10]
        has_more = len(self.lines[invoice["id"]]) > 10
        shown["lines"] = _list(embedded, f"/v1/invoices/{invoice['id']}/lines", has_more)
        shown["payments"] = _list(invoice["payments"], "/v1/invoice_payments", False)
        self.tamper(shown)
        return shown

    def _emit(self, kind: str, about: Json) -> None:
        self.events.append(
            {
                "id": self._id("evt"),
                "object": "event",
                "type": kind,
                "api_version": "2026-10-28.endive",
                "created": self.now_s(),
                "livemode": False,
                "pending_webhooks": 1,
                "request": None,
                "data": {"object": dict(about)},
            }
        )

    def _line(self, invoice: Json, given: Json) -> Json:
        return {
            "id": self._id("il"),
            "object": "line_item",
            "amount": int(given["amount"]),
            "subtotal": int(given["amount"]),
            "currency": invoice["currency"],
            "description": given.get("description"),
            "discount_amounts": [],
            "discountable": given.get("discountable") == "true",
            "discounts": [],
            "invoice": invoice["id"],
            "livemode": False,
            "metadata": given.get("metadata", {}),
            "parent": None,
            "period": {"start": invoice["created"], "end": invoice["created"]},
            "pretax_credit_amounts": [],
            "pricing": None,
            "quantity": 1,
            "subscription": None,
            "taxes": [],
        }

    def _payment(self, invoice: Json, status: str) -> Json:
        return {
            "id": self._id("inpay"),
            "object": "invoice_payment",
            "amount_paid": None,
            "amount_requested": invoice["amount_remaining"],
            "created": self.now_s(),
            "currency": invoice["currency"],
            "invoice": invoice["id"],
            "is_default": True,
            "livemode": False,
            "payment": {
                "type": "payment_intent",
                "payment_intent": {"id": self._id("pi"), "object": "payment_intent", "status": status},
            },
            "status": "paid" if status == "succeeded" else "open",
            "status_transitions": {"canceled_at": None, "paid_at": None},
        }

    def _customer(self, customer_id: str) -> Json:
        if customer_id not in self.customers:
            raise ApiError(400, "resource_missing", "customer")
        return self.customers[customer_id]

    def _invoice(self, invoice_id: str) -> Json:
        if invoice_id not in self.invoices:
            raise ApiError(404, "resource_missing", "invoice")
        return self.invoices[invoice_id]

    def _id(self, prefix: str) -> str:
        return f"{prefix}_{next(self._ids):06d}"


def _require(invoice: Json, *statuses: str) -> None:
    if invoice["status"] not in statuses:
        raise ApiError(400, "invoice_not_editable")


def _page(found: list[Json], given: Json, url: str) -> Json:
    limit = int(given.get("limit", 10))
    if not 1 <= limit <= 100:
        raise ApiError(400, "parameter_invalid_integer", "limit")
    ids = [one["id"] for one in found]
    begin = ids.index(given["starting_after"]) + 1 if "starting_after" in given else 0
    return _list(found[begin : begin + limit], url, len(found) > begin + limit)


def _list(data: list[Json], url: str, has_more: bool) -> Json:
    return {"object": "list", "url": url, "data": data, "has_more": has_more}


def _blank_invoice(invoice_id: str, now_s: int) -> Json:
    amounts = (
        *("amount_due", "amount_overpaid", "amount_paid", "amount_remaining", "amount_shipping"),
        *("post_payment_credit_notes_amount", "pre_payment_credit_notes_amount"),
        *("starting_balance", "subtotal", "total", "attempt_count"),
    )
    return dict.fromkeys(amounts, 0) | {
        "id": invoice_id,
        "object": "invoice",
        "status": "draft",
        "attempted": False,
        "automatic_tax": {"enabled": False, "liability": None, "provider": None, "status": None},
        "billing_reason": "manual",
        "created": now_s,
        "default_tax_rates": [],
        "discounts": [],
        "ending_balance": None,
        "issuer": {"type": "self"},
        "livemode": False,
        "next_payment_attempt": None,
        "payment_settings": {
            "default_mandate": None,
            "payment_method_options": None,
            "payment_method_types": None,
        },
        "payments": [],
        "period_end": now_s,
        "period_start": now_s,
        "status_transitions": {
            "finalized_at": None,
            "marked_uncollectible_at": None,
            "paid_at": None,
            "voided_at": None,
        },
        "total_taxes": [],
    }


def _blank_credit_note(note_id: str, invoice: Json, now_s: int, amount: int, before: int) -> Json:
    return {
        "id": note_id,
        "object": "credit_note",
        "amount": amount,
        "amount_shipping": 0,
        "created": now_s,
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "discount_amount": 0,
        "discount_amounts": [],
        "invoice": invoice["id"],
        "lines": _list([], f"/v1/credit_notes/{note_id}/lines", False),
        "livemode": False,
        "number": f"{invoice['number']}-CN-{note_id}",
        "pdf": "",
        "post_payment_amount": amount - before,
        "pre_payment_amount": before,
        "pretax_credit_amounts": [],
        "reason": None,
        "refunds": [],
        "status": "issued",
        "subtotal": amount,
        "total": amount,
        "type": "pre_payment" if before == amount else "post_payment" if not before else "mixed",
    }
