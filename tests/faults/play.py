"""Which scenarios there are, how often each comes up, and how one is played."""

from random import Random

import msgspec

from tests.faults.rounds import Judged, Round, Scenario
from tests.faults.scenarios.caps import caps
from tests.faults.scenarios.drain import drain
from tests.faults.scenarios.idempotency import idempotency
from tests.faults.scenarios.kills import kills
from tests.faults.scenarios.postgres import postgres_away, postgres_restarted
from tests.faults.scenarios.revocation import revocation
from tests.faults.world import World


class _Played(msgspec.Struct, frozen=True):
    """A scenario, the `seconds` of its main part, and how often of 20 times it comes up."""

    scenario: Scenario
    seconds: float
    share: int


SCENARIOS = {
    "kills": _Played(kills, 5, 5),
    "postgres_restarted": _Played(postgres_restarted, 5, 3),
    "postgres_away": _Played(postgres_away, 30, 1),
    "caps": _Played(caps, 3, 4),
    "idempotency": _Played(idempotency, 4, 4),
    "revocation": _Played(revocation, 3, 2),
    "drain": _Played(drain, 3, 1),
}


def scenario_of(seed: int) -> str:
    """The scenario that a seed stands for where none is named."""
    shares = [one.share for one in SCENARIOS.values()]
    return Random(f"scenario {seed}").choices([*SCENARIOS], shares)[0]


def play(world: World, name: str, seed: int, clients: int, seconds: float | None = None) -> Judged:
    """Play one round over a running world."""
    world.refresh()
    known = SCENARIOS[name]
    return known.scenario(Round(world, name, seed, clients, seconds or known.seconds))
