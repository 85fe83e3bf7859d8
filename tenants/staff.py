"""Who works for the vendor: finance, and operators, each with a key of their own to call the admin API.

A member is looked up in PostgreSQL each time: such calls are rare, and a revoked key stops at once.
"""

import re
from datetime import datetime, timedelta
from typing import get_args

from infra.database import Pool, borrow
from infra.errors import InvalidValueError, NotFoundError
from infra.ids import new_id
from infra.settings import Secret
from tenants import keys, staff_store
from tenants.api_keys import check_expiry
from tenants.errors import (
    ExpiredStaffKeyError,
    InsufficientRoleError,
    MalformedStaffKeyError,
    MissingStaffKeyError,
    RevokedStaffKeyError,
    UnknownStaffKeyError,
    WrongKindOfKeyError,
)
from tenants.records import ROLES, IssuedStaffKey, Role, StaffMember
from tenants.tenants import MAX_PAGE, checked_name, page_size

MAX_EMAIL_LENGTH = 254  # RFC 3696, erratum 1690
_EMAIL = re.compile(r"[!-?A-~]+@[!-?A-~]+\.[!-?A-~]+")
_USE_RESOLUTION = timedelta(minutes=1)


async def add_member(
    pool: Pool, name: str, email: str, role: Role, expires_at: datetime | None = None
) -> IssuedStaffKey:
    """Take somebody on. The text of their key is in the answer and nowhere else.

    Somebody who was revoked comes back under their old id: what they did before stays theirs.

    Args:
        expires_at: from then on the key is refused; with a time zone, in the future.

    Raises:
        InvalidValueError: `param` names the argument at fault; `email` too when it is a member's already.
        UnavailableError: PostgreSQL does not answer.
    """
    name = checked_name(name)
    if not name:
        raise InvalidValueError("Give the member a name.", "name")
    email = _checked_email(email)
    if role not in get_args(Role):
        raise InvalidValueError(f"A role is one of: {', '.join(ROLES)}.", "role")
    check_expiry(expires_at)
    _, text = keys.new_key("staff")
    async with borrow(pool) as connection:
        member = await staff_store.insert_or_bring_back(
            connection,
            staff_id=new_id("stf"),
            name=name,
            email=email,
            role=role,
            key_sha256=keys.digest(text),
            key_expires_at=expires_at,
        )
    if member is None:
        raise InvalidValueError("A member has this e-mail already. `aiaas staff list` shows them.", "email")
    return IssuedStaffKey(member, Secret(text))


async def list_members(pool: Pool, after: str | None = None, limit: int = MAX_PAGE) -> list[StaffMember]:
    """A page of all members, oldest first, revoked ones too; `after` is the last id of the page before.

    Raises:
        UnavailableError: PostgreSQL does not answer.
    """
    async with borrow(pool) as connection:
        return await staff_store.members(connection, after, page_size(limit))


async def rotate_member_key(pool: Pool, staff_id: str) -> IssuedStaffKey:
    """Put a new key in a member's old one's place, which is refused at once.

    It lives as long from now on as the old one was made to live.

    Raises:
        InvalidValueError: the member is revoked.
        NotFoundError: there is no such member.
        UnavailableError: PostgreSQL does not answer.
    """
    _, text = keys.new_key("staff")
    async with borrow(pool) as connection, connection.transaction():
        held = await staff_store.lock_member(connection, staff_id)
        if held is not None and held.revoked_at is not None:
            raise InvalidValueError(
                "This member is revoked. `aiaas staff add` with the same e-mail brings them back.", "staff_id"
            )
        member = await staff_store.replace_key(connection, staff_id, keys.digest(text))
    if member is None:
        raise _no_such_member()
    return IssuedStaffKey(member, Secret(text))


async def revoke_member(pool: Pool, staff_id: str) -> StaffMember:
    """Refuse a member from now on, everywhere at once. Revoking again changes nothing.

    Raises:
        NotFoundError: there is no such member.
        UnavailableError: PostgreSQL does not answer.
    """
    async with borrow(pool) as connection:
        member = await staff_store.set_revoked(connection, staff_id)
    if member is None:
        raise _no_such_member()
    return member


async def authenticate_staff(pool: Pool, key_text: str | None, now: datetime) -> StaffMember:
    """The member behind a staff key.

    Args:
        key_text: what was sent, without `Bearer`.
        now: the present, with a time zone.

    Raises:
        AuthenticationError: missing, malformed (nothing is looked up), unknown, revoked, expired; the
            first that holds.
        UnavailableError: PostgreSQL does not answer.
    """
    if not key_text:
        raise MissingStaffKeyError
    if not keys.is_staff_key(key_text):
        raise _api_keys_place() if keys.is_well_formed(key_text) else MalformedStaffKeyError()
    async with borrow(pool) as connection:
        member = await staff_store.member_of_key(connection, keys.digest(key_text))
        if member is None:
            raise UnknownStaffKeyError
        if member.revoked_at is not None:
            raise RevokedStaffKeyError
        if member.key_expires_at is not None and member.key_expires_at <= now:
            raise ExpiredStaffKeyError
        await staff_store.note_key_used(connection, member.staff_id, _USE_RESOLUTION)
    return member


def require_role(member: StaffMember, role: Role) -> None:
    """Raises: InsufficientRoleError: the member is neither of this role nor an operator."""
    if member.role not in (role, "operator"):
        raise InsufficientRoleError(role)


def _checked_email(email: str) -> str:
    email = email.strip().lower()
    if len(email) > MAX_EMAIL_LENGTH or not email.isascii() or not _EMAIL.fullmatch(email):
        raise InvalidValueError("An e-mail is written like ming@example.com, in ASCII.", "email")
    return email


def _api_keys_place() -> WrongKindOfKeyError:
    return WrongKindOfKeyError("This is a tenant's API key. The admin API takes a staff key: aiaas_staff_...")


def _no_such_member() -> NotFoundError:
    return NotFoundError("There is no such member. `aiaas staff list` shows them all.", "staff_id")
