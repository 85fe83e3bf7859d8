"""A short round of every scenario, over one running stack: promises 1, 2, 3, 4, 5 and 9 under faults.

`make faults ROUNDS=200` plays a long run of the same.
"""

from collections.abc import Iterator

import pytest

from tests.faults.play import play
from tests.faults.rounds import Judged
from tests.faults.world import World

CLIENTS = 32
WORKERS = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    running = World(tmp_path_factory.mktemp("faults"), WORKERS)
    running.start()
    yield running
    assert running.stop() == 0


def round_of(world: World, name: str, seed: int, seconds: float) -> Judged:
    played = play(world, name, seed, CLIENTS, seconds)
    assert played.verdict.findings == (), played.line()
    return played
