"""One request is charged once, however often it is sent: with a key of its own, or by the official client.

Everything goes through a wire that loses answers; now and then a worker is killed in between. Judged is
that each request ends with one call, one charge, and, where it is JSON, one body.
"""

import asyncio
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import httpx
import openai

from tests.faults.client import (
    ATTEMPT_TIMEOUT_S,
    Call,
    Client,
    Customer,
    broken,
    ended,
    intent_call,
    mixed_call,
)
from tests.faults.journal import Ended, read
from tests.faults.judge import Rules, attempts_of
from tests.faults.load import Step, pause_after
from tests.faults.rounds import Judged, Round
from tests.faults.wire import LossyWire

_LOSS = 0.3
_ATTEMPTS = 40
_AT_ONCE = 3
_OFFICIAL_RETRIES = 5
_KILLS = 0.5  # of the rounds kill a worker
_REUSED = "idempotency_key_reused"
_OTHER = " other"
_EXPECTED = frozenset({409, 422, 429, 503, 504})


def idempotency(run: Round) -> Judged:
    """A third of the clients repeat in sequence, a third at once, a third leave it to the official client."""
    wire = LossyWire(run.world.address, Random(f"{run.name} {run.seed} wire"), _LOSS)
    lossy = lambda: f"http://127.0.0.1:{wire.port}"  # noqa: E731
    steps: list[Step] = [
        [_in_sequence, _at_once, _officially][place % 3](run.rng.choice(run.world.customers), lossy)
        for place in range(run.clients)
    ]
    kills = run.rng.random() < _KILLS
    try:
        with run.load(steps):
            run.sleep(0.3, 0.7)
            if kills:
                run.mark_kill("kill worker")
                run.world.signal_worker(run.rng)
            run.sleep(0.3, 0.5)
    finally:
        wire.close()
    if kills:
        run.world.wait_ready()
    _check(run, kills)
    return run.judge(Rules(refusals=_EXPECTED, may_break_after_s=0, may_leave=True))


def _check(run: Round, kills: bool) -> None:
    attempts = attempts_of(read(run.journal.path))
    answered = {attempt.sent.request for attempt in attempts if attempt.is_answered}
    reused = {attempt.sent.request for attempt in attempts if attempt.sent.request.endswith(_OTHER)}
    given_up = {attempt.sent.request for attempt in attempts if attempt.sent.is_retried} - answered - reused
    codes = {one.ended.code for one in attempts if one.sent.request in reused and one.ended.code}
    replays = sum(attempt.ended.is_replay for attempt in attempts)
    run.expect(len(given_up) <= len(answered) // 50, f"{len(given_up)} requests were never answered")
    run.expect(codes <= {_REUSED}, f"another request under a used key met {sorted(map(str, codes))}")
    run.expect(replays > 0, "no answer says that it was replayed")
    if not kills:
        firsts = [attempt for attempt in attempts if attempt.is_answered and not attempt.ended.is_replay]
        twice = len(firsts) - len({attempt.sent.request for attempt in firsts})
        run.expect(twice == 0, f"{twice} answers were not marked as replays")


def _in_sequence(customer: Customer, lossy: Callable[[], str]) -> Step:
    """Until it is answered, then once more past the wire; sometimes another request under the same key."""

    async def step(client: Client) -> bool:
        call, request = mixed_call(client.rng), client.new_request()
        await _until_answered(client, customer, call, request, lossy)
        await client.send(customer, call, request=request, idempotency_key=request)
        if client.rng.random() < 0.2:
            await _reuse(client, customer, call, request)
        return True

    return step


def _at_once(customer: Customer, lossy: Callable[[], str]) -> Step:
    """Several at the same moment, each until it is answered."""

    async def step(client: Client) -> bool:
        call, request = mixed_call(client.rng), client.new_request()
        await asyncio.gather(
            *(_until_answered(client, customer, call, request, lossy) for _ in range(_AT_ONCE))
        )
        return True

    return step


async def _until_answered(
    client: Client, customer: Customer, call: Call, request: str, lossy: Callable[[], str]
) -> None:
    for _ in range(_ATTEMPTS):
        sent = client.send(customer, call, request=request, idempotency_key=request, url=lossy())
        outcome = await sent
        if outcome.outcome == "answered":
            return
        await pause_after(outcome)


async def _reuse(client: Client, customer: Customer, call: Call, key: str) -> None:
    """Another request under a key that was used: refused, and not charged."""
    other = intent_call(client.rng, call.units % 3 + 4)  # larger than any mixed call's
    await client.send(customer, other, request=key + _OTHER, idempotency_key=key)


def _officially(customer: Customer, lossy: Callable[[], str]) -> Step:
    """The official client, which retries by itself and without a key."""

    async def step(client: Client) -> bool:
        call = mixed_call(client.rng)
        attempt = client.begin(customer, call, client.new_request(), is_retried=True)
        outcome = await _ask_officially(client, attempt, customer, call, lossy())
        client.journal.ended(outcome)
        await pause_after(outcome)
        return True

    return step


async def _ask_officially(client: Client, attempt: int, customer: Customer, call: Call, url: str) -> Ended:
    official = openai.AsyncOpenAI(
        base_url=f"{url}/v1",
        api_key=customer.key,
        max_retries=_OFFICIAL_RETRIES,
        timeout=ATTEMPT_TIMEOUT_S,
        http_client=client.http,
    )
    try:
        answer = await _sender(official, call)()
        return ended(attempt, answer, answer.content)
    except openai.APIStatusError as error:
        return ended(attempt, error.response, error.response.content)
    except (openai.APIConnectionError, httpx.HTTPError):
        return broken(attempt)


def _sender(official: openai.AsyncOpenAI, call: Call) -> Callable[[], Awaitable[httpx.Response]]:
    """The official client's own method for the call."""
    if call.upload is not None:
        upload = call.upload

        async def transcribe() -> httpx.Response:
            raw = await official.audio.transcriptions.with_raw_response.create(
                model="whisper-1", file=("noise.wav", upload)
            )
            return raw.http_response

        return transcribe
    body: dict[str, Any] = call.body or {}
    if call.path.endswith("/speech"):

        async def speak() -> httpx.Response:
            return (await official.audio.speech.with_raw_response.create(**body)).http_response

        return speak

    async def classify() -> httpx.Response:
        return await official.post("/intents", body=body, cast_to=httpx.Response)

    return classify
