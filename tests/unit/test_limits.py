"""Promise 9 at the door: rates and calls in hand have bounds, and a refusal says when to come back."""

import pytest

from gateway.limits import ConcurrencyLimitError, Limits, RateLimitError


async def test_the_minute_ends_after_its_limit_for_the_tenant_over_all_of_its_keys() -> None:
    limits = Limits(requests_per_minute=10, max_concurrent_calls=5, workers=1)
    for number in range(10):
        window = await limits.count_request("tenant", f"key{number % 3}")
        window.check()
        assert window.remaining == 9 - number
    with pytest.raises(RateLimitError) as refused:
        (await limits.count_request("tenant", "key0")).check()
    assert 0 < refused.value.retry_after_s <= 60
    (await limits.count_request("other tenant", "other key")).check()


async def test_each_worker_holds_its_share() -> None:
    limits = Limits(requests_per_minute=10, max_concurrent_calls=4, workers=2)
    assert (await limits.count_request("tenant", "key")).limit == 5


def test_places_for_calls_in_hand_are_given_back_however_a_call_ends() -> None:
    limits = Limits(requests_per_minute=10, max_concurrent_calls=2, workers=1)
    with (
        limits.slot("tenant"),
        limits.slot("tenant"),
        limits.slot("other"),
        pytest.raises(ConcurrencyLimitError),
    ):
        limits.slot("tenant").__enter__()
    with pytest.raises(ZeroDivisionError), limits.slot("tenant"):
        _ = 1 / 0
    with limits.slot("tenant"), limits.slot("tenant"):
        pass
