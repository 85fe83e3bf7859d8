"""Another OpenAI-compatible endpoint, on a free port: it keeps what it is sent and answers as it is told.

It recognises nothing: a transcription says how long the sound was, and speech is its text, over and over.
What is true of it is the wire.
"""

import io
import json
import threading
import wave
from collections.abc import Callable
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

KEY = "sk-elsewhere-hunter2"


class Sent(msgspec.Struct, frozen=True):
    """One request as it came: the fields of a form or of JSON, and the sound of a file."""

    path: str
    headers: dict[str, str]
    fields: dict[str, Any]
    pcm: bytes = b""

    def everything(self) -> str:
        return f"{self.path} {self.headers} {self.fields} {self.pcm!r}"


class Call:
    """One request, for whoever answers it."""

    def __init__(self, handler: BaseHTTPRequestHandler, sent: Sent) -> None:
        self._handler = handler
        self.sent = sent

    def answer(
        self,
        body: Any,
        status: int = 200,
        headers: dict[str, str] | None = None,
        kind: str = "application/json",
    ) -> None:
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        self._handler.send_response(status)
        for name, value in {
            "content-type": kind,
            "content-length": str(len(encoded)),
            **(headers or {}),
        }.items():
            self._handler.send_header(name, value)
        self._handler.end_headers()
        self._handler.wfile.write(encoded)

    def refuse(self, status: int, code: str | None = None, param: str | None = None, **headers: str) -> None:
        """A refusal in OpenAI's form, that quotes what it should not."""
        error = {
            "message": f"secret text of the other side, {KEY}",
            "type": "x",
            "code": code,
            "param": param,
        }
        self.answer(
            {"error": error}, status, {name.replace("_", "-"): text for name, text in headers.items()}
        )

    def begin(self, kind: str = "audio/mpeg") -> None:
        """Begin an answer of unknown length."""
        self._handler.send_response(200)
        self._handler.send_header("content-type", kind)
        self._handler.send_header("transfer-encoding", "chunked")
        self._handler.end_headers()

    def piece(self, sound: bytes) -> None:
        """Raises OSError where nobody listens any more."""
        self._handler.wfile.write(f"{len(sound):x}\r\n".encode() + sound + b"\r\n")

    def end(self) -> None:
        self._handler.wfile.write(b"0\r\n\r\n")

    def break_off(self) -> None:
        self._handler.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024

    def handle_error(self, *_: object) -> None:
        """Nothing: a caller that hangs up is part of the play."""


class Elsewhere:
    """Listens on loopback until closed.

    `answer` may be set to anything that answers a call; None answers as such an endpoint does.
    """

    def __init__(self) -> None:
        self.sent: list[Sent] = []
        self.answer: Callable[[Call], None] | None = None
        elsewhere = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                call = Call(self, _sent(self.path, headers, body))
                elsewhere.sent.append(call.sent)
                (elsewhere.answer or _usual)(call)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the tests look at what was sent."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True).start()

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}/v1"

    def environ(self) -> dict[str, str]:
        """The settings that make it a gateway's remote endpoint."""
        return {"REMOTE_BASE_URL": self.url, "REMOTE_API_KEY": KEY}

    def reset(self) -> None:
        self.sent.clear()
        self.answer = None

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def transcription(duration_s: float, language: str = "english") -> dict[str, Any]:
    """A transcription in `verbose_json`: two words in one segment, spread over the sound."""
    words = [
        {"word": "some", "start": 0.0, "end": duration_s / 2},
        {"word": "words", "start": duration_s / 2, "end": duration_s},
    ]
    segments = [{"id": 0, "start": 0.0, "end": duration_s, "text": " Some words.", "avg_logprob": -0.2}]
    return {
        "text": "Some words.",
        "language": language,
        "duration": duration_s,
        "segments": segments,
        "words": words,
    }


def spoken(text: str) -> bytes:
    """The speech of a text."""
    return text.encode() * 50


def _usual(call: Call) -> None:
    fields = call.sent.fields
    if call.sent.headers.get("authorization") != f"Bearer {KEY}":
        call.refuse(401, "invalid_api_key")
    elif call.sent.path == "/v1/audio/speech":
        call.begin()
        for _ in range(50):
            call.piece(fields["input"].encode())
        call.end()
    elif call.sent.path == "/v1/intents":
        ranking = [{"intent": "elsewhere_intent", "score": 0.75}, {"intent": "other", "score": 0.25}]
        result = {"intent": "elsewhere_intent", "score": 0.75, "out_of_scope": False, "ranking": ranking}
        results = [result] * len(fields["texts"])
        call.answer({"id": "call_1", "object": "list", "model": fields["model"], "results": results})
    else:
        call.answer(transcription(len(call.sent.pcm) / 32_000))


def _sent(path: str, headers: dict[str, str], body: bytes) -> Sent:
    if headers["content-type"] == "application/json":
        return Sent(path, headers, json.loads(body))
    form = BytesParser(policy=HTTP).parsebytes(
        b"content-type: " + headers["content-type"].encode() + b"\r\n\r\n" + body
    )
    fields: dict[str, Any] = {}
    pcm = b""
    for part in form.iter_parts():
        name = part.get_param("name", header="content-disposition")
        content = part.get_payload(decode=True)
        if part.get_filename() is None:
            fields.setdefault(str(name), []).append(content.decode())
        else:
            fields[str(name)] = part.get_filename()
            with wave.open(io.BytesIO(content)) as sound:
                assert sound.getparams()[:3] == (1, 2, 16_000)
                pcm = sound.readframes(sound.getnframes())
    return Sent(path, headers, fields, pcm)
