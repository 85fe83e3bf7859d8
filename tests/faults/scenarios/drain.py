"""SIGTERM with calls in hand: they are answered and charged, and none is lost, within the bound."""

import signal
import time
from collections.abc import Sequence

import psutil

from tests.faults.client import Client, Customer, transcription_call
from tests.faults.journal import read
from tests.faults.judge import Rules, attempts_of
from tests.faults.load import Step, mixed, pause_after
from tests.faults.rounds import Judged, Round

_WHOLE = 0.3  # of the rounds stop all of `aiaas up`
_BOUND_S = 30.0
_IN_HAND_S = 0.05  # what was sent so long before is in a worker's hand
_UNAVAILABLE = frozenset({429, 503})


def drain(run: Round) -> Judged:
    """One worker drains while the others serve; or everything does, and is started again."""
    whole = run.rng.random() < _WHOLE
    steps = [mixed(run.world.customers), _slow(run.world.customers)] * (run.clients // 2)
    with run.load(steps):
        run.sleep(0.3, 0.8)
        asked_s = run.mark("SIGTERM to aiaas up" if whole else "SIGTERM to a worker").at_s
        if whole:
            status = run.world.stack.stop(signal.SIGTERM)
            run.expect(status == 0, f"aiaas up ended with status {status}")
            drained_s = time.time()
            run.world.start_up()
        else:
            worker = run.world.signal_worker(run.rng, signal.SIGTERM)
            psutil.wait_procs([worker], timeout=2 * _BOUND_S)
            drained_s = time.time()
        run.sleep(0.1, 0.3)
    run.world.wait_ready()
    run.expect(drained_s - asked_s <= _BOUND_S, f"it took {drained_s - asked_s:.1f} s to drain")
    _check(run, asked_s)
    return run.judge(Rules(refusals=_UNAVAILABLE, may_break_after_s=asked_s - _IN_HAND_S))


def _slow(customers: Sequence[Customer]) -> Step:
    """Calls that take a while, so that many are in hand."""

    async def step(client: Client) -> bool:
        call = transcription_call(client.rng)
        await pause_after(await client.send(client.rng.choice(customers), call))
        return True

    return step


def _check(run: Round, asked_s: float) -> None:
    in_hand = [
        attempt
        for attempt in attempts_of(read(run.journal.path))
        if attempt.sent.at_s < asked_s - _IN_HAND_S and attempt.ended.at_s > asked_s
    ]
    dropped = [attempt for attempt in in_hand if not attempt.is_answered]
    run.expect(bool(in_hand), "no call was in hand")
    run.expect(not dropped, f"{len(dropped)} of {len(in_hand)} calls in hand were not answered")
