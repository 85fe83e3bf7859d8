from tenants.cached_keys import MISSING_TRUST_S, TRUST_S, UNSURE, CachedKeys
from tenants.records import KeyRecord

A, B, C = (bytes([number]) * 32 for number in range(3))
KEY = KeyRecord("key_1", "ten_1", frozenset({"asr"}), (), None, None)
NOW_S = 1000.0


def trusted(max_keys: int = 10) -> CachedKeys:
    cached = CachedKeys(max_keys)
    cached.confirmed(7, NOW_S)
    return cached


def test_nothing_is_believed_before_the_first_poll() -> None:
    cached = CachedKeys(10)
    cached.fill(A, KEY, cached.generation, NOW_S)

    assert cached.get(A, NOW_S) is UNSURE


def test_a_key_is_believed_until_the_last_poll_is_too_old() -> None:
    cached = trusted()
    cached.fill(A, KEY, cached.generation, NOW_S)

    assert cached.get(A, NOW_S + TRUST_S - 0.001) == KEY
    assert cached.get(A, NOW_S + TRUST_S) is UNSURE

    cached.confirmed(7, NOW_S + 10)
    assert cached.get(A, NOW_S + 10) == KEY


def test_a_digest_without_a_key_is_believed_for_a_short_while() -> None:
    cached = trusted()
    cached.fill(A, None, cached.generation, NOW_S)

    assert cached.get(A, NOW_S) is None
    cached.confirmed(7, NOW_S + MISSING_TRUST_S)
    assert cached.get(A, NOW_S + MISSING_TRUST_S) is UNSURE


def test_the_next_announcement_drops_its_key_alone_and_the_poll_after_it_nothing() -> None:
    cached = trusted()
    cached.fill(A, KEY, cached.generation, NOW_S)
    cached.fill(B, KEY, cached.generation, NOW_S)
    cached.changed(8, A)
    cached.confirmed(8, NOW_S)

    assert cached.get(A, NOW_S) is UNSURE
    assert cached.get(B, NOW_S) == KEY


def test_an_announcement_that_names_no_key_drops_everything_and_the_poll_after_it_nothing() -> None:
    cached = trusted()
    generation = cached.generation
    cached.fill(A, KEY, generation, NOW_S)
    cached.changed(8, None)
    cached.fill(B, KEY, generation, NOW_S)

    assert cached.get(A, NOW_S) is UNSURE
    assert cached.get(B, NOW_S) is UNSURE

    cached.fill(A, KEY, cached.generation, NOW_S)
    cached.confirmed(8, NOW_S)
    assert cached.get(A, NOW_S) == KEY


def test_an_announcement_after_a_gap_drops_everything() -> None:
    cached = trusted()
    cached.fill(B, KEY, cached.generation, NOW_S)
    cached.changed(9, A)

    assert cached.get(B, NOW_S) is UNSURE


def test_another_epoch_drops_everything_even_a_lower_one() -> None:
    for epoch in (8, 6):
        cached = trusted()
        cached.fill(A, KEY, cached.generation, NOW_S)
        cached.confirmed(epoch, NOW_S)

        assert cached.get(A, NOW_S) is UNSURE


def test_a_fill_that_a_change_overtook_is_not_kept() -> None:
    for overtake in (lambda cached: cached.changed(8, A), lambda cached: cached.confirmed(8, NOW_S)):
        cached = trusted()
        generation = cached.generation
        overtake(cached)
        cached.fill(A, KEY, generation, NOW_S)

        assert cached.get(A, NOW_S) is UNSURE


def test_the_least_used_key_goes_first_and_invented_ones_push_out_none() -> None:
    cached = trusted(max_keys=2)
    for digest in (A, B):
        cached.fill(digest, KEY, cached.generation, NOW_S)
    for number in range(3, 200):
        cached.fill(bytes([number]) * 32, None, cached.generation, NOW_S)
    assert len(cached) == 4
    assert cached.get(A, NOW_S) == KEY

    cached.fill(C, KEY, cached.generation, NOW_S)
    assert cached.get(A, NOW_S) == KEY
    assert cached.get(B, NOW_S) is UNSURE
