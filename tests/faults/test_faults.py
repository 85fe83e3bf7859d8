"""A short round of every scenario, over one running stack: promises 1, 2, 3, 4, 5 and 9 under faults.

`make faults ROUNDS=200` plays a long run of the same.
"""

from collections.abc import Iterator

import pytest

from tests.faults.play import play
from tests.faults.world import World

CLIENTS = 32
WORKERS = 3
CHARGE_TIMEOUT_S = "5"  # shorter than usual, so that PostgreSQL need not be away for long


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    running = World(tmp_path_factory.mktemp("faults"), WORKERS, {"CHARGE_TIMEOUT_S": CHARGE_TIMEOUT_S})
    running.start()
    yield running
    assert running.stop() == 0


@pytest.mark.parametrize(
    ("name", "seed", "seconds"),
    [
        ("postgres_restarted", 1, 3),
        ("caps", 6, 2),  # in money, over a tier's edge
        ("revocation", 3, 2),  # every listening connection dead, new ones too
        ("idempotency", 2, 3),  # with a worker killed
        ("drain", 2, 2),  # of a worker; the fixture's end drains everything
        ("postgres_away", 9, 8),  # stopped
        ("kills", 33, 3),  # of a worker, of PostgreSQL, of a replica
    ],
)
def test_a_round_under_faults_keeps_every_promise(world: World, name: str, seed: int, seconds: float) -> None:
    played = play(world, name, seed, CLIENTS, seconds)
    assert played.verdict.findings == (), played.line()
    assert played.verdict.answered >= CLIENTS
