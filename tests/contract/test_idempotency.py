"""Promise 4 over HTTP: one logical request is charged once, over several workers, and so are retries."""

import concurrent.futures
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import openai
import pytest

from infra.ids import parse_call_id
from tests.contract.conftest import TenantOfTest
from tests.stack import Stack, wait_until

CALL = {"model": "retail-en", "text": "where is my parcel?"}
SPEECH = {"model": "tts-1", "voice": "alloy", "input": "good morning", "response_format": "wav"}


def post(
    stack: Stack, tenant: TenantOfTest, body: object, key: str | None = None, path: str = "/v1/intents"
) -> httpx.Response:
    headers = {"idempotency-key": key} if key is not None else {}
    with stack.http(tenant.key) as http:
        return http.post(path, json=body, headers=headers)


def rows(stack: Stack, tenant: TenantOfTest) -> list[tuple[int, int]]:
    """The entries of all of a tenant's calls, in order, with their units."""
    with stack.database() as database:
        found = database.execute(
            "SELECT entry, units FROM billing.usage_row WHERE tenant_id = %s ORDER BY call_id, entry",
            [tenant.tenant_id],
        )
        return [(int(entry), int(units)) for entry, units in found]


def test_the_same_request_from_eight_at_once_is_one_call_with_one_answer(
    stack: Stack, tenant: TenantOfTest
) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: post(stack, tenant, CALL, "order-1"), range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["x-aiaas-call-id"] for answer in answers}) == 1
    assert sum("idempotent-replayed" not in answer.headers for answer in answers) == 1
    assert len({answer.headers["x-request-id"] for answer in answers}) == 8
    later = post(stack, tenant, CALL, "order-1")
    assert (later.content, later.headers["idempotent-replayed"]) == (answers[0].content, "true")
    assert rows(stack, tenant) == [(0, 1)]


def test_another_request_under_the_same_key_is_422_and_uncharged(stack: Stack, tenant: TenantOfTest) -> None:
    assert post(stack, tenant, CALL, "k").status_code == 200
    others = [
        post(stack, tenant, CALL | {"text": "something else"}, "k"),
        post(stack, tenant, CALL | {"top_k": 2}, "k"),
        post(stack, tenant, SPEECH, "k", "/v1/audio/speech"),
    ]
    for answer in others:
        assert answer.status_code == 422
        error = answer.json()["error"]
        assert (error["code"], error["param"]) == ("idempotency_key_reused", "Idempotency-Key")
    assert rows(stack, tenant) == [(0, 1)]


@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb"])
def test_a_key_that_is_no_key_is_400_and_uncharged(stack: Stack, tenant: TenantOfTest, key: str) -> None:
    answer = post(stack, tenant, CALL, key)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "Idempotency-Key")
    assert rows(stack, tenant) == []


