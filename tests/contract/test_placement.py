"""Where a tenant's calls may be answered, as its developer and the operator see it."""

import base64
import json
import time
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.contract.conftest import TenantOfTest
from tests.elsewhere import KEY, Call, Elsewhere, spoken
from tests.stack import Stack, wait_until

TEXT = "My card number is hunter2."


@pytest.fixture(autouse=True)
def quiet(elsewhere: Elsewhere) -> Iterator[None]:
    elsewhere.reset()
    yield
    elsewhere.reset()


def place(stack: Stack, tenant: TenantOfTest, placement: str) -> None:
    """Set it, and wait as long as it may take to reach every worker."""
    assert stack.cli("tenant", "set-placement", tenant.tenant_id, placement)["placement"] == placement
    time.sleep(1)  # the promise itself; nothing says when every worker has seen it


def say(stack: Stack, key: str, text: str = TEXT) -> httpx.Response:
    body = {"model": "tts-1", "voice": "alloy", "input": text, "response_format": "wav"}
    with stack.http(key) as http:
        return http.post("/v1/audio/speech", json=body)


def classify(stack: Stack, key: str) -> httpx.Response:
    with stack.http(key) as http:
        return http.post("/v1/intents", json={"model": "retail-en", "text": TEXT})


def transcribe(stack: Stack, key: str, sound: bytes) -> httpx.Response:
    with stack.http(key) as http:
        return http.post(
            "/v1/audio/transcriptions",
            data={"model": "whisper-1", "response_format": "verbose_json", "language": "en"},
            files={"file": ("a private name.wav", sound)},
        )


def engines_seen(stack: Stack, tenant: TenantOfTest) -> set[str]:
    """Which engines answer calls over new connections, which fall to any worker."""
    return {classify(stack, tenant.key).headers["x-aiaas-engine"] for _ in range(8)}


def receipt(stack: Stack, key: str, answer: httpx.Response) -> dict[str, object]:
    with stack.http(key) as http:
        return http.get(f"/v1/calls/{answer.headers['x-aiaas-call-id']}").json()


def test_of_a_new_tenant_nothing_leaves_and_its_receipts_say_so(
    stack: Stack, tenant: TenantOfTest, elsewhere: Elsewhere
) -> None:
    assert stack.cli("tenant", "show", tenant.tenant_id)["placement"] == "local_only"
    sound = say(stack, tenant.key)
    answers = [sound, classify(stack, tenant.key), transcribe(stack, tenant.key, sound.content)]
    for answer in answers:
        assert answer.status_code == 200
        assert receipt(stack, tenant.key, answer)["ran_on"] == "local"
    assert elsewhere.sent == []


def test_every_product_of_a_remote_tenant_runs_there_is_charged_here_and_comes_back_when_told(
    stack: Stack, tenant: TenantOfTest, elsewhere: Elsewhere
) -> None:
    file = say(stack, tenant.key).content
    place(stack, tenant, "remote")
    sound, intent, heard = (
        say(stack, tenant.key),
        classify(stack, tenant.key),
        transcribe(stack, tenant.key, file),
    )
    engine = f"remote:{elsewhere.host}"
    for answer in (sound, intent, heard):
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-aiaas-engine"] == engine
        shown = receipt(stack, tenant.key, answer)
        assert (shown["ran_on"], shown["engine"]) == ("remote", engine)
        assert shown["units"] == int(answer.headers["x-aiaas-units"])
    assert sound.content == spoken(TEXT)
    assert sound.headers["x-aiaas-units"] == str(len(TEXT))
    assert sound.headers["x-aiaas-generated"] == "ai"
    assert intent.json()["intent"] == "elsewhere_intent"
    assert heard.json()["text"] == "Some words."
    assert heard.json()["duration"] == int(heard.headers["x-aiaas-units"]) / 1000
    said = "".join(sent.everything() for sent in elsewhere.sent)
    assert "a private name" not in said
    assert tenant.key not in said
    place(stack, tenant, "local_only")
    elsewhere.reset()
    for answer in (say(stack, tenant.key), classify(stack, tenant.key)):
        assert receipt(stack, tenant.key, answer)["ran_on"] == "local"
    assert elsewhere.sent == []


