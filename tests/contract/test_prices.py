"""Prices from a file, over the command line and over HTTP, to a changed plan and a replayed month."""

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.contract.conftest import TenantOfTest
from tests.contract.test_bad_input import assert_error
from tests.contract.test_staff import added
from tests.price_world import price
from tests.stack import Stack

AS_JSON = {"content-type": "application/json"}
YAML = """
prices:
  - plan: {plan}
    currency: USD
    meters:
      asr.audio_ms: {{per: 60000, tiers: [{{price: 0.006}}]}}
      intent.calls: {{tiers: [{{up_to: 100, price: "0.001"}}, {{price: "0.0005"}}]}}
      tts.characters: {{per: 1000000, model: package, tiers: [{{price: "20"}}]}}
"""


@pytest.fixture
def finance(stack: Stack) -> Iterator[httpx.Client]:
    with stack.http(added(stack)["key"]) as http:
        yield http


@pytest.fixture
def plan(stack: Stack) -> str:
    name = f"plan-{secrets.token_hex(4)}"
    stack.cli("plan", "set", name, "--requests-per-minute", "1000")
    return name


def test_a_price_file_is_checked_loaded_listed_shown_and_previewed(
    stack: Stack, plan: str, tmp_path: Path
) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(YAML.format(plan=plan))
    (told,) = stack.cli("price", "check", str(file))["prices"]
    assert (told["is_new"], told["price_version_id"]) == (True, None)
    (made,) = stack.cli("price", "load", str(file))["prices"]
    (again,) = stack.cli("price", "load", str(file))["prices"]
    assert (again["is_new"], again["price_version_id"]) == (False, made["price_version_id"])
    (listed,) = stack.cli("price", "list", "--plan", plan)["prices"]
    assert listed == stack.cli("price", "show", made["price_version_id"])
    assert listed["meters"]["intent.calls"]["tiers"][0] == {"price": "0.001", "up_to": 100}
    for version in (made["price_version_id"], str(file)):
        (told,) = stack.cli("price", "preview", version, "--units", "intent.calls=150")["previews"]
        assert told["total"] == "0.13 USD"
    assert "nothing changes" in stack.run_cli("price", "check", str(file)).stdout
    assert "0.001 USD up to 100" in stack.run_cli("price", "show", made["price_version_id"]).stdout
    assert (
        "100 at 0.001 USD; 50 at 0.0005 USD"
        in stack.run_cli("price", "preview", str(file), "--units", "intent.calls=150").stdout
    )
    replayed = stack.run_cli("price", "what-if", str(file), "--period", "2026-01", "--csv")
    assert replayed.stdout.strip() == "tenant_id,currency,before_minor,after_minor,difference_minor"


def test_a_bad_file_or_command_is_one_line_that_names_the_place(
    stack: Stack, plan: str, tmp_path: Path
) -> None:
    gap = tmp_path / "gap.json"
    tiers = {"intent.calls": {"tiers": [{"up_to": 5, "price": "1"}]}}
    gap.write_text(json.dumps({"prices": [price(plan, tiers)]}))
    cases = (
        (["load", str(gap)], "prices[0].meters.intent.calls.tiers[0]: There is a gap"),
        (["check", str(gap)], "prices[0].meters.intent.calls.tiers[0]: There is a gap"),
        (["load", str(tmp_path / "none.yaml")], "cannot be read"),
        (["show", "prc_none"], "no such price version"),
        (["preview", "standard-usd-1", "--units", "intent.calls"], "METER=N"),
        (["what-if", str(gap), "--period", "2199-01"], "gap"),
    )
    for arguments, words in cases:
        done = stack.run_cli("price", *arguments)
        assert done.returncode != 0
        (line,) = done.stderr.strip().splitlines()
        assert words in line


def test_finance_creates_previews_and_replays_prices_over_http(
    stack: Stack, finance: httpx.Client, plan: str
) -> None:
    body: dict[str, Any] = {"prices": [price(plan)]}
    told = finance.post("/v1/admin/prices", json=body, params={"dry_run": "true"}).json()
    assert (told["dry_run"], told["prices"][0]["price_version_id"]) == (True, None)
    made = finance.post("/v1/admin/prices", json=body)
    assert made.status_code == 200, made.text
    version_id = made.json()["prices"][0]["price_version_id"]
    page = finance.get("/v1/admin/prices", params={"plan": plan}).json()
    assert [one["price_version_id"] for one in page["prices"]] == [version_id]
    first = finance.get("/v1/admin/prices", params={"limit": 1}).json()
    rest = finance.get("/v1/admin/prices", params={"after": first["next_after"]}).json()
    assert first["prices"][0] not in rest["prices"]
    for source in ({"price_version_id": version_id}, body):
        units = {"units": {"intent.calls": 150}}
        answer = finance.post("/v1/admin/prices/preview", json={**source, **units})
        assert answer.json()["previews"][0]["total"] == "0.13 USD", answer.text
    replayed = finance.post("/v1/admin/prices/what-if", json=body, params={"period": "2026-01"})
    assert replayed.json()["rows"] == []
    csv = finance.post("/v1/admin/prices/what-if", json=body, params={"period": "2026-01", "format": "csv"})
    assert csv.headers["content-type"] == "text/csv; charset=utf-8"
    assert csv.text.startswith("tenant_id,currency,")