def test_speech_is_made_again_uncharged(stack: Stack, tenant: TenantOfTest) -> None:
    first, again = (post(stack, tenant, SPEECH, "say-1", "/v1/audio/speech") for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert len(first.content) == len(again.content) > 10_000
    assert first.headers["x-aiaas-call-id"] == again.headers["x-aiaas-call-id"]
    assert ("idempotent-replayed" in first.headers, "idempotent-replayed" in again.headers) == (False, True)
    assert rows(stack, tenant) == [(0, len(str(SPEECH["input"])))]


def test_an_upload_with_another_boundary_is_the_same_request(stack: Stack, tenant: TenantOfTest) -> None:
    wav = post(stack, tenant, SPEECH, path="/v1/audio/speech").content

    def upload(sound: bytes, **fields: str) -> httpx.Response:
        with stack.http(tenant.key) as http:
            return http.post(
                "/v1/audio/transcriptions",
                data={"model": "whisper-1", **fields},
                files={"file": ("hello.wav", sound)},
                headers={"idempotency-key": "upload-1"},
            )

    first, again = upload(wav), upload(wav)
    assert first.request.headers["content-type"] != again.request.headers["content-type"]
    assert (first.status_code, first.json()) == (200, again.json())
    assert again.headers["idempotent-replayed"] == "true"
    assert upload(wav[:-2]).status_code == 422
    assert upload(wav, response_format="text").status_code == 422
    assert len(rows(stack, tenant)) == 2, "the speech, and one transcription"


def test_a_key_belongs_to_its_tenant_and_to_all_of_its_api_keys(stack: Stack, tenant: TenantOfTest) -> None:
    second_key = stack.cli("key", "create", "--tenant", tenant.tenant_id)
    same = TenantOfTest(tenant.tenant_id, second_key["key_id"], second_key["key"])
    made = stack.cli("tenant", "create", "Another tenant")
    key = stack.cli("key", "create", "--tenant", made["tenant_id"])
    other = TenantOfTest(made["tenant_id"], key["key_id"], key["key"])
    first, again, theirs = (post(stack, who, CALL, "shared") for who in (tenant, same, other))
    assert again.headers["x-aiaas-call-id"] == first.headers["x-aiaas-call-id"]
    assert theirs.headers["x-aiaas-call-id"] != first.headers["x-aiaas-call-id"]
    assert "idempotent-replayed" not in theirs.headers
    assert (rows(stack, tenant), rows(stack, other)) == ([(0, 1)], [(0, 1)])


def test_a_refused_request_can_be_sent_again_with_its_key(stack: Stack) -> None:
    made = stack.cli("tenant", "create", "Capped", "--cap-units", "intent.calls=1")
    key = stack.cli("key", "create", "--tenant", made["tenant_id"])
    tenant = TenantOfTest(made["tenant_id"], key["key_id"], key["key"])
    body = CALL | {"texts": ["one", "two"]}
    del body["text"]
    assert post(stack, tenant, CALL | {"model": "nothing"}, "k").status_code == 404
    assert post(stack, tenant, body, "k").status_code == 402
    stack.cli("tenant", "set-cap", tenant.tenant_id, "--cap-units", "intent.calls=2")
    assert wait_until(lambda: post(stack, tenant, body, "k").status_code == 200, 3)
    assert rows(stack, tenant) == [(0, 2)]
    repeat = post(stack, tenant, body, "k")
    assert (repeat.status_code, repeat.headers["idempotent-replayed"]) == (200, "true"), "also at the cap"
    assert post(stack, tenant, body, "another").status_code == 402


class UnkindProxy:
    """Passes requests on, and gives the caller something else than the answer for as long as told to.

    Attributes:
        instead: for each of the next requests, what becomes of its answer: a status, or None: the
            connection is cut.
        retry_counts: what each request said about being a retry.
    """

    def __init__(self, upstream: str) -> None:
        self.instead: list[int | None] = []
        self.retry_counts: list[str | None] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                proxy.retry_counts.append(self.headers.get("x-stainless-retry-count"))
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
                answer = httpx.post(upstream + self.path, content=body, headers=headers, timeout=30)
                status = proxy.instead.pop(0) if proxy.instead else answer.status_code
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("content-type", answer.headers["content-type"])
                self.send_header("content-length", str(len(answer.content)))
                self.send_header("x-aiaas-call-id", answer.headers.get("x-aiaas-call-id", ""))
                self.send_header("retry-after-ms", "20")
                self.end_headers()
                self.wfile.write(answer.content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def unkind_proxy(stack: Stack) -> Iterator[UnkindProxy]:
    proxy = UnkindProxy(stack.url)
    thread = threading.Thread(target=proxy.server.serve_forever, args=[0.05], daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        thread.join(5)
        proxy.server.server_close()


def client_over(proxy: UnkindProxy, tenant: TenantOfTest) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{proxy.url}/v1", api_key=tenant.key, max_retries=2, timeout=30)


def call_of(client: openai.OpenAI, kind: str, wav: bytes) -> object:
    """A call's text, or the length of its sound, which is not spoken alike twice."""
    if kind == "speech":
        return len(client.audio.speech.create(model="tts-1", voice="alloy", input="good day").content)
    return client.audio.transcriptions.create(model="whisper-1", file=("hello.wav", wav)).text


@pytest.fixture(scope="module")
def wav(stack: Stack) -> bytes:
    speech = stack.openai().audio.speech.create(
        model="tts-1", voice="alloy", input="hello", response_format="wav"
    )
    return speech.content


@pytest.mark.parametrize("kind", ["speech", "transcription"])
@pytest.mark.parametrize("instead", [[None], [503], [409, 429]])
def test_the_official_clients_own_retries_are_one_call(
    stack: Stack, tenant: TenantOfTest, wav: bytes, kind: str, instead: list[int | None]
) -> None:
    """Each of them reaches a worker; the proxy drops what it answers, or says something else."""
    with unkind_proxy(stack) as proxy, client_over(proxy, tenant) as client:
        proxy.instead = list(instead)
        answer = call_of(client, kind, wav)
        assert proxy.retry_counts == [str(number) for number in range(len(instead) + 1)]
        assert len(rows(stack, tenant)) == 1
        assert call_of(client, kind, wav) == answer
    assert len(rows(stack, tenant)) == 2, "an equal call that is no retry is a call of its own"


def test_a_clients_retry_is_no_retry_of_another_api_keys_call(stack: Stack, tenant: TenantOfTest) -> None:
    second_key = stack.cli("key", "create", "--tenant", tenant.tenant_id)["key"]
    answers = list[httpx.Response]()
    for key, count in ((tenant.key, "0"), (tenant.key, "1"), (second_key, "1"), (tenant.key, "0")):
        with stack.http(key) as http:
            headers = {"x-stainless-retry-count": count}
            answers.append(http.post("/v1/intents", json=CALL, headers=headers))
    first, retried, others, separate = (answer.headers["x-aiaas-call-id"] for answer in answers)
    assert first == retried
    assert len({first, others, separate}) == 3
    assert len(rows(stack, tenant)) == 3
    assert all(parse_call_id(call_id) for call_id in (first, others, separate))
