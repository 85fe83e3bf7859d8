"""PostgreSQL restarted, and away for longer than anybody waits."""

import time
from collections.abc import Generator
from contextlib import contextmanager

from tests.faults.journal import read
from tests.faults.judge import Attempt, Rules, attempts_of
from tests.faults.rounds import Judged, Round

_WAYS = ("stopped", "killed", "frozen", "cut off")
_CALL_BOUND_S = 30.0  # 20 s for a charge in hand, its engine's work, and some patience with a busy machine
_NOTICED_S = 4.0  # /readyz asks PostgreSQL itself, for 2 s
_READY_BOUND_S = 8.0
_RECOVERY_BOUND_S = 15.0
_WATCH_EVERY_S = 0.5


def postgres_restarted(run: Round) -> Judged:
    """Restarted under load: calls take longer, and no client sees more of it."""
    with run.load():
        for _ in range(run.rng.randint(1, 2)):
            run.sleep(0.1, 0.4)
            run.mark("restart PostgreSQL")
            run.world.restart_postgres(pause_s=run.rng.uniform(0, 1))
        run.sleep(0.2, 0.4)
    return run.judge(Rules())


def postgres_away(run: Round) -> Judged:
    """Away: 503 with Retry-After in bounded time, `/readyz` tells; then recovery by itself."""
    way = run.rng.choice(_WAYS)
    with run.load():
        time.sleep(run.rng.uniform(0.5, 1.5))
        gone_s = run.mark(f"PostgreSQL is {way}").at_s
        with _away(run, way):
            _watch_readiness(run, gone_s)
        back_s = run.mark("PostgreSQL is back").at_s
        _wait_for_recovery(run, back_s)
        time.sleep(run.rng.uniform(1, 2))
    _check_attempts(run, gone_s, back_s)
    return run.judge(Rules(refusals=frozenset({503})))


@contextmanager
def _away(run: Round, way: str) -> Generator[None]:
    world = run.world
    if way == "frozen":
        with world.frozen_postgres():
            yield
        return
    if way == "cut off":
        world.wire.kill(only_listeners=False, new_ones_too=True)
        yield
        world.wire.mend()
        return
    if way == "killed":
        world.end_postgres()
    else:
        world.postgres.stop()
    yield
    world.postgres.start()


def _watch_readiness(run: Round, gone_s: float) -> None:
    """Ask all the while: soon enough, every worker says that it is not ready."""
    slowest_s, ready_after_s = 0.0, 0.0
    while (asked_s := time.time()) < gone_s + run.seconds:
        if run.world.readiness() == 200:
            ready_after_s = asked_s - gone_s
        slowest_s = max(slowest_s, time.time() - asked_s)
        time.sleep(_WATCH_EVERY_S)
    run.expect(ready_after_s <= _NOTICED_S, f"/readyz said ready {ready_after_s:.1f} s after PostgreSQL went")
    run.expect(slowest_s <= _READY_BOUND_S, f"/readyz took {slowest_s:.1f} s")


def _wait_for_recovery(run: Round, back_s: float) -> None:
    while time.time() < back_s + _RECOVERY_BOUND_S:
        if all(run.world.readiness() == 200 for _ in range(2 * run.world.workers)):
            return
        time.sleep(_WATCH_EVERY_S)
    run.findings.append(f"/readyz did not say ready within {_RECOVERY_BOUND_S:.0f} s")


def _check_attempts(run: Round, gone_s: float, back_s: float) -> None:
    attempts = attempts_of(read(run.journal.path))
    refused = [attempt for attempt in attempts if attempt.ended.outcome == "refused"]
    late = [attempt for attempt in refused if attempt.sent.at_s > back_s + _RECOVERY_BOUND_S]
    slowest_s = max(map(_duration_s, attempts), default=0.0)
    run.expect(bool(refused), f"nobody was refused while PostgreSQL was away for {back_s - gone_s:.0f} s")
    run.expect(slowest_s <= _CALL_BOUND_S, f"a call took {slowest_s:.1f} s")
    run.expect(not late, f"{len(late)} calls refused long after PostgreSQL was back")


def _duration_s(attempt: Attempt) -> float:
    return attempt.ended.at_s - attempt.sent.at_s
