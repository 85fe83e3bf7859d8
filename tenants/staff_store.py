"""Every query over those who work for the vendor. They belong to no tenant."""

# ruff: noqa: S608 (nothing is put into a query's text but the list of columns below)

from datetime import datetime, timedelta
from typing import Any

from infra.database import Connection
from tenants.records import Role, StaffMember

_COLUMNS = (
    "staff_id, name, email, role, created_at, revoked_at, key_created_at, key_expires_at, key_last_used_at"
)


async def insert_or_bring_back(
    connection: Connection,
    *,
    staff_id: str,
    name: str,
    email: str,
    role: Role,
    key_sha256: bytes,
    key_expires_at: datetime | None,
) -> StaffMember | None:
    """A new member, or a revoked one of this e-mail under their old id; None when one works here with it."""
    cursor = await connection.execute(
        f"""
        INSERT INTO tenants.staff AS held (staff_id, name, email, role, key_sha256, key_expires_at)
        VALUES (%(staff_id)s, %(name)s, %(email)s, %(role)s, %(key_sha256)s, %(key_expires_at)s)
        ON CONFLICT (email) DO UPDATE SET
            name = excluded.name, role = excluded.role, revoked_at = NULL, key_sha256 = excluded.key_sha256,
            key_created_at = now(), key_expires_at = excluded.key_expires_at, key_last_used_at = NULL
        WHERE held.revoked_at IS NOT NULL
        RETURNING {_COLUMNS}
        """,
        {
            "staff_id": staff_id,
            "name": name,
            "email": email,
            "role": role,
            "key_sha256": key_sha256,
            "key_expires_at": key_expires_at,
        },
    )
    return _member(await cursor.fetchone())


async def members(connection: Connection, after: str | None, limit: int) -> list[StaffMember]:
    """Oldest first; `after` is the last id of the page before."""
    cursor = await connection.execute(
        f"""
        SELECT {_COLUMNS} FROM tenants.staff
        WHERE %(after)s::text IS NULL OR (created_at, staff_id) > (
            SELECT created_at, staff_id FROM tenants.staff WHERE staff_id = %(after)s)
        ORDER BY created_at, staff_id LIMIT %(limit)s
        """,
        {"after": after, "limit": limit},
    )
    return [StaffMember(*row) for row in await cursor.fetchall()]


async def member_of_key(connection: Connection, key_sha256: bytes) -> StaffMember | None:
    cursor = await connection.execute(
        f"SELECT {_COLUMNS} FROM tenants.staff WHERE key_sha256 = %(key_sha256)s", {"key_sha256": key_sha256}
    )
    return _member(await cursor.fetchone())


async def lock_member(connection: Connection, staff_id: str) -> StaffMember | None:
    """Read a member and hold it until the transaction ends."""
    cursor = await connection.execute(
        f"SELECT {_COLUMNS} FROM tenants.staff WHERE staff_id = %(staff_id)s FOR NO KEY UPDATE",
        {"staff_id": staff_id},
    )
    return _member(await cursor.fetchone())


async def replace_key(connection: Connection, staff_id: str, key_sha256: bytes) -> StaffMember | None:
    """A new key in the old one's place, living as long from now on as the old one was made to live."""
    cursor = await connection.execute(
        f"""
        UPDATE tenants.staff SET
            key_sha256 = %(key_sha256)s, key_created_at = now(), key_last_used_at = NULL,
            key_expires_at = now() + (key_expires_at - key_created_at)
        WHERE staff_id = %(staff_id)s
        RETURNING {_COLUMNS}
        """,
        {"staff_id": staff_id, "key_sha256": key_sha256},
    )
    return _member(await cursor.fetchone())


async def set_revoked(connection: Connection, staff_id: str) -> StaffMember | None:
    """Revoke a member; one who is revoked already stays as they are."""
    cursor = await connection.execute(
        f"""
        UPDATE tenants.staff SET revoked_at = coalesce(revoked_at, now()) WHERE staff_id = %(staff_id)s
        RETURNING {_COLUMNS}
        """,
        {"staff_id": staff_id},
    )
    return _member(await cursor.fetchone())


async def note_key_used(connection: Connection, staff_id: str, resolution: timedelta) -> None:
    """Set `key_last_used_at` where it is older than `resolution`."""
    await connection.execute(
        """
        UPDATE tenants.staff SET key_last_used_at = now()
        WHERE staff_id = %(staff_id)s
            AND (key_last_used_at IS NULL OR key_last_used_at <= now() - %(resolution)s)
        """,
        {"staff_id": staff_id, "resolution": resolution},
    )


def _member(row: tuple[Any, ...] | None) -> StaffMember | None:
    return StaffMember(*row) if row else None
