"""Stripe's events at the real gateway, and what finance sees of collecting."""

import json

import httpx
import psycopg

from tests.contract.test_keys import code_of
from tests.contract.test_staff import added
from tests.fake_stripe import FakeStripe
from tests.stack import Stack

EVENT = {
    "id": "evt_contract",
    "object": "event",
    "type": "invoice.paid",
    "livemode": False,
    "data": {"object": {"id": "in_elsewhere", "object": "invoice"}},
}


def post(stack: Stack, body: bytes, signature: str) -> httpx.Response:
    headers = {"content-type": "application/json", "stripe-signature": signature}
    return httpx.post(f"{stack.url}/v1/stripe/webhook", content=body, headers=headers)


def test_an_event_is_taken_when_it_is_signed_and_refused_in_one_way_each_when_not(stack: Stack) -> None:
    body, signature = FakeStripe.signed(EVENT)
    assert post(stack, body, signature).json() == {"outcome": "ignored"}
    assert post(stack, body, signature).json() == {"outcome": "repeated"}
    assert code_of(post(stack, body + b" ", signature)) == (400, "stripe_signature_invalid")
    assert code_of(post(stack, body, "")) == (400, "stripe_signature_invalid")
    assert code_of(post(stack, *FakeStripe.signed(EVENT, at_s=1))) == (400, "stripe_timestamp_invalid")
    assert code_of(post(stack, b"{}" * 2**20, signature)) == (413, "body_too_large")
    with psycopg.connect(stack.cli("db-url")["url"]) as connection:
        kept = connection.execute("SELECT event_id, outcome FROM billing.stripe_event").fetchall()
        refused = connection.execute(
            "SELECT count(DISTINCT detail ->> 'code') FROM billing.audit_event "
            "WHERE subject = 'stripe' AND refused"
        ).fetchone()
    assert kept == [("evt_contract", "ignored")]
    assert refused == (2,)


def test_finance_lists_collections_and_without_a_key_there_are_none(stack: Stack) -> None:
    with stack.http(added(stack)["key"]) as http:
        listed = http.get("/v1/admin/collections", params={"status": "mismatch", "limit": 5})
        assert listed.json() == {"data": [], "next": None, "object": "list"}
        assert http.get("/v1/admin/collections", params={"status": "lost"}).status_code == 400
    assert stack.cli("collection", "list", "--state", "failed") == {"collections": []}
    for command in (["show", "inv_none"], ["add", "inv_none"], ["retry", "inv_none"], ["compare"]):
        done = stack.run_cli("collection", *command, "--json")
        assert done.returncode == 1
        assert done.stderr.startswith("Error: ")
        assert len(done.stderr.strip().splitlines()) == 1
    assert json.loads(stack.run_cli("collection", "list", "--json").stdout) == {"collections": []}
