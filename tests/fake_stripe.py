"""A stateful Stripe over HTTP on loopback: idempotency, faults of the network and of its own, signed events.

Idempotency as documented (https://docs.stripe.com/api/idempotent_requests): the first answer under a key is
kept, errors of the server included, and given again for the same request; another request under it is an
error; one that comes while the first is at work conflicts. Refusals before the work began are not kept.
"""

import hashlib
import hmac
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import msgspec

from tests.stripe_objects import ApiError, Json, StripeObjects

API_KEY = "sk_test_fake"
WEBHOOK_SECRET = "whsec_fake"
VERSION = "2026-10-28.endive"
Fault = Literal["429", "500", "500 after", "cut before", "cut after", "garbage"] | None


class Asked(msgspec.Struct, frozen=True):
    """One request as it came."""

    method: str
    path: str
    given: Json
    key: str | None

    @property
    def name(self) -> str:
        """What is asked, without ids: `POST /v1/invoices/*/pay`."""
        return f"{self.method} {re.sub(r'/(in|cus|il|cn)_[^/]+', '/*', self.path)}"


class FakeStripe:
    """Listens on a free port of loopback until closed.

    Attributes:
        asked: all requests so far.
        fault: what goes wrong with a request.
        hold: with a request, called once its key is taken and before its work is done.
        retry_after_s: what answers of 429 say.
    """

    def __init__(self) -> None:
        self.objects = StripeObjects()
        self.asked: list[Asked] = []
        self.fault: Callable[[Asked], Fault] = lambda asked: None
        self.hold: Callable[[Asked], None] = lambda asked: None
        self.retry_after_s = 1
        self._kept: dict[str, tuple[str, tuple[int, Json] | None]] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.02], daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def forget_keys(self) -> None:
        """A day goes by."""
        with self._lock:
            self._kept.clear()

    def count(self, name: str) -> int:
        return sum(one.name == name for one in self.asked)

    @staticmethod
    def signed(event: Json, secret: str = WEBHOOK_SECRET, at_s: int | None = None) -> tuple[bytes, str]:
        """An event's body, and its signature."""
        body = json.dumps(event).encode()
        moment = int(time.time()) if at_s is None else at_s
        digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, hashlib.sha256).hexdigest()
        return body, f"t={moment},v1={digest},v0=old"

    def answer(self, asked: Asked) -> tuple[int, Json]:
        """What is answered, whatever the network does to it."""
        if asked.method != "POST" or asked.key is None:
            return self._work(asked)
        fingerprint = json.dumps([asked.path, asked.given], sort_keys=True)
        with self._lock:
            if asked.key in self._kept:
                known, kept = self._kept[asked.key]
                if known != fingerprint:
                    return 400, ApiError(400, "idempotency", kind="idempotency_error").body
                if kept is None:
                    return 409, ApiError(409, "idempotency_key_in_use", kind="idempotency_error").body
                return kept
            self._kept[asked.key] = (fingerprint, None)
        self.hold(asked)
        status, body = self._work(asked)
        with self._lock:
            if status in (400, 404):
                del self._kept[asked.key]
            else:
                self._kept[asked.key] = (fingerprint, (status, body))
        return status, body

    def _work(self, asked: Asked) -> tuple[int, Json]:
        fault = self.fault(asked)
        if fault == "500":
            return 500, {"error": {"type": "api_error"}}
        with self._lock:
            try:
                answer = _route(self.objects, asked)
            except ApiError as error:
                return error.status, error.body
            answer = json.loads(json.dumps(answer))
        return (500, {"error": {"type": "api_error"}}) if fault == "500 after" else (200, answer)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            wbufsize = -1  # an answer is one write

            def handle_any(self) -> None:
                url = urlsplit(self.path)
                length = int(self.headers.get("content-length", 0))
                text = self.rfile.read(length).decode() if self.command == "POST" else url.query
                asked = Asked(self.command, url.path, _nested(text), self.headers.get("idempotency-key"))
                fake.asked.append(asked)
                if self.headers["authorization"] != f"Bearer {API_KEY}":
                    self.send(401, {"error": {"type": "invalid_request_error"}})
                    return
                assert self.headers["stripe-version"] == VERSION
                fault = fake.fault(asked)
                if fault == "cut before":
                    self.cut()
                elif fault == "429":
                    body: Json = {"error": {"type": "invalid_request_error", "code": "rate_limit"}}
                    self.send(429, body, {"retry-after": str(fake.retry_after_s)})
                else:
                    status, body = fake.answer(asked)
                    if fault == "cut after":
                        self.cut()
                    else:
                        self.send(status, body, broken=fault == "garbage")

            do_GET = do_POST = do_DELETE = handle_any

            def send(
                self, status: int, body: Json, headers: dict[str, str] | None = None, broken: bool = False
            ) -> None:
                data = b"<html>" if broken else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {"request-id": "req_1", **(headers or {})}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def cut(self) -> None:
                reset = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


def _route(objects: StripeObjects, asked: Asked) -> Json:
    found = re.search(r"/((?:in|cus)_[^/]+)", asked.path)
    object_id, given = found[1] if found else "", asked.given
    routes: dict[str, Callable[[], Json]] = {
        "POST /v1/customers": lambda: objects.create_customer(given),
        "POST /v1/customers/*": lambda: objects.update_customer(object_id, given),
        "GET /v1/customers/search": lambda: objects.search_customers(given),
        "POST /v1/invoices": lambda: objects.create_invoice(given),
        "GET /v1/invoices": lambda: objects.list_invoices(given),
        "GET /v1/invoices/*": lambda: objects.read_invoice(object_id),
        "POST /v1/invoices/*": lambda: objects.update_invoice(object_id, given),
        "DELETE /v1/invoices/*": lambda: objects.delete_invoice(object_id),
        "POST /v1/invoices/*/add_lines": lambda: objects.add_lines(object_id, given),
        "GET /v1/invoices/*/lines": lambda: objects.list_lines(object_id, given),
        "POST /v1/invoices/*/finalize": lambda: objects.finalise(object_id, given),
        "POST /v1/invoices/*/send": lambda: objects.send(object_id),
        "POST /v1/invoices/*/pay": lambda: objects.pay(object_id, given),
        "POST /v1/invoices/*/void": lambda: objects.void(object_id),
        "POST /v1/invoices/*/mark_uncollectible": lambda: objects.mark_uncollectible(object_id),
        "POST /v1/credit_notes": lambda: objects.create_credit_note(given),
        "GET /v1/credit_notes": lambda: objects.list_credit_notes(given),
    }
    if asked.name not in routes:
        raise ApiError(404, "unknown_url")
    return routes[asked.name]()


def _nested(text: str) -> Json:
    """A form's fields, `a[b][0]=c` as `{"a": {"b": {"0": "c"}}}`."""
    found: Json = {}
    for name, value in parse_qsl(text, keep_blank_values=True):
        *outer, last = re.findall(r"[^\[\]]+", name)
        place = found
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = value
    return found
