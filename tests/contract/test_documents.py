"""Documents over HTTP and by command: the vendor's and the tenant's, and nobody else's."""

import asyncio
from pathlib import Path

from billing.issuing import approve, issue
from infra.database import open_pool
from tests.billing_world import add_account
from tests.contract.conftest import TenantOfTest
from tests.contract.test_keys import code_of
from tests.contract.test_staff import added
from tests.documents_world import read, text_of
from tests.invoice_world import AFTER_OCTOBER, CHECKER, DOLLARS, OCTOBER, close, run, use
from tests.stack import Stack


def drafted(stack: Stack, tenant: TenantOfTest) -> str:
    """The tenant's draft of the month it is in."""
    with stack.http(tenant.key) as http:
        assert http.post("/v1/intents", json={"model": "retail-en", "text": "hello"}).status_code == 200
        period = http.get("/v1/usage").json()["period"]
    made = stack.cli("invoice", "run", "--period", period)["invoices"]
    return next(one["invoice_id"] for one in made if one["tenant_id"] == tenant.tenant_id)


def test_documents_are_downloads_for_those_who_may_have_them(
    stack: Stack, tenant: TenantOfTest, tmp_path: Path
) -> None:
    invoice_id = drafted(stack, tenant)
    with stack.http(added(stack)["key"]) as http:
        answer = http.get(f"/v1/admin/invoices/{invoice_id}/pdf", params={"language": "zh-TW"})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/pdf"
        assert answer.headers["content-disposition"] == f'attachment; filename="draft-{invoice_id}.pdf"'
        assert answer.headers["cache-control"] == "private, no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "草稿" in text_of(read(answer.content))
        lines = http.get(f"/v1/admin/invoices/{invoice_id}/lines.csv")
        assert lines.headers["content-type"] == "text/csv; charset=utf-8"
        assert lines.content.startswith(b"\xef\xbb\xbfinvoice_id,")
        refused = http.get(f"/v1/admin/invoices/{invoice_id}/pdf", params={"language": "de"})
        assert (*code_of(refused), refused.json()["error"]["param"]) == (400, "invalid_value", "language")
        assert code_of(http.get("/v1/admin/invoices/inv_x/lines.csv")) == (404, "not_found")
    with stack.http(tenant.key) as http:
        assert code_of(http.get(f"/v1/invoices/{invoice_id}/pdf")) == (404, "not_found")
        assert code_of(http.get(f"/v1/admin/invoices/{invoice_id}/pdf")) == (401, "wrong_kind_of_key")
    out = tmp_path / "a.pdf"
    assert stack.cli("invoice", "pdf", invoice_id, "--out", str(out))["file"] == str(out)
    assert "DRAFT" in text_of(read(out.read_bytes()))
    printed = stack.run_cli("invoice", "lines", invoice_id, "--csv")
    assert printed.stdout.startswith("\ufeffinvoice_id,")
    assert stack.cli("invoice", "lines", invoice_id)["lines"][0]["meter"] == "intent.calls"
    for arguments in (["pdf", "inv_x"], ["lines", "inv_x"], ["pdf", invoice_id, "--out", "/none/a.pdf"]):
        done = stack.run_cli("invoice", *arguments)
        assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)


async def _issue(url: str) -> tuple[str, str]:
    """A tenant, and its issued invoice of a past month."""
    pool = await open_pool(url, 2, "aiaas-test")
    try:
        tenant_id = await add_account(pool, now=OCTOBER)
        await use(url, tenant_id, DOLLARS)
        await close(pool, AFTER_OCTOBER)
        made = next(one for one in await run(pool) if one.tenant_id == tenant_id)
        await approve(pool, made.invoice_id, CHECKER)
        await issue(pool, made.invoice_id, CHECKER)
    finally:
        await pool.close()
    return tenant_id, made.invoice_id


def test_a_tenant_downloads_its_own_issued_invoice_and_nobody_elses(
    stack: Stack, tenant: TenantOfTest
) -> None:
    tenant_id, invoice_id = asyncio.run(_issue(stack.cli("db-url")["url"]))
    key = stack.cli("key", "create", "--tenant", tenant_id)["key"]
    with stack.http(key) as http:
        answer = http.get(f"/v1/invoices/{invoice_id}/pdf")
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/pdf")
        assert answer.headers["content-disposition"].endswith('.pdf"')
        assert "Amount due US$15.00" in text_of(read(answer.content))
        assert code_of(http.get("/v1/credit-notes/crn_x/pdf")) == (404, "not_found")
    with stack.http(tenant.key) as http:
        assert code_of(http.get(f"/v1/invoices/{invoice_id}/pdf")) == (404, "not_found")
