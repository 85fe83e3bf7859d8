"""`aiaas up` starts everything, stops everything, and finds its data again, however it ended."""

import os
import signal
import socket
import subprocess
from contextlib import suppress
from pathlib import Path

import httpx
import psutil
import pytest

from tests.billing_sessions import in_flight
from tests.stack import AIAAS, Stack, wait_until


def ask(stack: Stack) -> httpx.Response:
    with stack.http() as http:
        return http.post("/v1/intents", json={"model": "retail-en", "text": "where is my parcel?"})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def test_a_run_stopped_or_killed_leaves_nothing_and_its_data_is_found_again(home: Path) -> None:
    """One stack through its life: a second start, Ctrl-C, parts killed, kill -9, SIGTERM."""
    stack = Stack(home)
    stack.start()
    first_key = stack.key
    assert ask(stack).status_code == 200
    assert (home / "demo.env").stat().st_mode & 0o077 == 0
    assert_one_clear_line(up(home, "--port", "0"), "already")
    assert ask(stack).status_code == 200
    assert stack.stop(signal.SIGINT) == 0
    assert stack.processes() == []

    stack.start()
    assert stack.key == first_key
    assert ask(stack).status_code == 200
    kill_a_worker(stack)
    assert wait_until(lambda: answers(stack), 30)
    billing = pid_of(stack, "billing.worker")
    assert billing is not None
    psutil.Process(billing).kill()
    assert wait_until(lambda: pid_of(stack, "billing.worker") not in (None, billing), 30)
    kill_postgres(stack)
    assert wait_until(lambda: answers(stack), 30)
    charged = stack.cli("usage")["meters"]["intent.calls"]["calls"]
    assert charged >= 5

    killed = stack.processes()
    assert len(killed) > 5
    stack.kill()
    stack.start()
    living = {process.pid for process in psutil.process_iter()}
    assert not set(killed) & living - set(stack.processes())
    assert ask(stack).status_code == 200
    assert stack.cli("usage")["meters"]["intent.calls"]["calls"] == charged + 1
    assert stack.stop(signal.SIGTERM) == 0
    assert stack.processes() == []


def kill_a_worker(stack: Stack) -> None:
    """Once it is on record that its calls were answered: those that are not are taken back."""
    pid = pid_of(stack, "gateway.worker")
    assert pid is not None
    assert wait_until(lambda: in_flight(stack.cli("db-url")["url"]) == [], 10)
    psutil.Process(pid).kill()


def pid_of(stack: Stack, module: str) -> int | None:
    """The process that runs a module, while there is one."""
    with suppress(psutil.NoSuchProcess):
        processes = map(psutil.Process, stack.processes())
        return next((process.pid for process in processes if module in process.cmdline()), None)
    return None


def kill_postgres(stack: Stack) -> None:
    pid_file = stack.home / "postgres" / "data" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)


def answers(stack: Stack) -> bool:
    try:
        return ask(stack).status_code == 200
    except httpx.HTTPError:
        return False


def up(home: Path, *options: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*AIAAS, "up", *options],
        env={**os.environ, "AIAAS_HOME": str(home), **environ},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


def assert_one_clear_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert all(word in line for word in words), line
    assert "Traceback" not in done.stderr


def test_a_database_that_does_not_answer_is_named_and_nothing_is_left_running(home: Path) -> None:
    done = up(home, "--port", "0", DATABASE_URL="postgresql://nobody:hunter2@127.0.0.1:9/none")
    assert_one_clear_line(done, "PostgreSQL", "DATABASE_URL")
    assert "hunter2" not in done.stderr + done.stdout
    assert Stack(home).processes() == []


def test_a_data_folder_that_cannot_be_used_is_named_and_nothing_is_left_running(home: Path) -> None:
    (home / "postgres" / "data").mkdir(parents=True)
    (home / "postgres" / "data" / "PG_VERSION").write_text("12\n")
    (home / "postgres" / "password").write_text("x")
    done = up(home, "--port", "0")
    assert_one_clear_line(done, "PostgreSQL", "postgres")
    assert Stack(home).processes() == []


def test_a_ray_cluster_that_does_not_answer_is_named_and_nothing_is_left_running(home: Path) -> None:
    done = up(home, "--port", "0", RAY_ADDRESS="127.0.0.1:9")
    assert_one_clear_line(done, "Ray", "RAY_ADDRESS")
    assert Stack(home).processes() == []


def test_a_port_in_use_is_named(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert_one_clear_line(up(home, "--port", str(taken.getsockname()[1])), "Cannot listen", "--port")


def test_a_setting_that_cannot_be_used_is_named(home: Path) -> None:
    assert_one_clear_line(up(home, AIAAS_WORKERS="many"), "AIAAS_WORKERS")


def test_commands_without_a_database_say_what_to_do(home: Path) -> None:
    done = subprocess.run(
        [*AIAAS, "usage"],
        env={**os.environ, "AIAAS_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert_one_clear_line(done, "aiaas up")
