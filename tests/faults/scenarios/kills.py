"""`kill -9` at random moments under load, of everything that can die."""

from tests.faults.judge import Rules
from tests.faults.rounds import Judged, Round

_WEIGHTS = {"worker": 5, "PostgreSQL": 2, "replica": 2, "aiaas up": 1, "everything": 1}
_MOST_KILLS = 3
_UNAVAILABLE = frozenset({429, 503, 504})


def kills(run: Round) -> Judged:
    """Up to three kills, the moments and the victims as the seed has them."""
    victims = run.rng.choices([*_WEIGHTS], [*_WEIGHTS.values()], k=run.rng.randint(1, _MOST_KILLS))
    with run.load():
        for victim in victims:
            run.sleep(0.1, 1.0 / len(victims))
            _kill(run, victim)
        run.sleep(0.1, 0.3)
    run.world.wait_ready()
    return run.judge(Rules(refusals=_UNAVAILABLE, may_break_after_s=0))


def _kill(run: Round, victim: str) -> None:
    what = f"kill {victim}"
    match victim:
        case "worker":
            run.mark_kill(what)
            run.world.signal_worker(run.rng)
        case "PostgreSQL":
            run.mark(what)
            run.world.kill_postgres()
        case "replica":
            run.mark(what)
            run.world.kill_replica(run.rng)
        case _:
            run.mark_kill(what)
            run.world.kill_up(everything=victim == "everything")
