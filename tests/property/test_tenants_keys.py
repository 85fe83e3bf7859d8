"""The checksum refuses what it says it refuses, whatever the key."""

from typing import Literal

from hypothesis import assume, given
from hypothesis import strategies as st

from tenants import keys

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
CHECKSUM_START = 56
LENGTH = 62

key_texts = st.sampled_from(["live", "test"]).map(lambda mode: keys.new_key(mode)[1])  # type: ignore[arg-type]


@given(st.sampled_from(["live", "test"]))
def test_a_new_key_is_parsed_as_what_it_is(mode: Literal["live", "test"]) -> None:
    key_id, text = keys.new_key(mode)

    assert len(text) == LENGTH
    assert text.startswith(f"aiaas_{mode}_{key_id.removeprefix('key_')}_")
    assert keys.parse(text) == keys.ParsedKey(key_id, mode)


@given(key_texts, st.integers(0, LENGTH - 1), st.characters())
def test_any_one_character_changed_is_refused(text: str, position: int, character: str) -> None:
    assume(character != text[position])

    assert keys.parse(text[:position] + character + text[position + 1 :]) is None


@given(key_texts, st.integers(0, CHECKSUM_START - 1), st.text(ALPHABET, min_size=1, max_size=4))
def test_any_four_neighbours_changed_before_the_checksum_are_refused(
    text: str, position: int, slip: str
) -> None:
    end = min(position + len(slip), CHECKSUM_START)
    changed = text[:position] + slip[: end - position] + text[end:]
    assume(changed != text)

    assert keys.parse(changed) is None


@given(key_texts, st.data())
def test_any_two_characters_in_each_others_place_are_refused(text: str, data: st.DataObject) -> None:
    """Within what the checksum covers, and within the checksum: between the two it is only likely."""
    low, high = data.draw(st.sampled_from([(0, CHECKSUM_START - 1), (CHECKSUM_START, LENGTH - 1)]))
    first = data.draw(st.integers(low, high - 1))
    second = data.draw(st.integers(first + 1, high))
    assume(text[first] != text[second])
    swapped = list(text)
    swapped[first], swapped[second] = swapped[second], swapped[first]

    assert keys.parse("".join(swapped)) is None


@given(st.text(max_size=100))
def test_any_text_is_refused_without_an_error(text: str) -> None:
    assert keys.parse(text) is None


@given(key_texts, st.text(min_size=1, max_size=3))
def test_anything_before_or_behind_is_refused(text: str, more: str) -> None:
    assert keys.parse(text + more) is None
    assert keys.parse(more + text) is None
