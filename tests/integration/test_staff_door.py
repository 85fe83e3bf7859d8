"""The admin API's door: who failed too often waits, and who was in before stays in."""

from datetime import UTC, datetime

import pytest

from gateway.limits import RateLimitError
from gateway.staff_door import StaffDoor
from infra.database import Pool
from infra.errors import DomainError
from tenants import keys, staff

ADDRESS = "203.0.113.7"


async def code_of(door: StaffDoor, key_text: str | None) -> str:
    with pytest.raises(DomainError) as refused:
        await door.identify(key_text, ADDRESS)
    return refused.value.code


async def test_an_address_that_fails_too_often_is_refused_before_anything_is_looked_up(pool: Pool) -> None:
    door = StaffDoor(pool, workers=10)  # 3 failures a minute at each
    newcomer = await staff.add_member(pool, "New", "new@example.com", "finance")
    assert [await code_of(door, keys.new_key("staff")[1]) for _ in range(2)] == ["unknown_staff_key"] * 2
    assert await code_of(door, "nonsense") == "malformed_staff_key"

    with pytest.raises(RateLimitError):
        await door.identify(newcomer.text.reveal(), ADDRESS)
    assert (await door.identify(newcomer.text.reveal(), "203.0.113.8")).name == "New"


async def test_strangers_cannot_keep_out_who_was_in_until_their_key_is_refused(pool: Pool) -> None:
    door = StaffDoor(pool, workers=10)
    member = await staff.add_member(pool, "Ming", "ming@example.com", "finance")
    text = member.text.reveal()
    await door.identify(text, ADDRESS)
    for _ in range(5):
        await code_of(door, keys.new_key("staff")[1])
    assert await code_of(door, keys.new_key("staff")[1]) == "rate_limit_exceeded"

    assert (await door.identify(text, ADDRESS)).staff_id == member.member.staff_id
    await staff.revoke_member(pool, member.member.staff_id)
    assert await code_of(door, text) == "revoked_staff_key"
    assert await code_of(door, text) == "rate_limit_exceeded"


async def test_a_key_is_refused_from_the_moment_it_expires(pool: Pool) -> None:
    door = StaffDoor(pool, workers=1)
    issued = await staff.add_member(pool, "A", "a@example.com", "finance")
    await door.identify(issued.text.reveal(), ADDRESS)
    async with pool.connection() as connection:
        await connection.execute("UPDATE tenants.staff SET key_expires_at = %s", [datetime.now(UTC)])
    assert await code_of(door, issued.text.reveal()) == "expired_staff_key"
