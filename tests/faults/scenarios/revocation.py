"""A key revoked under load, with and without the news of it."""

import time

from tests.faults.client import Client, Customer, intent_call
from tests.faults.journal import read
from tests.faults.judge import Rules, attempts_of
from tests.faults.load import Step, mixed, pause_after
from tests.faults.rounds import Judged, Round

_WAYS = ("told", "listening connections dead", "new listening connections dead too")
_BOUND_S = 1.0  # promise 5


def revocation(run: Round) -> Judged:
    """The last success of a revoked key is sent at most a second after the revocation returned."""
    way = run.rng.choice(_WAYS)
    revoked = run.world.new_customer()
    others = [mixed(run.world.customers)] * (run.clients // 2)
    with run.load([*others, *[_use(revoked)] * (run.clients - len(others))]):
        run.sleep(0.2, 0.5)
        if way != _WAYS[0]:
            run.mark(way)
            run.world.wire.kill(only_listeners=True, new_ones_too=way == _WAYS[2])
            time.sleep(run.rng.uniform(0, 1))
        run.mark("revoke")
        run.world.stack.cli("key", "revoke", revoked.key_id)
        revoked_s = run.mark("revoked").at_s
        time.sleep(2 * _BOUND_S)
        run.world.wire.mend()
    _check(run, revoked, revoked_s)
    return run.judge(Rules(refusals=frozenset({401})))


def _use(customer: Customer) -> Step:
    async def step(client: Client) -> bool:
        await pause_after(await client.send(customer, intent_call(client.rng, 1)))
        return True

    return step


def _check(run: Round, revoked: Customer, revoked_s: float) -> None:
    attempts = attempts_of(read(run.journal.path))
    own = [attempt for attempt in attempts if attempt.sent.key_id == revoked.key_id]
    others = [attempt for attempt in attempts if attempt.sent.key_id != revoked.key_id]
    last_s = max((attempt.sent.at_s for attempt in own if attempt.is_answered), default=0.0)
    codes = {attempt.ended.code for attempt in own if attempt.sent.at_s > revoked_s + _BOUND_S}
    run.expect(last_s > 0, "the key never worked")
    run.expect(
        last_s <= revoked_s + _BOUND_S,
        f"a call sent {last_s - revoked_s:.2f} s after the revocation was answered",
    )
    run.expect(codes == {"revoked_api_key"}, f"a revoked key is refused as {sorted(map(str, codes))}")
    harmed = [attempt for attempt in others if not attempt.is_answered]
    run.expect(not harmed, f"{len(harmed)} calls of other keys were not answered")
