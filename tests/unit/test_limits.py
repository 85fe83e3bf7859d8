"""Promise 9 at the door: rates and calls in hand have bounds, and a refusal says when to come back."""

import pytest

from gateway.limits import ConcurrencyLimitError, Limits, RateLimitError
from tenants.records import KeyRecord, PlanLimits
from tests.callers import caller


async def allowed_of(limits: Limits, requests: int, who: KeyRecord) -> int:
    windows = [await limits.count_request(who) for _ in range(requests)]
    return sum(window.remaining is not None for window in windows)


def places_of(limits: Limits, plan: PlanLimits) -> int:
    """How many calls a tenant of this plan may have in hand."""
    try:
        with limits.slot(caller(limits=plan)):
            return 1 + places_of(limits, plan)
    except ConcurrencyLimitError:
        return 0


async def test_the_minute_ends_after_its_limit_for_the_tenant_over_all_of_its_keys() -> None:
    limits = Limits(requests_per_minute=10, max_concurrent_calls=5, workers=1)
    for number in range(10):
        window = await limits.count_request(caller(key_id=f"key{number % 3}"))
        window.check()
        assert window.remaining == 9 - number
    with pytest.raises(RateLimitError) as refused:
        (await limits.count_request(caller(key_id="key0"))).check()
    assert 0 < refused.value.retry_after_s <= 60
    (await limits.count_request(caller("other tenant", "other key"))).check()


async def test_a_plan_decides_the_minute_of_the_tenant_and_of_each_key() -> None:
    limits = Limits(requests_per_minute=10, max_concurrent_calls=5, workers=1)
    plan = PlanLimits(requests_per_minute=8, requests_per_minute_per_key=3)
    assert await allowed_of(limits, 5, caller(key_id="one", limits=plan)) == 3
    assert await allowed_of(limits, 2, caller(key_id="two", limits=plan)) == 2
    assert await allowed_of(limits, 5, caller(key_id="three", limits=plan)) == 1  # the tenant's eighth
    assert await allowed_of(limits, 20, caller(tenant_id="on the default", key_id="other")) == 10


async def test_a_plan_without_a_limit_has_the_installations() -> None:
    limits = Limits(requests_per_minute=10, max_concurrent_calls=5, workers=1)
    assert await allowed_of(limits, 20, caller(limits=PlanLimits(requests_per_minute_per_key=50))) == 10
    assert places_of(limits, PlanLimits()) == 5


async def test_a_changed_limit_holds_for_the_next_request() -> None:
    limits = Limits(requests_per_minute=10, max_concurrent_calls=5, workers=1)
    assert await allowed_of(limits, 5, caller(limits=PlanLimits(requests_per_minute=2))) == 2
    assert await allowed_of(limits, 9, caller(limits=PlanLimits(requests_per_minute=4))) == 4


async def test_each_worker_holds_its_share_and_one_at_the_least() -> None:
    limits = Limits(requests_per_minute=10, max_concurrent_calls=4, workers=4)
    assert (await limits.count_request(caller())).limit == 2
    for per_minute, held in ((8, 2), (3, 1)):
        plan = PlanLimits(requests_per_minute=per_minute, requests_per_minute_per_key=100)
        assert (await limits.count_request(caller(limits=plan))).limit == held
    assert places_of(limits, PlanLimits()) == 1
    assert places_of(limits, PlanLimits(max_concurrent_calls=12)) == 3
    assert places_of(limits, PlanLimits(max_concurrent_calls=3)) == 1


def test_places_for_calls_in_hand_are_given_back_however_a_call_ends() -> None:
    limits = Limits(requests_per_minute=10, max_concurrent_calls=2, workers=1)
    with (
        limits.slot(caller()),
        limits.slot(caller()),
        limits.slot(caller("other")),
        pytest.raises(ConcurrencyLimitError),
    ):
        limits.slot(caller()).__enter__()
    with pytest.raises(ZeroDivisionError), limits.slot(caller()):
        _ = 1 / 0
    with limits.slot(caller()), limits.slot(caller()):
        pass
