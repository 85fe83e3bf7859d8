"""Call ids are UUIDs of version 7: unguessable, ordered by time, and readable both ways."""

import time
from uuid import UUID, uuid4

from hypothesis import given
from hypothesis import strategies as st

from infra.ids import format_call_id, parse_call_id, uuid7


def test_a_uuid7_holds_its_version_variant_and_time() -> None:
    before_ms = time.time_ns() // 1_000_000
    made = uuid7()
    after_ms = time.time_ns() // 1_000_000
    assert made.version == 7
    assert made.variant == "specified in RFC 4122"
    assert before_ms <= made.int >> 80 <= after_ms


def test_ids_do_not_repeat() -> None:
    assert len({uuid7() for _ in range(50_000)}) == 50_000


@given(st.uuids())
def test_a_call_id_is_read_back(call_id: UUID) -> None:
    assert parse_call_id(format_call_id(call_id)) == call_id


@given(st.text(max_size=50))
def test_what_is_no_call_id_is_none(text: str) -> None:
    assert parse_call_id(text) is None
    assert parse_call_id(uuid4().hex) is None
