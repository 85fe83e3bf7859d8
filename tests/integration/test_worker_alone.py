"""A gateway worker as a container runs it: no supervisor, its own socket, all else from the environment."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from infra.settings import Settings
from serving.ray_environment import session_folder
from tests.stack import Stack, wait_until


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """It owns the PostgreSQL and the Ray that the worker joins."""
    started = Stack(tmp_path_factory.mktemp("alone") / "home")
    started.start()
    yield started
    assert started.stop() == 0


def environ(stack: Stack, **given: str) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": stack.cli("db-url")["url"],
        "RAY_ADDRESS": (session_folder(Settings(aiaas_home=stack.home)) / "ray_current_cluster").read_text(),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # this head listens on loopback alone
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": (stack.home / "ray" / "auth_token").read_text(),
        **given,
    }


def command(environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gateway.worker"], env=environment, stdout=subprocess.PIPE, text=True
    )


def said(worker: subprocess.Popen[str]) -> dict[str, str]:
    """The one line of a worker that cannot start."""
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 1
    (line,) = output.splitlines()
    return json.loads(line)


def status_of(url: str) -> int | None:
    with suppress(httpx.HTTPError):
        return httpx.get(url, timeout=10).status_code
    return None


def test_it_listens_by_itself_answers_and_ends_when_it_is_told_to(stack: Stack, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    worker = command(environ(stack, AIAAS_HOST="127.0.0.1", AIAAS_PORT=str(port), AIAAS_HOME=str(tmp_path)))
    try:
        url = f"http://127.0.0.1:{port}"
        assert wait_until(lambda: status_of(f"{url}/readyz") == 200, 60)
        answer = httpx.post(
            f"{url}/v1/intents",
            headers={"authorization": f"Bearer {stack.key}"},
            json={"model": "retail-en", "text": "where is my parcel?"},
            timeout=30,
        )
        assert answer.status_code == 200
        receipt = stack.http().get(f"/v1/calls/{answer.json()['id']}")
        assert receipt.status_code == 200
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(40) == 0
        assert status_of(f"{url}/healthz") is None
    finally:
        worker.kill()
        worker.wait(10)


def test_it_ends_when_the_raylet_is_gone_through_which_it_joined(tmp_path: Path) -> None:
    """So that it is started again, and joins the cluster that its head started anew."""
    stack = Stack(tmp_path / "home")
    stack.start()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    worker = command(environ(stack, AIAAS_PORT=str(port), AIAAS_HOME=str(tmp_path)))
    try:
        assert wait_until(lambda: status_of(f"http://127.0.0.1:{port}/healthz") == 200, 60)
        (raylet,) = stack.processes_named("raylet/raylet")
        raylet.kill()
        output, _ = worker.communicate(timeout=60)
        assert worker.returncode == 1
        lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]  # Ray prints, too
        assert [line["state"] for line in lines] == ["ready", "failed"]
        assert "raylet" in lines[-1]["error"]
    finally:
        worker.kill()
        worker.wait(10)
        stack.stop()


def test_a_port_in_use_is_named(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        worker = command(environ(stack, AIAAS_PORT=str(taken.getsockname()[1])))
        line = said(worker)
    assert "Cannot listen" in line["error"]
    assert "AIAAS_PORT" in line["error"]


@pytest.mark.parametrize("missing", ["DATABASE_URL", "RAY_ADDRESS"])
def test_what_it_is_not_told_is_named(missing: str) -> None:
    given = {"DATABASE_URL": "postgresql://127.0.0.1:9/none", "RAY_ADDRESS": "127.0.0.1:9", missing: ""}
    assert missing in said(command({**os.environ, **given}))["error"]