def test_a_plan_is_changed_at_once_over_http_and_by_command(
    stack: Stack, finance: httpx.Client, plan: str, tenant: TenantOfTest
) -> None:
    finance.post("/v1/admin/prices", json={"prices": [price(plan)]})
    with stack.http(tenant.key) as http:
        before = http.post("/v1/intents", json={"model": "retail-en", "text": "where is my parcel?"})
        changed = finance.put(
            f"/v1/admin/tenants/{tenant.tenant_id}/plan", json={"plan": plan, "at_once": True}
        )
        assert changed.status_code == 200, changed.text
        assert (changed.json()["at_once"], changed.json()["previous_plan"]) == (True, "standard")
        after = http.post("/v1/intents", json={"model": "retail-en", "text": "where is my parcel?"})
        amounts = [
            http.get(f"/v1/calls/{answer.headers['x-aiaas-call-id']}").json()["amount"]
            for answer in (before, after)
        ]
    assert amounts == ["0.0004 USD", "0.001 USD"]
    back = stack.cli("tenant", "set-plan", tenant.tenant_id, "standard")
    assert (back["plan"], back["change"]["at_once"]) == ("standard", False)
    assert (
        "at its prices from"
        in stack.run_cli("tenant", "set-plan", tenant.tenant_id, plan, "--at-once").stdout
    )
    assert json.loads(stack.run_cli("reconcile", "--json").stdout)["difference"] == 0


def test_bad_input_is_refused_with_its_place_and_changes_nothing(
    finance: httpx.Client, plan: str, tenant: TenantOfTest
) -> None:
    negative = {"intent.calls": {"tiers": [{"price": "-1"}]}}
    place = "prices[0].meters.intent.calls.tiers[0].price"
    files = "/v1/admin/prices"
    mine = f"/v1/admin/tenants/{tenant.tenant_id}/plan"
    for answer, status, code, param in (
        (finance.post(files, json={"prices": [price(plan, negative)]}), 400, "invalid_price", place),
        (finance.post(files, content=b"{", headers=AS_JSON), 400, "invalid_json", None),
        (finance.post(files, content=b"{}"), 415, "unsupported_media_type", None),
        (finance.post(files, json={"prices": "x" * 300_000}), 413, "body_too_large", None),
        (finance.get(files, params={"limit": 0}), 400, "invalid_value", "limit"),
        (finance.post(f"{files}/preview", json={"units": {}}), 400, "invalid_price", "prices"),
        (finance.post(f"{files}/preview", json={"units": {"a": 1.5}, "prices": []}), 400, "invalid_value",
         "units"),
        (finance.post(f"{files}/preview", json={"units": {}, "price_version_id": "x"}), 404, "not_found",
         "price_version_id"),
        (finance.post(f"{files}/what-if", json={"prices": [price(plan)]}, params={"period": "2199-01"}), 400,
         "invalid_value", "period"),
        (finance.put(mine, json={"plan": "none"}), 400, "invalid_value", "plan"),
        (finance.put(mine, json={"plan": plan, "when": "now"}), 400, "invalid_value", "when"),
        (finance.put("/v1/admin/tenants/ten_none/plan", json={"plan": "standard"}), 404, "not_found",
         "tenant_id"),
    ):  # fmt: skip
        assert_error(answer, status, code, param)
    assert finance.get(files, params={"plan": plan}).json()["prices"] == []


def test_a_tenants_key_opens_none_of_it(stack: Stack, tenant: TenantOfTest) -> None:
    with stack.http(tenant.key) as http:
        for answer in (
            http.get("/v1/admin/prices"),
            http.post("/v1/admin/prices", json={"prices": [price()]}),
            http.put(f"/v1/admin/tenants/{tenant.tenant_id}/plan", json={"plan": "standard"}),
        ):
            assert_error(answer, 401, "wrong_kind_of_key", None)
