"""A webhook receiver over HTTP, which checks signatures by the specification and with none of our code.

https://www.standardwebhooks.com, version 1.0.0: the signature is base64 of HMAC-SHA256 over
`<id>.<timestamp>.<body>`, keyed with the bytes that the secret holds in base64 after `whsec_`.
"""

import base64
import hashlib
import hmac
import json
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = tuple[int, dict[str, str]]


class Received:
    """One request as it came in."""

    def __init__(self, headers: dict[str, str], body: bytes) -> None:
        self.headers = headers
        self.body = body
        self.id = headers["webhook-id"]
        self.message: dict[str, Any] = json.loads(body)

    def is_signed_with(self, secret: str, now_s: float | None = None) -> bool:
        """Whether one of the signatures is the secret's, and the attempt is of the last five minutes."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        versions = [entry.split(",", 1) for entry in self.headers["webhook-signature"].split(" ")]
        recent = abs((now_s or time.time()) - int(self.headers["webhook-timestamp"])) < 300
        return recent and any(
            version == "v1" and hmac.compare_digest(signature, expected) for version, signature in versions
        )


class Receiver:
    """Listens on a free port of loopback until closed.

    Attributes:
        answer: what each request is answered: its number, from 0, gives a status and headers.
        delay_s: how long each answer takes.

    Args:
        certificate: speak TLS, with the key and certificate in this file.
        endless: never stop sending the answer's body.
    """

    def __init__(
        self,
        answer: Callable[[int], Answer] = lambda _: (204, {}),
        delay_s: float = 0,
        certificate: Path | None = None,
        endless: bool = False,
    ) -> None:
        self.received: list[Received] = []
        self.answer = answer
        self.delay_s = delay_s
        self.most_at_once: dict[str, int] = {}
        self._at_once: dict[str, int] = {}
        self._lock = threading.Lock()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                number = receiver._begin(Received({k.lower(): v for k, v in self.headers.items()}, body))
                time.sleep(receiver.delay_s)
                status, headers = receiver.answer(number)
                receiver._end(number)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                with suppress(OSError):  # the sender may have heard enough
                    self.end_headers()
                    while endless:
                        self.wfile.write(b"x" * 65536)

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the tests look at what was received."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        if certificate:
            tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            tls.load_cert_chain(certificate)
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()

    @property
    def port(self) -> int:
        return self._server.server_port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?of=tenant"

    def of_type(self, type_: str) -> list[Received]:
        """What came in of one type, in order."""
        return [one for one in list(self.received) if one.message["type"] == type_]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _begin(self, one: Received) -> int:
        with self._lock:
            self.received.append(one)
            self._at_once[one.id] = self._at_once.get(one.id, 0) + 1
            self.most_at_once[one.id] = max(self.most_at_once.get(one.id, 0), self._at_once[one.id])
            return len(self.received) - 1

    def _end(self, number: int) -> None:
        with self._lock:
            self._at_once[self.received[number].id] -= 1
