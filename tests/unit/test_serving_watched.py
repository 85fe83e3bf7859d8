"""An engine is healthy while it answers, by its calls or by a proof, and not when it hangs or fails."""

import asyncio
import threading

import pytest

from serving import watched
from serving.errors import EngineUnavailableError, NothingToSpeakError
from serving.watched import WatchedThreads


class Engine:
    """Works for real in the threads: waits for its gate, then raises what it was told to, or answers."""

    def __init__(self, longest_s: float = 5) -> None:
        self.threads = WatchedThreads(1, "engine", longest_s)
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.proofs = 0

    def work(self) -> str:
        assert self.gate.wait(10)
        if self.error:
            raise self.error
        return "done"

    async def prove(self, *, within_s: float) -> None:
        self.proofs += 1
        await self.threads.run(self.work, within_s=within_s)

    async def check(self) -> None:
        await self.threads.check(self.prove)


async def test_an_engine_that_answers_is_not_asked_for_a_proof_and_a_quiet_one_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine()
    engine.threads.warm_up(engine.work)
    assert await engine.threads.run(engine.work) == "done"
    await engine.check()
    assert engine.proofs == 0
    monkeypatch.setattr(engine.threads, "_answered_at", engine.threads._answered_at - 31)
    await engine.check()
    await engine.check()
    assert engine.proofs == 1


async def test_a_slow_engine_is_asked_for_proofs_the_more_seldom() -> None:
    threads = WatchedThreads(1, "engine", 5)
    threads.warm_up(lambda: threading.Event().wait(0.1))
    threads._learn(10)
    assert threads._pause_s == 200
    assert threads._proof_s == 100


async def test_one_at_work_is_healthy_until_its_work_has_taken_too_long() -> None:
    engine = Engine(longest_s=0.3)
    engine.gate.clear()
    call = asyncio.create_task(engine.threads.run(engine.work))
    await asyncio.sleep(0.05)
    await engine.check()
    with pytest.raises(TimeoutError):
        await call
    await asyncio.sleep(0.05)  # checks come seconds apart
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await engine.check()
    engine.gate.set()
    assert engine.proofs == 0


async def test_one_that_is_quiet_and_hangs_is_found_out_by_its_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    monkeypatch.setattr(watched, "PROOF_S", 0.1)
    engine.threads._proof_s = 0.1
    engine.gate.clear()
    for _ in range(3):
        with pytest.raises(TimeoutError):
            await engine.check()
        await asyncio.sleep(0.05)  # checks come seconds apart
    engine.gate.set()


@pytest.mark.parametrize("error", [RuntimeError("CUDA error"), EngineUnavailableError()])
async def test_one_whose_calls_fail_has_to_prove_itself(error: Exception) -> None:
    engine = Engine()
    engine.threads.warm_up(engine.work)
    engine.error = error
    with pytest.raises(type(error)):
        await engine.threads.run(engine.work)
    with pytest.raises(type(error)):
        await engine.check()
    engine.error = None
    await engine.check()
    await engine.check()
    assert engine.proofs == 2


async def test_one_that_refuses_a_callers_input_is_well() -> None:
    engine = Engine()
    engine.error = NothingToSpeakError()
    with pytest.raises(NothingToSpeakError):
        await engine.threads.run(engine.work)
    await engine.check()
    assert engine.proofs == 0


async def test_work_that_waits_for_a_thread_when_its_time_is_over_is_never_begun() -> None:
    engine = Engine()
    begun: list[str] = []
    engine.gate.clear()
    first = asyncio.create_task(engine.threads.run(engine.work))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await engine.threads.run(begun.append, "second", within_s=0.05)
    engine.gate.set()
    assert await first == "done"
    assert await engine.threads.run(len, begun) == 0