def test_a_change_of_placement_reaches_every_worker_within_a_second(
    stack: Stack, tenant: TenantOfTest, elsewhere: Elsewhere
) -> None:
    assert classify(stack, tenant.key).status_code == 200
    stack.cli("tenant", "set-placement", tenant.tenant_id, "remote")
    there = {f"remote:{elsewhere.host}"}
    assert wait_until(lambda: engines_seen(stack, tenant) == there, 1)


def test_the_official_client_is_told_of_an_overload_there_and_nothing_else_of_what_happened(
    stack: Stack, tenant: TenantOfTest, elsewhere: Elsewhere
) -> None:
    place(stack, tenant, "remote")
    client = stack.openai(tenant.key)

    def refusal() -> openai.APIStatusError:
        with pytest.raises(openai.APIStatusError) as refused:
            client.audio.speech.create(model="tts-1", voice="alloy", input=TEXT)
        return refused.value

    elsewhere.answer = lambda call: call.refuse(429, "rate_limit_exceeded", retry_after="9")
    busy = refusal()
    assert (busy.status_code, busy.code, busy.response.headers["retry-after"]) == (429, "overloaded", "9")
    elsewhere.answer = lambda call: call.refuse(401, "invalid_api_key")
    locked_out = refusal()
    assert (locked_out.status_code, locked_out.code) == (503, "engine_unavailable")
    elsewhere.answer = lambda call: call.refuse(400, None, "voice")
    assert refusal().code == "unknown_voice"
    for secret in (KEY, "secret text"):
        assert secret not in f"{busy.response.text} {locked_out.response.text} {stack.log()}"
    assert "remote_refused" in stack.log()
    assert stack.cli("usage", "--tenant", tenant.tenant_id)["meters"]["tts.characters"]["units"] == 0


def test_speech_that_breaks_off_there_costs_nothing(
    stack: Stack, tenant: TenantOfTest, elsewhere: Elsewhere
) -> None:
    def broken(call: Call) -> None:
        call.begin()
        call.piece(bytes(1000))
        call.break_off()

    place(stack, tenant, "remote")
    elsewhere.answer = broken
    with pytest.raises(httpx.RemoteProtocolError):
        say(stack, tenant.key)
    used = lambda: stack.cli("usage", "--tenant", tenant.tenant_id)["meters"]["tts.characters"]["units"]  # noqa: E731
    assert wait_until(lambda: used() == 0, 5)


@pytest.mark.parametrize("arguments", [("ten_unknown", "remote"), ("TENANT", "elsewhere")])
def test_a_placement_or_tenant_that_is_not_there_is_refused(
    stack: Stack, tenant: TenantOfTest, arguments: tuple[str, str]
) -> None:
    tenant_id, placement = arguments
    done = stack.run_cli("tenant", "set-placement", tenant_id.replace("TENANT", tenant.tenant_id), placement)
    assert done.returncode != 0
    assert stack.cli("tenant", "show", tenant.tenant_id)["placement"] == "local_only"


def test_what_a_remote_tenant_asks_for_as_events_comes_from_there_too(
    stack: Stack, tenant: TenantOfTest, elsewhere: Elsewhere
) -> None:
    file = say(stack, tenant.key).content
    place(stack, tenant, "remote")
    client = stack.openai(tenant.key)
    heard = list(
        client.audio.transcriptions.create(
            model="whisper-1", file=("a.wav", file), language="en", stream=True
        )
    )
    assert heard[-1].type == "transcript.text.done"
    assert heard[-1].text == "Some words."
    with client.audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input=TEXT, stream_format="sse"
    ) as spoken_there:
        events = [json.loads(line[5:]) for line in spoken_there.iter_lines() if line.startswith("data:")]
    deltas = [event["audio"] for event in events if event["type"] == "speech.audio.delta"]
    assert b"".join(map(base64.b64decode, deltas)) == spoken(TEXT)
    assert events[-1]["type"] == "speech.audio.done"
    assert [sent.path for sent in elsewhere.sent] == ["/v1/audio/transcriptions", "/v1/audio/speech"]
