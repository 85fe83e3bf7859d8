"""What waits is done together; who fails or leaves does so alone."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from serving.batches import Batches
from serving.watched import WatchedThreads


class Doubling:
    """Doubles numbers, once `gate` is open; fails where there is a 13."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.seen.append(list(numbers))
        assert self.gate.wait(10)
        if 13 in numbers:
            raise ValueError("unlucky")
        return [2 * number for number in numbers]


def threads(longest_s: float = 10) -> WatchedThreads:
    return WatchedThreads(1, "batch", longest_s)


async def begun(work: Doubling, batches: int) -> None:
    async with asyncio.timeout(5):
        while len(work.seen) < batches:
            await asyncio.sleep(0.001)


async def test_what_comes_together_is_done_together_in_bounded_batches() -> None:
    work = Doubling()
    batches = Batches(work, threads(), largest=4, wait_s=0.01)
    assert await asyncio.gather(*(batches.submit(number) for number in range(10))) == list(range(0, 20, 2))
    assert work.seen == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert await batches.submit(21) == 42


async def test_what_comes_while_a_batch_is_in_hand_makes_up_the_next() -> None:
    work = Doubling()
    batches = Batches(work, threads(), largest=8, wait_s=0)
    work.gate.clear()
    first = asyncio.create_task(batches.submit(1))
    await begun(work, 1)
    rest = [asyncio.create_task(batches.submit(number)) for number in (2, 3)]
    await asyncio.sleep(0)
    work.gate.set()
    assert await asyncio.gather(first, *rest) == [2, 4, 6]
    assert work.seen == [[1], [2, 3]]


async def test_one_that_fails_does_not_fail_the_others() -> None:
    batches = Batches(Doubling(), threads(), largest=4, wait_s=0.01)
    answers = await asyncio.gather(*(batches.submit(n) for n in (1, 13, 2)), return_exceptions=True)
    assert (answers[0], answers[2]) == (2, 4)
    assert isinstance(answers[1], ValueError)
    assert await batches.submit(5) == 10


async def test_one_that_leaves_is_not_waited_for_and_its_company_is_answered() -> None:
    work = Doubling()
    batches = Batches(work, threads(), largest=4, wait_s=0)
    work.gate.clear()
    first, leaving_early = (asyncio.create_task(batches.submit(number)) for number in (1, 2))
    await begun(work, 1)
    leaving_late = asyncio.create_task(batches.submit(3))
    staying = asyncio.create_task(batches.submit(4))
    await asyncio.sleep(0)
    for task in (leaving_early, leaving_late):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    work.gate.set()
    assert await asyncio.gather(first, staying) == [2, 8]
    assert work.seen == [[1, 2], [4]]


async def test_those_that_left_take_no_place_in_a_batch() -> None:
    work = Doubling()
    batches = Batches(work, threads(), largest=2, wait_s=0)
    work.gate.clear()
    first = asyncio.create_task(batches.submit(1))
    await begun(work, 1)
    leaving, *staying = (asyncio.create_task(batches.submit(number)) for number in (2, 3, 4))
    await asyncio.sleep(0)
    leaving.cancel()
    work.gate.set()
    assert await asyncio.gather(first, *staying) == [2, 6, 8]
    assert work.seen == [[1], [3, 4]]


async def test_one_that_left_a_failing_batch_is_not_done_again() -> None:
    work = Doubling()
    batches = Batches(work, threads(), largest=4, wait_s=0.01)
    work.gate.clear()
    unlucky, leaving, staying = (asyncio.create_task(batches.submit(number)) for number in (13, 2, 3))
    await begun(work, 1)
    leaving.cancel()
    work.gate.set()
    assert await staying == 6
    assert isinstance((await asyncio.gather(unlucky, return_exceptions=True))[0], ValueError)
    assert work.seen == [[13, 2, 3], [13], [3]]


async def test_a_wrong_number_of_answers_is_an_error_and_not_a_wait_for_ever() -> None:
    batches: Batches[int, int] = Batches(lambda numbers: [], threads(), largest=2, wait_s=0)
    async with asyncio.timeout(5):
        answers = await asyncio.gather(batches.submit(1), batches.submit(2), return_exceptions=True)
    assert all(isinstance(answer, ValueError) for answer in answers)


async def test_a_batch_that_hangs_fails_in_time_and_is_not_done_again() -> None:
    work = Doubling()
    batches = Batches(work, threads(longest_s=0.2), largest=4, wait_s=0.01)
    work.gate.clear()
    async with asyncio.timeout(5):
        answers = await asyncio.gather(*(batches.submit(n) for n in (1, 2)), return_exceptions=True)
    work.gate.set()
    assert all(isinstance(answer, TimeoutError) for answer in answers)
    assert work.seen == [[1, 2]]
