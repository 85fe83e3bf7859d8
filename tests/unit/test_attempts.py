"""Failed attempts have a limit by address, whatever addresses there are, and never keep out who was in."""

import pytest

from gateway import memory_storage
from gateway.attempts import FailedAttempts
from gateway.limits import RateLimitError
from tests.unit.test_memory_storage import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(memory_storage, "time", made)
    return made


def refused(attempts: FailedAttempts, address: str) -> bool:
    try:
        attempts.check(address)
    except RateLimitError as error:
        assert 0 < error.retry_after_s <= 60
        return True
    return False


def fail(attempts: FailedAttempts, address: str, times: int) -> None:
    for _ in range(times):
        attempts.note(address)


def test_an_address_that_failed_too_often_is_refused_until_its_minute_is_over(clock: Clock) -> None:
    attempts = FailedAttempts(per_minute=4, workers=2)
    fail(attempts, "203.0.113.7", 1)
    assert not refused(attempts, "203.0.113.7")
    fail(attempts, "203.0.113.7", 1)
    assert refused(attempts, "203.0.113.7")
    assert not refused(attempts, "203.0.113.8")
    clock.now_s += 60
    assert not refused(attempts, "203.0.113.7")


def test_the_addresses_of_one_ipv6_network_count_together(clock: Clock) -> None:
    attempts = FailedAttempts(per_minute=2, workers=1)
    fail(attempts, "2001:db8::1", 1)
    fail(attempts, "2001:db8::ffff:2", 1)
    assert refused(attempts, "2001:db8::3")
    assert not refused(attempts, "2001:db8:0:1::3")
    fail(attempts, "::ffff:203.0.113.7", 2)
    assert refused(attempts, "203.0.113.7")
    assert not refused(attempts, "::ffff:203.0.113.8")


def test_memory_has_a_bound_and_those_beyond_it_share_one_count(clock: Clock) -> None:
    attempts = FailedAttempts(per_minute=3, workers=1, max_addresses=10)
    for number in range(1000):
        fail(attempts, f"198.51.{number // 250}.{number % 250}", 1)
    assert attempts._storage.size <= 11
    assert refused(attempts, "203.0.113.7")
    fail(attempts, "198.51.0.1", 2)
    assert refused(attempts, "198.51.0.1")
    assert not refused(attempts, "198.51.0.2")
    clock.now_s += 120
    fail(attempts, "203.0.113.7", 1)
    assert not refused(attempts, "203.0.113.7")
    assert attempts._storage.size == 1
