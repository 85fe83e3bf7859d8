"""Promise 1 and 2, as a user sees them: every answer has its row, and usage is their exact sum."""

import concurrent.futures
import uuid

import httpx
import pytest

from infra.ids import parse_call_id
from tests.contract.conftest import TenantOfTest
from tests.stack import Stack


def test_usage_is_exactly_the_calls_answered_and_the_units_they_said(
    stack: Stack, tenant: TenantOfTest
) -> None:
    calls = [("intent", number) for number in range(120)] + [("tts", number) for number in range(24)]

    def call(kind: str, number: int) -> httpx.Response:
        with stack.http(tenant.key) as http:
            if kind == "intent":
                texts = [f"where is parcel {number}"] * (number % 3 + 1)
                return http.post("/v1/intents", json={"model": "retail-en", "texts": texts})
            body = {
                "model": "tts-1",
                "voice": "alloy",
                "input": "one " * (number + 1),
                "response_format": "pcm",
            }
            return http.post("/v1/audio/speech", json=body)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda each: call(*each), calls))
    assert {answer.status_code for answer in answers} == {200}

    said: dict[str, list[int]] = {}
    for answer in answers:
        said.setdefault(answer.headers["x-aiaas-meter"], []).append(int(answer.headers["x-aiaas-units"]))
    usage = stack.cli("usage", "--tenant", tenant.tenant_id)["meters"]
    assert {meter: usage[meter] for meter in said} == {
        meter: {"units": sum(units), "calls": len(units)} for meter, units in said.items()
    }
    ids = {answer.headers["x-aiaas-call-id"] for answer in answers}
    assert len(ids) == len(answers)
    with stack.database() as database:
        rows = database.execute(
            "SELECT call_id FROM billing.usage_row WHERE tenant_id = %s", [tenant.tenant_id]
        )
        assert {row[0] for row in rows} == {parse_call_id(call_id) for call_id in ids}


def test_a_transcription_is_charged_by_its_exact_duration(stack: Stack, tenant: TenantOfTest) -> None:
    speech = stack.openai().audio.speech.create(
        model="tts-1", voice="alloy", input="hello", response_format="pcm"
    )
    samples = len(speech.content) // 2
    wav = stack.openai().audio.speech.create(
        model="tts-1", voice="alloy", input="hello", response_format="wav"
    )
    with stack.http(tenant.key) as http:
        answer = http.post(
            "/v1/audio/transcriptions",
            data={"model": "whisper-1"},
            files={"file": ("hello.wav", wav.content)},
        )
    assert abs(int(answer.headers["x-aiaas-units"]) - samples * 1000 / 24_000) <= 1
    assert answer.json()["usage"]["seconds"] * 1000 == int(answer.headers["x-aiaas-units"])


def test_a_receipt_says_what_a_call_cost(stack: Stack, tenant: TenantOfTest) -> None:
    with stack.http(tenant.key) as http:
        answer = http.post(
            "/v1/intents", json={"model": "retail-en", "texts": ["hello there", "cancel my order"]}
        )
        receipt = http.get(f"/v1/calls/{answer.json()['id']}").json()
    assert receipt["units"] == 2
    assert receipt["meter"] == "intent.calls"
    assert receipt["key_id"] == tenant.key_id
    assert (receipt["amount"], receipt["amount_nanos"]) == ("0.0008 USD", "800000")


def test_a_call_of_another_tenant_is_not_found(stack: Stack, tenant: TenantOfTest) -> None:
    with stack.http() as demo, stack.http(tenant.key) as other:
        call_id = demo.post("/v1/intents", json={"model": "retail-en", "text": "hello"}).json()["id"]
        assert other.get(f"/v1/calls/{call_id}").status_code == 404
        assert demo.get(f"/v1/calls/{call_id}").status_code == 200
        assert demo.get(f"/v1/calls/call_{uuid.uuid4().hex}").status_code == 404
        assert demo.get("/v1/calls/nonsense").json()["error"]["code"] == "not_found"


def test_usage_over_http_is_the_tenants_own(stack: Stack, tenant: TenantOfTest) -> None:
    with stack.http(tenant.key) as http:
        for _ in range(3):
            http.post("/v1/intents", json={"model": "banking-en", "text": "my card is gone"})
        usage = http.get("/v1/usage").json()
        assert usage["meters"]["intent.calls"] == {"units": 3, "calls": 3}
        assert sum(day["meters"]["intent.calls"]["units"] for day in usage["days"]) == 3
        assert http.get("/v1/usage", params={"period": usage["period"]}).json() == usage
        assert http.get("/v1/usage", params={"period": "soon"}).json()["error"]["param"] == "period"


def test_a_draft_invoice_adds_the_calls_up(stack: Stack, tenant: TenantOfTest) -> None:
    with stack.http(tenant.key) as http:
        for _ in range(10):
            http.post("/v1/intents", json={"model": "retail-en", "texts": ["where is my parcel"] * 100})
        period = http.get("/v1/usage").json()["period"]
    drafts = stack.cli("invoice", "run", "--period", period)["invoices"]
    (mine,) = [draft for draft in drafts if draft["tenant_id"] == tenant.tenant_id]
    shown = stack.cli("invoice", "show", mine["invoice_id"])
    (line,) = [line for line in shown["lines"] if line["meter"] == "intent.calls"]
    assert (line["calls"], line["units"]) == (10, 1000)
    assert line["amount_minor"] == 40  # 1,000 calls at 0.0004
    assert shown["total_minor"] == 40
    again = stack.cli("invoice", "run", "--period", period)["invoices"]
    assert [draft["invoice_id"] for draft in again if draft["tenant_id"] == tenant.tenant_id] == [
        mine["invoice_id"]
    ]


@pytest.mark.parametrize("failure", ["voice", "model", "text"])
def test_a_refused_call_is_not_charged(stack: Stack, tenant: TenantOfTest, failure: str) -> None:
    body = {"model": "tts-1", "voice": "alloy", "input": "hello"}
    body[{"text": "input"}.get(failure, failure)] = {"text": ""}.get(failure, "nonsense")
    with stack.http(tenant.key) as http:
        assert http.post("/v1/audio/speech", json=body).status_code in (400, 404)
        meters = http.get("/v1/usage").json()["meters"]
    assert all(meter == {"units": 0, "calls": 0} for meter in meters.values())
