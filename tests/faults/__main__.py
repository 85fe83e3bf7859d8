"""`python -m tests.faults --rounds N --seed S`: one line a round, a summary, status 1 on any finding."""

import argparse
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.play import SCENARIOS, play, scenario_of
from tests.faults.rounds import Judged, total
from tests.faults.world import World

_LATE_VOIDS_S = 30.0


def main() -> int:
    """Play the rounds over one running stack."""
    arguments = _parser().parse_args()
    first_seed = random.randrange(1_000_000) if arguments.seed is None else arguments.seed
    folder = Path(tempfile.mkdtemp(prefix="aiaas-faults-"))
    world = World(folder, arguments.workers)
    started_s = time.monotonic()
    rounds: list[Judged] = []
    try:
        world.start()
        for seed in range(first_seed, first_seed + arguments.rounds):
            name = arguments.scenario or scenario_of(seed)
            rounds.append(play(world, name, seed, arguments.clients, arguments.seconds))
            print(rounds[-1].line(), flush=True)
        findings = _judge_again(rounds)
    finally:
        world.stop()
    findings += sum(len(one.verdict.findings) for one in rounds)
    minutes = (time.monotonic() - started_s) / 60
    print(
        f"{total(rounds)}; seeds {first_seed} to {first_seed + arguments.rounds - 1}, "
        f"{arguments.clients} clients, {arguments.workers} workers, {minutes:.0f} minutes: "
        f"{findings or 'no'} findings"
    )
    if findings:
        print(f"Journals and logs are kept in {folder}.")
    else:
        shutil.rmtree(folder)
    return 1 if findings else 0


def _judge_again(rounds: list[Judged]) -> int:
    """All rounds once more, when every void that is still to come has come."""
    time.sleep(_LATE_VOIDS_S)
    found = 0
    for one in rounds:
        for finding in set(one.judge_again()) - set(one.verdict.findings):
            print(f"seed {one.seed} {one.name}, at the end:\n  FOUND {finding}")
            found += 1
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seed", type=int, help="of the first round; the next one's is one more")
    parser.add_argument("--scenario", choices=[*SCENARIOS], help="[default: drawn from the seed]")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=float, help="of a round's main part [default: the scenario's own]")
    return parser


if __name__ == "__main__":
    sys.exit(main())
