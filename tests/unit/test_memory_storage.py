"""A window counts from its first request to its end, and is forgotten afterwards."""

import threading
import time

import pytest
from limits import RateLimitItemPerMinute
from limits.strategies import FixedWindowRateLimiter

from gateway import memory_storage
from gateway.memory_storage import LoopMemoryStorage


class Clock:
    """Stands in for the module `time`: nobody waits a minute."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    time = staticmethod(time.time)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(memory_storage, "time", made)
    return made


def test_a_window_begins_with_its_first_request_and_ends_after_its_length(clock: Clock) -> None:
    storage = LoopMemoryStorage()
    assert storage.hit("a", 60) == (1, 60)
    clock.now_s += 59.5
    assert storage.hit("a", 60) == (2, 0.5)
    clock.now_s += 0.5
    assert storage.hit("a", 60) == (1, 60)
    assert storage.hit("b", 60) == (1, 60)


def test_what_has_ended_is_dropped_within_two_minutes(clock: Clock) -> None:
    storage = LoopMemoryStorage()
    for number in range(1000):
        storage.hit(f"key {number}", 60)
        clock.now_s += 0.1
    clock.now_s += 60
    storage.hit("another", 60)
    assert storage.reset() == 1


def test_it_starts_no_threads() -> None:
    before = threading.active_count()
    storage = LoopMemoryStorage()
    for _ in range(1000):
        storage.hit("a", 60)
    assert threading.active_count() == before


def test_the_librarys_own_strategy_works_over_it(clock: Clock) -> None:
    limiter, rate = FixedWindowRateLimiter(LoopMemoryStorage()), RateLimitItemPerMinute(3)
    assert [limiter.hit(rate, "a") for _ in range(4)] == [True, True, True, False]
    assert limiter.get_window_stats(rate, "a").remaining == 0
    assert 59 < limiter.get_window_stats(rate, "a").reset_time - time.time() <= 60
    assert not limiter.hit(rate, "b", cost=4)
    limiter.clear(rate, "a")
    assert limiter.get_window_stats(rate, "a").remaining == 3
    clock.now_s += 60
    assert limiter.test(rate, "b")
