"""Promise 9 over HTTP: a tenant's plan decides how much it may ask for at once, and a refusal says so."""

import secrets
from collections.abc import Callable

import httpx
import openai
import pytest

from tests.stack import Stack, wait_until

WORKERS = 2  # each holds half of a limit


@pytest.fixture
def make(stack: Stack) -> Callable[..., tuple[str, str]]:
    def make(*limits: str) -> tuple[str, str]:
        """A plan of its own with the prices of `standard`, and a key of a tenant on it."""
        plan = f"plan-{secrets.token_hex(4)}"
        stack.cli("plan", "set", plan, *limits)
        tenant_id = stack.cli("tenant", "create", "Limited")["tenant_id"]
        key = stack.cli("key", "create", "--tenant", tenant_id)["key"]
        with stack.database() as connection:
            connection.execute(
                "INSERT INTO billing.price_version (price_version_id, plan, currency, valid_from) "
                "VALUES (%(plan)s, %(plan)s, 'USD', '-infinity')",
                {"plan": plan},
            )
        stack.cli("tenant", "set-plan", tenant_id, plan)
        return plan, key

    return make


def limit_seen(stack: Stack, key: str) -> str:
    """The limit that a worker states, over a new connection."""
    with stack.http(key) as http:
        return http.get("/v1/models").headers["x-ratelimit-limit-requests"]


def statuses(stack: Stack, key: str, count: int) -> list[int]:
    headers = {"authorization": f"Bearer {key}"}
    return [httpx.get(f"{stack.url}/v1/models", headers=headers).status_code for _ in range(count)]


def test_the_official_client_is_refused_at_its_plans_rate_and_told_when_to_come_back(
    stack: Stack, make: Callable[..., tuple[str, str]]
) -> None:
    plan, key = make("--requests-per-minute", "1000", "--requests-per-minute-per-key", "8")
    assert wait_until(lambda: limit_seen(stack, key) == str(8 // WORKERS), 1)
    client = stack.openai(key)
    answer = client.models.with_raw_response.list()  # one connection, so one worker, from here on
    for _ in range(int(answer.headers["x-ratelimit-remaining-requests"])):
        client.models.list()
    with pytest.raises(openai.RateLimitError) as refused:
        client.models.list()
    headers = refused.value.response.headers
    assert refused.value.code == "rate_limit_exceeded"
    assert headers["x-ratelimit-limit-requests"] == str(8 // WORKERS)
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert 0 < int(headers["retry-after"]) <= 60
    assert 0 < int(headers["retry-after-ms"]) <= 60_000
    assert 0 < float(headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60

    stack.cli("plan", "set", plan, "--requests-per-minute-per-key", "default")
    assert wait_until(lambda: set(statuses(stack, key, 8)) == {200}, 1)
    client.models.list()


def test_calls_in_hand_are_as_many_as_the_plan_says(
    stack: Stack, make: Callable[..., tuple[str, str]]
) -> None:
    plan, key = make("--max-concurrent-calls", str(WORKERS))  # one for each worker
    speech = {"model": "tts-1", "voice": "alloy", "input": "word " * 800, "response_format": "wav"}
    call = {"model": "retail-en", "text": "where is my parcel?"}

    def refusals() -> set[str]:
        """What is refused of calls over new connections, which meet both workers."""
        seen: set[str] = set()
        for _ in range(8):
            with stack.http(key) as http:
                answer = http.post("/v1/intents", json=call)
            if answer.status_code == 429:
                seen.add(answer.json()["error"]["code"])
                assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("1", "1000")
        return seen

    assert wait_until(lambda: not refusals(), 5)
    with stack.http(key) as http, http.stream("POST", "/v1/audio/speech", json=speech) as held:
        assert held.status_code == 200
        assert wait_until(lambda: refusals() == {"concurrency_limit_exceeded"}, 5)
        stack.cli("plan", "set", plan, "--max-concurrent-calls", "default")
        assert wait_until(lambda: not refusals(), 2)


def test_limits_are_shown_to_the_operator(stack: Stack, make: Callable[..., tuple[str, str]]) -> None:
    plan, _ = make("--requests-per-minute", "600")
    limits = {"requests_per_minute": 600, "requests_per_minute_per_key": None, "max_concurrent_calls": None}
    listed = {each["plan"]: each["limits"] for each in stack.cli("plan", "list")["plans"]}
    assert listed[plan] == limits
    assert listed["standard"] == dict.fromkeys(limits)
    (tenant_id,) = [
        each["tenant_id"] for each in stack.cli("tenant", "list")["tenants"] if each["plan"] == plan
    ]
    shown = stack.cli("tenant", "show", tenant_id)
    assert (shown["plan"], shown["limits"]) == (plan, limits)
    assert "600" in stack.run_cli("tenant", "show", tenant_id).stdout
    assert plan in stack.run_cli("plan", "list").stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("plan", "set", "standard"),
        ("plan", "set", "standard", "--requests-per-minute", "0"),
        ("plan", "set", "standard", "--requests-per-minute", "many"),
        ("tenant", "set-plan", "ten_unknown", "standard"),
        ("tenant", "create", "Half", "--plan", "nonesuch"),
    ],
)
def test_what_cannot_be_done_is_one_clear_line(stack: Stack, arguments: tuple[str, ...]) -> None:
    done = stack.run_cli(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert len(done.stderr.splitlines()) == 1


def test_no_endpoint_that_takes_a_key_answers_without_one(stack: Stack) -> None:
    document = httpx.get(f"{stack.url}/openapi.json").json()
    asked = [
        httpx.request(method.upper(), stack.url + path.replace("{call_id}", "call_x"), content=b"{}")
        for path, methods in document["paths"].items()
        if path.startswith("/v1/")
        for method in methods
    ]
    assert len(asked) >= 6
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in asked} == {
        (401, "missing_api_key"),
        (401, "missing_staff_key"),
    }
