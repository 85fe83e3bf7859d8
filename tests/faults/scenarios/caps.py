"""Caps hammered from all sides: what is left goes through to the last unit, and not one unit more."""

import time

from tests.faults.client import Client, Customer, intent_call
from tests.faults.evidence import read_tiers
from tests.faults.journal import read
from tests.faults.judge import Rules, Tier, attempts_of, net_units, rated_nanos
from tests.faults.load import Step, mixed, pause_after
from tests.faults.rounds import Judged, Round

_METER = "intent.calls"
_PRICES = "standard-usd-1"
_TEXTS_PER_CALL = 128
_REFUSALS = 4  # of each client, before it believes them
_FILL_S = 3.0  # a worker's own view of a cap may lag behind by two seconds
_NANOS = 10**9
_WAYS = ("tenant units", "key units", "mixed sizes", "tenant money", "money over a tier's edge")


def caps(run: Round) -> Judged:
    """Three clients of four hammer the capped tenant; the others' calls must go on as if nothing was."""
    way = run.rng.choice(_WAYS)
    room = run.rng.randint(run.clients // 2, 4 * run.clients)
    capped, used = _prepare(run, way, room)
    run.mark(f"cap by {way}, {room} more units")
    others = [mixed(run.world.customers)] * max(1, run.clients // 4)
    largest = 5 if way == "mixed sizes" else 1
    hammers = [_hammer(capped, largest) for _ in range(run.clients - len(others))]
    deadline_s = time.time() + 10 * run.seconds
    with run.load(others), run.load(hammers) as hammering:
        while not hammering.is_done and time.time() < deadline_s:
            time.sleep(0.05)
        run.expect(hammering.is_done, "a tenant over its cap was not refused")
    with run.load([_fill(capped)]) as filling:
        filling.wait()
    return _judge(run, capped, used, room)


def _prepare(run: Round, way: str, room: int) -> tuple[Customer, int]:
    """A customer whose cap leaves `room` units, and the units it has used."""
    world = run.world
    if way == "key units":
        return world.new_key(world.new_customer().tenant_id, ("--cap-units", f"{_METER}={room}")), 0
    if way in ("tenant units", "mixed sizes"):
        return world.new_customer(("--cap-units", f"{_METER}={room}")), 0
    tiers = read_tiers(world.database_url, _PRICES, _METER)
    used = 0
    if way != "tenant money":
        assert tiers[0].up_to_units is not None
        used = tiers[0].up_to_units - run.rng.randint(1, room - 1)
    customer = world.new_customer()
    if used:
        _use_up(run, customer, used)
    world.stack.cli("tenant", "set-cap", customer.tenant_id, "--cap", _cap_for(run, tiers, used + room))
    return customer, used


def _cap_for(run: Round, tiers: list[Tier], units: int) -> str:
    """An amount that pays for `units` and not for one more."""
    enough, too_much = rated_nanos(units, tiers), rated_nanos(units + 1, tiers)
    assert enough.denominator == too_much.denominator == 1
    nanos = run.rng.randint(int(enough), int(too_much) - 1)
    return f"{nanos // _NANOS}.{nanos % _NANOS:09d}"


def _use_up(run: Round, customer: Customer, units: int) -> None:
    """Bring a tenant near a tier's edge, by calls of many units."""
    sizes = [_TEXTS_PER_CALL] * (units // _TEXTS_PER_CALL)
    sizes += [units % _TEXTS_PER_CALL] if units % _TEXTS_PER_CALL else []

    async def step(client: Client) -> bool:
        if sizes:
            await client.send(customer, intent_call(client.rng, sizes.pop()))
        return bool(sizes)

    with run.load([step] * min(16, run.clients)) as using:
        using.wait()


def _hammer(customer: Customer, largest: int) -> Step:
    """Calls of 1 to `largest` units until a few in a row were refused."""
    refusals = 0

    async def step(client: Client) -> bool:
        nonlocal refusals
        ended = await client.send(customer, intent_call(client.rng, client.rng.randint(1, largest)))
        refusals = 0 if ended.outcome == "answered" else refusals + 1
        return refusals < _REFUSALS

    return step


def _fill(customer: Customer) -> Step:
    """Single units until none went through for a while: what refusals of larger calls left over."""
    last_s = time.monotonic()

    async def step(client: Client) -> bool:
        nonlocal last_s
        ended = await client.send(customer, intent_call(client.rng, 1))
        await pause_after(ended)
        if ended.outcome == "answered":
            last_s = time.monotonic()
        return time.monotonic() < last_s + _FILL_S

    return step


def _judge(run: Round, capped: Customer, used: int, room: int) -> Judged:
    entries = read(run.journal.path)
    harmed = [
        attempt
        for attempt in attempts_of(entries)
        if attempt.sent.tenant_id != capped.tenant_id and not attempt.is_answered
    ]
    run.expect(not harmed, f"{len(harmed)} calls of other tenants were not answered")
    units = net_units(run.rows(), _METER, tenant_id=capped.tenant_id) - used
    run.expect(units >= room, f"the cap left room for {room} units, and let {units} through")
    overrun = max(0, units - room)
    run.expect(not overrun, f"the cap was overrun by {overrun} units")
    return run.judge(Rules(refusals=frozenset({402}))).with_overrun(overrun)
