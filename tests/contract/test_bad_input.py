"""Bad input gets one clear error that names the field, and costs nothing."""

import select
import socket
from typing import Any

import httpx
import pytest

from tests.contract.conftest import TenantOfTest
from tests.stack import Stack

SPEECH = {"model": "tts-1", "voice": "alloy", "input": "hello"}
INTENT = {"model": "retail-en", "text": "hello"}
MEGABYTE = 1024 * 1024

JSON_CASES: list[tuple[str, Any, int, str, str | None]] = [
    ("/v1/audio/speech", {**SPEECH, "model": "tts-9"}, 404, "model_not_found", "model"),
    ("/v1/audio/speech", {**SPEECH, "model": "whisper-1"}, 404, "model_not_found", "model"),
    ("/v1/audio/speech", {**SPEECH, "voice": "nobody"}, 400, "invalid_value", "voice"),
    ("/v1/audio/speech", {**SPEECH, "response_format": "ogg"}, 400, "invalid_value", "response_format"),
    ("/v1/audio/speech", {**SPEECH, "speed": 9}, 400, "invalid_value", "speed"),
    ("/v1/audio/speech", {**SPEECH, "speed": "fast"}, 400, "invalid_value", "speed"),
    ("/v1/audio/speech", {**SPEECH, "input": "  "}, 400, "invalid_value", "input"),
    ("/v1/audio/speech", {**SPEECH, "input": "x" * 4097}, 400, "text_too_long", "input"),
    ("/v1/audio/speech", {**SPEECH, "stream_format": "waves"}, 400, "invalid_value", "stream_format"),
    ("/v1/audio/speech", {"model": "tts-1", "voice": "alloy"}, 400, "missing_value", "input"),
    ("/v1/audio/speech", [], 400, "invalid_value", None),
    ("/v1/intents", {**INTENT, "model": "retail"}, 404, "model_not_found", "model"),
    ("/v1/intents", {"model": "retail-en"}, 400, "missing_value", "text"),
    ("/v1/intents", {**INTENT, "texts": ["a"]}, 400, "invalid_value", "texts"),
    ("/v1/intents", {"model": "retail-en", "texts": []}, 400, "invalid_value", "texts"),
    ("/v1/intents", {"model": "retail-en", "texts": ["a", ""]}, 400, "invalid_value", "texts"),
    ("/v1/intents", {"model": "retail-en", "texts": ["a"] * 129}, 400, "invalid_value", "texts"),
    ("/v1/intents", {**INTENT, "text": "x" * 2001}, 400, "text_too_long", "text"),
    ("/v1/intents", {**INTENT, "top_k": 0}, 400, "invalid_value", "top_k"),
    ("/v1/intents", {**INTENT, "threshold": 2}, 400, "invalid_value", "threshold"),
    ("/v1/intents", {**INTENT, "treshold": 0.5}, 400, "invalid_value", "treshold"),
]


def assert_error(answer: httpx.Response, status: int, code: str, param: str | None) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert set(error) == {"message", "type", "code", "param"}
    assert error["message"].endswith(".")
    assert answer.headers["x-request-id"].startswith("req_")


@pytest.mark.parametrize(("path", "body", "status", "code", "param"), JSON_CASES)
def test_json_of_the_wrong_shape_names_the_field(
    stack: Stack, path: str, body: Any, status: int, code: str, param: str | None
) -> None:
    with stack.http() as http:
        assert_error(http.post(path, json=body), status, code, param)


def test_what_is_not_json_is_refused(stack: Stack) -> None:
    with stack.http() as http:
        as_json = {"content-type": "application/json"}
        assert_error(http.post("/v1/intents", content=b"{", headers=as_json), 400, "invalid_json", None)
        assert_error(
            http.post("/v1/intents", content=b"\xff\xfe", headers=as_json), 400, "invalid_json", None
        )
        assert_error(http.post("/v1/intents", content=b"{}"), 415, "unsupported_media_type", None)
        assert_error(http.post("/v1/audio/transcriptions", json={}), 415, "unsupported_media_type", None)


def transcribe(http: httpx.Client, file: bytes | None, **fields: Any) -> httpx.Response:
    files = {} if file is None else {"file": ("sound.wav", file)}
    data = {"model": "whisper-1", **fields}
    if not files:  # an empty form is still multipart
        files = {"other": ("other", b"x")}
    return http.post("/v1/audio/transcriptions", data=data, files=files)


