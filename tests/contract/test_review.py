"""Finance reviews over HTTP: two people, an approval of exactly what was seen, everything on record."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from billing.invoices import Invoice
from infra.database import open_pool
from tests.billing_world import add_account
from tests.contract.test_keys import code_of
from tests.contract.test_staff import added
from tests.invoice_world import AFTER_OCTOBER, DOLLARS, OCTOBER, close, run, use
from tests.stack import Stack


async def _draft(url: str, actor: str) -> Invoice:
    pool = await open_pool(url, 2, "aiaas-test")
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(url, tenant_id, DOLLARS)
    await close(pool, AFTER_OCTOBER)
    made = await run(pool, actor=actor)
    await pool.close()
    return next(one for one in made if one.tenant_id == tenant_id)


@pytest.fixture
def people(stack: Stack) -> Iterator[tuple[httpx.Client, httpx.Client, Invoice]]:
    """Who made an invoice, somebody else of finance, and the invoice."""
    maker, checker = added(stack), added(stack)
    invoice = asyncio.run(_draft(stack.cli("db-url")["url"], f"staff:{maker['staff_id']}"))
    with stack.http(maker["key"]) as one, stack.http(checker["key"]) as other:
        yield one, other, invoice


def test_an_invoice_goes_from_the_queue_to_being_paid_by_two_people(
    people: tuple[httpx.Client, httpx.Client, Invoice],
) -> None:
    maker, checker, invoice = people
    at = f"/v1/admin/invoices/{invoice.invoice_id}"
    queue = checker.get("/v1/admin/review-queue", params={"period": "2025-10", "limit": 200}).json()
    (item,) = [one for one in queue["data"] if one["invoice_id"] == invoice.invoice_id]
    assert [reason["code"] for reason in item["reasons"]] == ["first_invoice"]
    seen = {"content_sha256": item["content_sha256"]}

    said = maker.post(f"{at}/comments", json={"text": "第一張發票"}).json()
    assert checker.get(f"{at}/comments").json()["data"] == [said]
    assert code_of(maker.post(f"{at}/approve", json=seen)) == (403, "own_invoice")
    assert code_of(checker.post(f"{at}/approve", json={})) == (400, "missing_value")
    assert code_of(checker.post(f"{at}/approve", json={"content_sha256": "0" * 64})) == (
        409,
        "stale_approval",
    )
    assert code_of(checker.post(f"{at}/issue")) == (409, "invoice_state")
    assert checker.post(f"{at}/approve", json=seen).json()["status"] == "approved"
    issued = maker.post(f"{at}/issue").json()
    assert (issued["status"], issued["open"]) == ("issued", "15.00 USD")
    assert issued["number"].startswith("AG-")

    new = {"invoice_id": invoice.invoice_id, "lines": [{"line": 1, "amount_minor": 500}], "reason": "agreed"}
    note = maker.post("/v1/admin/credit-notes", json=new).json()
    there = f"/v1/admin/credit-notes/{note['credit_note_id']}"
    seen = {"content_sha256": note["content_sha256"]}
    assert code_of(maker.post(f"{there}/approve", json=seen)) == (403, "own_invoice")
    assert checker.post(f"{there}/approve", json=seen).status_code == 200
    assert checker.post(f"{there}/issue").json()["reduces_minor"] == 500
    listed = checker.get("/v1/admin/credit-notes", params={"invoice": invoice.invoice_id}).json()
    assert [one["status"] for one in listed["data"]] == ["issued"]
    assert code_of(checker.post(f"{at}/void", json={"reason": "no"})) == (409, "invoice_state")
    paid = checker.post(f"{at}/pay", json={"reference": "bank 1"}).json()
    assert (paid["status"], paid["credited_minor"], paid["open_minor"]) == ("paid", 500, 0)
    assert code_of(checker.post(f"{at}/write-off", json={"reason": "no"})) == (409, "invoice_state")

    trail, before = [], None
    while trail == [] or before is not None:
        query = {"subject": invoice.invoice_id, "limit": 5} | ({"before": before} if before else {})
        page = checker.get("/v1/admin/audit-events", params=query).json()
        trail, before = trail + page["data"], page["next"]
    told = [(event["action"], event["refused"]) for event in reversed(trail)]
    assert told == [
        ("made", False),
        ("comment", False),
        ("approve", True),
        ("approve", True),
        ("issue", True),
        ("approve", False),
        ("issue", False),
        ("credited", False),
        ("void", True),
        ("paid", False),
        ("uncollectible", True),
    ]


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("invoices/inv_none/approve", {"content_sha256": "0" * 64}, (404, "not_found")),
        ("invoices/a%00b/issue", None, (400, "invalid_value")),
        ("invoices/inv_none/send-back", {"reason": ""}, (400, "invalid_value")),
        ("invoices/inv_none/void", {"reason": "why", "reisue": True}, (400, "invalid_value")),
        ("credit-notes", {"invoice_id": "inv_none", "lines": [], "reason": "why"}, (400, "invalid_value")),
        ("credit-notes/crn_none/issue", None, (404, "not_found")),
    ],
)
def test_bad_requests_are_refused_with_one_clear_error(
    people: tuple[httpx.Client, httpx.Client, Invoice],
    path: str,
    body: dict[str, object] | None,
    code: tuple[int, str],
) -> None:
    assert code_of(people[1].post(f"/v1/admin/{path}", json=body)) == code
