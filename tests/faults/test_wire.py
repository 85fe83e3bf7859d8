"""The wires do to connections what scenarios ask of them: else a scenario would prove nothing."""

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random

import httpx
import psycopg
import pytest

from infra.postgres import EmbeddedPostgres
from tests.faults.wire import Address, DatabaseWire, LossyWire, Wire


class Counting(BaseHTTPRequestHandler):
    """Answers, and counts how often."""

    protocol_version = "HTTP/1.1"
    answered = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        type(self).answered += 1
        self.send_response(200)
        self.send_header("content-length", "4000")
        self.end_headers()
        with contextlib.suppress(OSError):  # whom the wire cut off
            self.wfile.write(b"x" * 4000)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[Address]:
    Counting.answered = 0
    serving = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    yield ("127.0.0.1", serving.server_port)
    serving.shutdown()
    serving.server_close()


def post(wire: Wire, times: int) -> list[bool]:
    """For each request, whether its answer arrived whole."""
    arrived: list[bool] = []
    with httpx.Client(base_url=f"http://127.0.0.1:{wire.port}", timeout=10, trust_env=False) as client:
        for _ in range(times):
            try:
                arrived.append(len(client.post("/", content=b"question").content) == 4000)
            except httpx.HTTPError:
                arrived.append(False)
    return arrived


def test_a_wire_without_loss_passes_everything_on(server: Address) -> None:
    wire = LossyWire(lambda: server, Random(1), loss=0)
    assert post(wire, 20) == [True] * 20
    wire.close()


def test_a_lossy_wire_loses_answers_of_calls_that_were_served_the_same_ones_for_a_seed(
    server: Address,
) -> None:
    fates: list[list[bool]] = []
    for _ in range(2):
        wire = LossyWire(lambda: server, Random(7), loss=0.5)
        fates.append(post(wire, 40))
        wire.close()
    assert fates[0] == fates[1]
    assert 5 < sum(fates[0]) < 35
    assert Counting.answered > sum(map(sum, fates)) + 10


def test_a_dead_listening_connection_stays_open_and_silent_while_others_live(
    postgres: EmbeddedPostgres,
) -> None:
    direct = psycopg.conninfo.conninfo_to_dict(postgres.url)
    wire = DatabaseWire(lambda: ("127.0.0.1", int(direct["port"])))
    wired = {**direct, "port": wire.port, "sslmode": "disable"}
    listening = psycopg.connect(**wired, autocommit=True)
    listening.execute("LISTEN news")
    other = psycopg.connect(**wired, autocommit=True)

    wire.kill(only_listeners=True, new_ones_too=False)
    other.execute("NOTIFY news")
    assert list(listening.notifies(timeout=0.5)) == []
    assert not listening.closed
    fresh = psycopg.connect(**wired, autocommit=True)
    fresh.execute("LISTEN news")
    other.execute("NOTIFY news")
    assert len(list(fresh.notifies(timeout=5, stop_after=1))) == 1

    wire.mend()
    with pytest.raises(psycopg.OperationalError):
        listening.execute("SELECT 1")
    wire.close()