@pytest.mark.parametrize(
    ("file", "fields", "status", "code", "param"),
    [
        (None, {}, 400, "missing_value", "file"),
        (b"", {}, 400, "empty_audio", "file"),
        (b"this is no sound at all, only words", {}, 400, "undecodable_audio", "file"),
        (b"RIFF\x00\x00\x00\x00WAVEfmt ", {}, 400, "undecodable_audio", "file"),
        (b"x", {"model": "whisper-99"}, 404, "model_not_found", "model"),
        (b"x", {"model": "tts-1"}, 404, "model_not_found", "model"),
        (b"x", {"model": ""}, 400, "missing_value", "model"),
        (b"x", {"language": "tlh"}, 400, "invalid_value", "language"),
        (b"x", {"response_format": "docx"}, 400, "invalid_value", "response_format"),
        (b"x", {"stream": "soon"}, 400, "invalid_value", "stream"),
        (b"x", {"stream": "true", "response_format": "srt"}, 400, "invalid_value", "response_format"),
        (b"x", {"stream": "true"}, 400, "undecodable_audio", "file"),
        (b"x", {"temperature": "1.5"}, 400, "invalid_value", "temperature"),
        (b"x", {"temperature": "warm"}, 400, "invalid_value", "temperature"),
        (b"x", {"temperature": "nan"}, 400, "invalid_value", "temperature"),
        (b"x", {"prompt": "x" * 2001}, 400, "invalid_value", "prompt"),
        (b"x", {"timestamp_granularities[]": "word"}, 400, "invalid_value", "timestamp_granularities"),
        (
            b"x",
            {"timestamp_granularities[]": "syllable", "response_format": "verbose_json"},
            400,
            "invalid_value",
            "timestamp_granularities",
        ),
    ],
)
def test_a_transcription_that_cannot_be_names_the_field(
    stack: Stack, file: bytes | None, fields: dict[str, Any], status: int, code: str, param: str | None
) -> None:
    with stack.http() as http:
        assert_error(transcribe(http, file, **fields), status, code, param)


def test_a_file_over_the_limit_is_refused_while_it_is_read(stack: Stack) -> None:
    """Sent in chunks, without a length: only counting finds it, and the answer comes before the end."""
    address = httpx.URL(stack.url)
    chunk = b"100000\r\n" + b"\x00" * MEGABYTE + b"\r\n"
    with socket.create_connection((address.host, address.port or 80), timeout=30) as connection:
        connection.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nAuthorization: Bearer "
            + stack.key.encode()
            + b"\r\n\r\n"
            b'4c\r\n--b\r\nContent-Disposition: form-data; name="file"; filename="endless.wav"\r\n\r\n\r\n'
        )
        for sent in range(1, 100):
            connection.sendall(chunk)
            if select.select([connection], [], [], 0.05 if sent > 25 else 0)[0]:
                break
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    assert 25 <= sent < 40


def test_an_announced_length_over_the_limit_is_refused_at_once(stack: Stack) -> None:
    with stack.http() as http:
        answer = transcribe(http, b"\x00" * (26 * MEGABYTE))
    assert_error(answer, 413, "body_too_large", None)


@pytest.mark.parametrize("path", ["/intents", "/audio/speech"])
@pytest.mark.parametrize("is_announced", [True, False])
def test_a_json_body_over_the_limit_is_refused_with_the_limit(
    stack: Stack, path: str, is_announced: bool
) -> None:
    text = b'{"text": "' + b"a" * (11 * MEGABYTE) + b'"}'
    with stack.http() as http:
        answer = http.post(
            f"/v1{path}",
            content=text if is_announced else iter([text]),
            headers={"content-type": "application/json"},
        )
    assert_error(answer, 413, "body_too_large", None)
    at_most_kb = {"/intents": 2048, "/audio/speech": 256}[path]
    assert f"larger than {at_most_kb} KB" in answer.json()["error"]["message"]


def test_unknown_endpoints_and_methods_answer_in_the_same_shape(stack: Stack) -> None:
    with stack.http() as http:
        assert_error(http.get("/v1/nothing"), 404, "not_found", None)
        assert_error(http.get("/v1/intents"), 405, "method_not_allowed", None)


def test_nothing_of_a_customers_text_or_key_reaches_the_log(stack: Stack, tenant: TenantOfTest) -> None:
    with stack.http(tenant.key) as http:
        http.post("/v1/intents", json={"model": "retail-en", "text": "xylophone secret"})
        http.post("/v1/intents", json={"model": "xylophone secret", "text": "xylophone secret"})
        http.post(
            "/v1/intents",
            content=b'{"model": "xylophone secret',
            headers={"content-type": "application/json"},
        )
        transcribe(http, b"xylophone secret")
    log = stack.log()
    assert "call_refused" in log
    assert "xylophone" not in log
    assert tenant.key not in log
    assert tenant.key.rsplit("_", 1)[1] not in log
