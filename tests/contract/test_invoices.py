"""Invoices over HTTP: finance walks from a line down to its calls; a tenant sees its own, once issued."""

import csv
import io
import secrets
from hashlib import sha256

import httpx
import pytest

from tests.contract.conftest import TenantOfTest
from tests.contract.test_keys import code_of
from tests.stack import Stack, wait_until

BAD = (
    ("/v1/admin/invoices?period=soon", 400),
    ("/v1/admin/invoices?status=lost", 400),
    ("/v1/admin/invoices?after=inv_none", 400),
    ("/v1/admin/invoices?limit=0", 400),
    ("/v1/admin/invoices/inv_none", 404),
    ("/v1/admin/invoices/inv_none/verify", 404),
    ("/v1/admin/invoices/inv_none/calls.csv", 404),
    ("/v1/admin/invoices/inv_none/lines/1/calls", 404),
    ("/v1/admin/invoices/inv_none/lines/1/calls?format=csv", 404),
    ("/v1/admin/invoices/inv_none/lines/1/calls?after=x", 400),
)


@pytest.fixture(scope="module")
def finance(stack: Stack) -> httpx.Client:
    email = f"{secrets.token_hex(6)}@example.com"
    return stack.http(stack.cli("staff", "add", "Mei", "--email", email, "--role", "finance")["key"])


def test_finance_walks_from_an_invoice_down_to_its_calls(
    stack: Stack, tenant: TenantOfTest, finance: httpx.Client
) -> None:
    with stack.http(tenant.key) as http:
        texts = ["where is my parcel", "cancel my order", "my shoes are broken"]
        answers = [http.post("/v1/intents", json={"model": "retail-en", "text": text}) for text in texts]
        call_ids = {answer.headers["x-aiaas-call-id"] for answer in answers}
        period = http.get("/v1/usage").json()["period"]
    made = stack.cli("invoice", "run", "--period", period)["invoices"]
    mine = next(one for one in made if one["tenant_id"] == tenant.tenant_id)
    path = f"/v1/admin/invoices/{mine['invoice_id']}"

    listed = finance.get("/v1/admin/invoices", params={"tenant": tenant.tenant_id, "period": period})
    assert [one["invoice_id"] for one in listed.json()["data"]] == [mine["invoice_id"]]
    invoice = finance.get(path).json()
    (line,) = invoice["lines"]
    assert (line["meter"], line["calls"], line["units"]) == ("intent.calls", 3, 3)

    first = finance.get(f"{path}/lines/1/calls", params={"limit": 2}).json()
    rest = finance.get(f"{path}/lines/1/calls", params={"limit": 2, "after": first["next"]}).json()
    assert {row["call_id"] for row in (*first["data"], *rest["data"])} == call_ids
    assert (len(first["data"]), rest["next"]) == (2, None)

    exported = finance.get(f"{path}/calls.csv")
    assert exported.headers["content-type"].startswith("text/csv")
    assert exported.headers["content-disposition"] == f'attachment; filename="{mine["invoice_id"]}-calls.csv"'
    assert len(list(csv.reader(io.StringIO(exported.text)))) == 1 + 3
    assert finance.get(f"{path}/lines/1/calls", params={"format": "csv"}).text == exported.text
    assert finance.get(f"{path}/lines/2/calls", params={"format": "csv"}).status_code == 404
    printed = stack.run_cli("invoice", "calls", mine["invoice_id"], "--csv").stdout
    assert sha256(printed.encode()).digest() == sha256(exported.content).digest()

    proof = finance.get(f"{path}/verify").json()
    assert (proof["ok"], proof["differences"]) == (True, [])


def test_a_tenant_sees_no_draft_and_nothing_of_others(
    stack: Stack, tenant: TenantOfTest, finance: httpx.Client
) -> None:
    with stack.http(tenant.key) as http:
        http.post("/v1/intents", json={"model": "retail-en", "text": "where is my parcel"})
        period = http.get("/v1/usage").json()["period"]
        made = stack.cli("invoice", "run", "--period", period)["invoices"]
        mine = next(one for one in made if one["tenant_id"] == tenant.tenant_id)
        assert http.get("/v1/invoices").json() == {"object": "list", "data": [], "next": None}
        for path in (mine["invoice_id"], f"{mine['invoice_id']}/lines/1/calls", "inv_none"):
            assert code_of(http.get(f"/v1/invoices/{path}")) == (404, "not_found")
        assert code_of(http.get("/v1/admin/invoices")) == (401, "wrong_kind_of_key")


def test_a_run_asked_for_is_worked_on_by_the_worker(
    stack: Stack, tenant: TenantOfTest, finance: httpx.Client
) -> None:
    with stack.http(tenant.key) as http:
        http.post("/v1/intents", json={"model": "retail-en", "text": "where is my parcel"})
        period = http.get("/v1/usage").json()["period"]
    run = finance.post("/v1/admin/invoice-runs", json={"period": period}).json()
    path = f"/v1/admin/invoice-runs/{run['run_id']}"
    assert (run["period"], run["state"]) == (period, "waiting")
    assert run["requested_by"] == f"staff:{finance.get('/v1/admin/me').json()['id']}"
    assert wait_until(lambda: finance.get(path).json()["state"] == "done", 20)
    done = finance.get(path).json()
    assert done["tenants_done"] == done["tenants_total"] == done["months_open"] >= 1
    listed = finance.get("/v1/admin/invoices", params={"tenant": tenant.tenant_id}).json()["data"]
    assert [one["status"] for one in listed] == ["draft"]

    for body, status in (({"period": "2199-01"}, 400), ({"period": "soon"}, 400), ({}, 400)):
        assert finance.post("/v1/admin/invoice-runs", json=body).status_code == status
    assert finance.get("/v1/admin/invoice-runs/run_none").status_code == 404


def test_finance_sets_how_a_tenant_is_billed_and_by_whom(tenant: TenantOfTest, finance: httpx.Client) -> None:
    issuer = f"/v1/admin/issuers/{tenant.tenant_id[4:].lower()}"
    put = finance.put(issuer, json={"name": "台灣分公司", "number_prefix": "TW-"})
    assert (put.status_code, finance.get(issuer).json()) == (200, put.json())
    profile = f"/v1/admin/tenants/{tenant.tenant_id}/billing-profile"
    assert finance.get(profile).json()["name"] == "Test tenant"
    body = {"name": "宏達", "tax_name": "VAT", "tax_ppm": 50_000, "issuer_id": put.json()["issuer_id"]}
    put = finance.put(profile, json=body)
    assert (put.status_code, finance.get(profile).json()) == (200, put.json())
    for wrong in ({"name": ""}, {**body, "tax_ppm": -1}, {**body, "issuer_id": "nobody"}, {"nome": "A"}):
        assert finance.put(profile, json=wrong).status_code == 400
    assert finance.get(profile).json() == put.json()
    for path in ("/v1/admin/issuers/nobody", "/v1/admin/tenants/ten_none/billing-profile"):
        assert code_of(finance.get(path)) == (404, "not_found")


def test_bad_input_is_one_error(finance: httpx.Client) -> None:
    for path, status in BAD:
        answer = finance.get(path)
        assert answer.status_code == status, path
        assert set(answer.json()["error"]) == {"message", "type", "code", "param"}
