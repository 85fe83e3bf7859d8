"""Who works for the vendor: taken on, let in by their key, and refused from the moment they are revoked."""

import asyncio
import os
import pwd
from datetime import UTC, datetime, timedelta

import pytest

from gateway.commands.acting import acting
from infra.database import Pool
from infra.errors import DomainError, InvalidValueError, NotFoundError
from tenants import keys, staff
from tenants.records import StaffMember
from tenants.staff import authenticate_staff


def now() -> datetime:
    return datetime.now(UTC)


async def code_of(pool: Pool, key_text: str | None, at: datetime | None = None) -> str:
    with pytest.raises(DomainError) as refused:
        await authenticate_staff(pool, key_text, at or now())
    return refused.value.code


async def test_a_member_is_let_in_by_their_key_and_its_text_is_kept_nowhere(pool: Pool) -> None:
    issued = await staff.add_member(pool, " 林美玲 ", "Mei-Ling@Example.com", "finance")
    text = issued.text.reveal()

    assert text.startswith("aiaas_staff_")
    assert text not in repr(issued)
    assert (issued.member.name, issued.member.email) == ("林美玲", "mei-ling@example.com")
    assert (await authenticate_staff(pool, text, now())).staff_id == issued.member.staff_id
    [listed] = await staff.list_members(pool)
    assert listed.key_last_used_at is not None
    async with pool.connection() as connection:
        cursor = await connection.execute("SELECT staff::text FROM tenants.staff")
        assert text.rsplit("_", 1)[1] not in str(await cursor.fetchall())


async def test_each_way_a_staff_key_can_be_wrong_has_its_own_code(pool: Pool) -> None:
    expiring = await staff.add_member(pool, "A", "a@example.com", "finance", now() + timedelta(days=1))
    text = expiring.text.reveal()

    assert await code_of(pool, None) == "missing_staff_key"
    assert await code_of(pool, "") == "missing_staff_key"
    assert await code_of(pool, text[:-1] + ("A" if text[-1] != "A" else "B")) == "malformed_staff_key"
    assert await code_of(pool, keys.new_key("live")[1]) == "wrong_kind_of_key"
    assert await code_of(pool, keys.new_key("staff")[1]) == "unknown_staff_key"
    assert await code_of(pool, text, now() + timedelta(days=1)) == "expired_staff_key"
    await staff.revoke_member(pool, expiring.member.staff_id)
    assert await code_of(pool, text) == "revoked_staff_key"


async def test_a_rotated_key_takes_the_old_ones_place_at_once(pool: Pool) -> None:
    old = await staff.add_member(pool, "A", "a@example.com", "finance", now() + timedelta(days=30))
    new = await staff.rotate_member_key(pool, old.member.staff_id)

    assert await code_of(pool, old.text.reveal()) == "unknown_staff_key"
    assert (await authenticate_staff(pool, new.text.reveal(), now())).staff_id == old.member.staff_id
    assert new.member.key_expires_at is not None
    assert new.member.key_expires_at - now() == pytest.approx(timedelta(days=30), abs=timedelta(minutes=1))


async def test_who_comes_back_is_who_they_were(pool: Pool) -> None:
    """Else somebody could approve under a new id what they prepared under the old one."""
    first = await staff.add_member(pool, "Ming", "ming@example.com", "operator")
    revoked = await staff.revoke_member(pool, first.member.staff_id)
    assert await staff.revoke_member(pool, first.member.staff_id) == revoked
    with pytest.raises(InvalidValueError, match="staff add"):
        await staff.rotate_member_key(pool, first.member.staff_id)

    back = await staff.add_member(pool, "Ming", "MING@example.com", "finance")

    assert back.member.staff_id == first.member.staff_id
    assert back.member.role == "finance"
    assert await code_of(pool, first.text.reveal()) == "unknown_staff_key"
    assert (await authenticate_staff(pool, back.text.reveal(), now())).revoked_at is None


async def test_one_email_is_one_member_whoever_is_added_at_the_same_time(pool: Pool) -> None:
    adding = [staff.add_member(pool, name, "same@example.com", "finance") for name in "ABCD"]
    outcomes = await asyncio.gather(*adding, return_exceptions=True)

    refused = [one for one in outcomes if isinstance(one, InvalidValueError)]
    assert [one.param for one in refused] == ["email"] * 3
    assert len(await staff.list_members(pool)) == 1


@pytest.mark.parametrize(
    ("param", "given"),
    [
        ("name", {"name": " "}),
        ("name", {"name": "x" * 201}),
        ("email", {"email": "nobody"}),
        ("email", {"email": "a b@example.com"}),
        ("email", {"email": "a@" + "x" * 250 + ".com"}),
        ("role", {"role": "owner"}),
        ("expires_at", {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}),
    ],
)
async def test_a_bad_value_is_refused_and_named(pool: Pool, param: str, given: dict[str, object]) -> None:
    fields: dict[str, object] = {"name": "A", "email": "a@example.com", "role": "finance", **given}
    with pytest.raises(InvalidValueError) as refused:
        await staff.add_member(pool, **fields)  # type: ignore[arg-type]
    assert refused.value.param == param
    assert await staff.list_members(pool) == []


async def test_an_unknown_member_is_named_as_such(pool: Pool) -> None:
    for act in (staff.rotate_member_key, staff.revoke_member):
        with pytest.raises(NotFoundError):
            await act(pool, "stf_unknown")


async def test_members_are_listed_page_by_page(pool: Pool) -> None:
    made = [(await staff.add_member(pool, n, f"{n}@example.com", "finance")).member for n in ("a", "b", "c")]
    assert await staff.list_members(pool, limit=2) == made[:2]
    assert await staff.list_members(pool, after=made[1].staff_id) == made[2:]


def test_an_operator_may_do_what_finance_may_and_not_the_other_way_round() -> None:
    def of(role: str) -> StaffMember:
        return StaffMember("stf_1", "A", "a@b.c", role, now(), None, now(), None, None)  # type: ignore[arg-type]

    staff.require_role(of("finance"), "finance")
    staff.require_role(of("operator"), "finance")
    staff.require_role(of("operator"), "operator")
    with pytest.raises(DomainError) as refused:
        staff.require_role(of("finance"), "operator")
    assert refused.value.code == "insufficient_role"


async def test_a_command_acts_as_the_member_of_its_key_or_else_as_the_account_it_runs_under(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    issued = await staff.add_member(pool, "A", "a@example.com", "finance")
    monkeypatch.setenv("LOGNAME", "somebody-else")
    monkeypatch.setenv("AIAAS_STAFF_KEY", "")
    assert await acting(pool) == f"os:{pwd.getpwuid(os.getuid()).pw_name}"

    monkeypatch.setenv("AIAAS_STAFF_KEY", issued.text.reveal())
    assert await acting(pool) == f"staff:{issued.member.staff_id}"
    await staff.revoke_member(pool, issued.member.staff_id)
    with pytest.raises(DomainError) as refused:
        await acting(pool)
    assert refused.value.code == "revoked_staff_key"
