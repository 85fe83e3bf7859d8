"""Every query of this room. `tenant_id` is mandatory; `operator_...` are the ones that cross tenants."""

# ruff: noqa: S608 (nothing is put into a query's text but the lists of columns below)

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from psycopg.rows import TupleRow

from infra.database import Connection
from tenants.keys import Mode
from tenants.records import ApiKey, KeyRecord, Placement, Plan, PlanLimits, Tenant, known_placement

_TENANT_COLUMNS = "tenant_id, name, created_at, plan, placement"
_LIMIT_COLUMNS = "requests_per_minute, requests_per_minute_per_key, max_concurrent_calls"
_KEY_COLUMNS = (
    "key_id, tenant_id, name, mode, scopes, allowed_networks::text[], created_at, expires_at, revoked_at, "
    "last_used_at, replaced_by"
)


async def insert_tenant(connection: Connection, tenant_id: str, name: str) -> Tenant:
    cursor = await connection.execute(
        f"INSERT INTO tenants.tenant (tenant_id, name) VALUES (%(tenant_id)s, %(name)s) "
        f"RETURNING {_TENANT_COLUMNS}",
        {"tenant_id": tenant_id, "name": name},
    )
    return _tenant(_one(await cursor.fetchone()))


async def tenant(connection: Connection, tenant_id: str) -> Tenant | None:
    cursor = await connection.execute(
        f"SELECT {_TENANT_COLUMNS} FROM tenants.tenant WHERE tenant_id = %(tenant_id)s",
        {"tenant_id": tenant_id},
    )
    row = await cursor.fetchone()
    return _tenant(row) if row else None


async def operator_tenants(connection: Connection, after: str | None, limit: int) -> list[Tenant]:
    """Oldest first; `after` is the last id of the page before."""
    cursor = await connection.execute(
        f"""
        SELECT {_TENANT_COLUMNS} FROM tenants.tenant
        WHERE %(after)s::text IS NULL OR (created_at, tenant_id) > (
            SELECT created_at, tenant_id FROM tenants.tenant WHERE tenant_id = %(after)s)
        ORDER BY created_at, tenant_id LIMIT %(limit)s
        """,
        {"after": after, "limit": limit},
    )
    return [_tenant(row) for row in await cursor.fetchall()]


async def set_tenant_plan(connection: Connection, tenant_id: str, plan: str) -> Tenant | None:
    """Raises: psycopg.errors.ForeignKeyViolation: there is no such plan."""
    cursor = await connection.execute(
        f"""
        UPDATE tenants.tenant SET plan = %(plan)s WHERE tenant_id = %(tenant_id)s
        RETURNING {_TENANT_COLUMNS}
        """,
        {"tenant_id": tenant_id, "plan": plan},
    )
    row = await cursor.fetchone()
    return _tenant(row) if row else None


async def set_placement(connection: Connection, tenant_id: str, placement: Placement) -> Tenant | None:
    cursor = await connection.execute(
        f"""
        UPDATE tenants.tenant SET placement = %(placement)s WHERE tenant_id = %(tenant_id)s
        RETURNING {_TENANT_COLUMNS}
        """,
        {"tenant_id": tenant_id, "placement": placement},
    )
    row = await cursor.fetchone()
    return _tenant(row) if row else None


async def plan_of_tenant(connection: Connection, tenant_id: str) -> Plan | None:
    cursor = await connection.execute(
        f"""
        SELECT plan, {_LIMIT_COLUMNS} FROM tenants.tenant JOIN tenants.plan USING (plan)
        WHERE tenant_id = %(tenant_id)s
        """,
        {"tenant_id": tenant_id},
    )
    row = await cursor.fetchone()
    return _plan(row) if row else None


async def operator_plans(connection: Connection) -> list[Plan]:
    cursor = await connection.execute(f"SELECT plan, {_LIMIT_COLUMNS} FROM tenants.plan ORDER BY plan")
    return [_plan(row) for row in await cursor.fetchall()]


async def operator_set_plan_limits(
    connection: Connection, plan: str, changes: Mapping[str, int | None]
) -> Plan:
    """Set the limits that are named, of a plan that is there or is made by it."""
    cursor = await connection.execute(
        f"""
        INSERT INTO tenants.plan AS held (plan, {_LIMIT_COLUMNS})
        VALUES (%(plan)s, %(requests_per_minute)s, %(requests_per_minute_per_key)s, %(max_concurrent_calls)s)
        ON CONFLICT (plan) DO UPDATE SET
            requests_per_minute = CASE WHEN 'requests_per_minute' = ANY(%(named)s)
                THEN excluded.requests_per_minute ELSE held.requests_per_minute END,
            requests_per_minute_per_key = CASE WHEN 'requests_per_minute_per_key' = ANY(%(named)s)
                THEN excluded.requests_per_minute_per_key ELSE held.requests_per_minute_per_key END,
            max_concurrent_calls = CASE WHEN 'max_concurrent_calls' = ANY(%(named)s)
                THEN excluded.max_concurrent_calls ELSE held.max_concurrent_calls END
        RETURNING plan, {_LIMIT_COLUMNS}
        """,
        {
            "plan": plan,
            "named": list(changes),
            **{name: changes.get(name) for name in PlanLimits.__struct_fields__},
        },
    )
    return _plan(_one(await cursor.fetchone()))


async def insert_key(
    connection: Connection,
    tenant_id: str,
    *,
    key_id: str,
    name: str,
    mode: Mode,
    secret_sha256: bytes,
    scopes: Sequence[str],
    allowed_networks: Sequence[str],
    expires_at: datetime | None,
) -> ApiKey:
    """Raises: psycopg.errors.ForeignKeyViolation: there is no such tenant."""
    cursor = await connection.execute(
        f"""
        INSERT INTO tenants.api_key
            (key_id, tenant_id, name, mode, secret_sha256, scopes, allowed_networks, expires_at)
        VALUES (%(key_id)s, %(tenant_id)s, %(name)s, %(mode)s, %(secret_sha256)s, %(scopes)s,
            %(allowed_networks)s::text[]::cidr[], %(expires_at)s)
        RETURNING {_KEY_COLUMNS}
        """,
        {
            "key_id": key_id,
            "tenant_id": tenant_id,
            "name": name,
            "mode": mode,
            "secret_sha256": secret_sha256,
            "scopes": list(scopes),
            "allowed_networks": list(allowed_networks),
            "expires_at": expires_at,
        },
    )
    return _api_key(_one(await cursor.fetchone()))


async def lock_key(connection: Connection, tenant_id: str, key_id: str) -> ApiKey | None:
    """Read a key and hold it until the transaction ends."""
    cursor = await connection.execute(
        f"""
        SELECT {_KEY_COLUMNS} FROM tenants.api_key
        WHERE tenant_id = %(tenant_id)s AND key_id = %(key_id)s FOR NO KEY UPDATE
        """,
        {"tenant_id": tenant_id, "key_id": key_id},
    )
    row = await cursor.fetchone()
    return _api_key(row) if row else None


async def insert_successor(
    connection: Connection, tenant_id: str, *, of_key_id: str, key_id: str, secret_sha256: bytes
) -> ApiKey:
    """A key like the old one, living as long from now on as the old one was made to live."""
    cursor = await connection.execute(
        f"""
        INSERT INTO tenants.api_key
            (key_id, tenant_id, name, mode, secret_sha256, scopes, allowed_networks, expires_at)
        SELECT %(key_id)s, tenant_id, name, mode, %(secret_sha256)s, scopes, allowed_networks,
            now() + (expires_at - created_at)
        FROM tenants.api_key WHERE tenant_id = %(tenant_id)s AND key_id = %(of_key_id)s
        RETURNING {_KEY_COLUMNS}
        """,
        {
            "key_id": key_id,
            "secret_sha256": secret_sha256,
            "tenant_id": tenant_id,
            "of_key_id": of_key_id,
        },
    )
    return _api_key(_one(await cursor.fetchone()))


async def retire_key(
    connection: Connection, tenant_id: str, *, key_id: str, replaced_by: str, grace: timedelta
) -> None:
    """Let a replaced key expire when its grace is over, or when it would have expired, if that is sooner."""
    await connection.execute(
        """
        UPDATE tenants.api_key
        SET replaced_by = %(replaced_by)s, expires_at = least(expires_at, now() + %(grace)s)
        WHERE tenant_id = %(tenant_id)s AND key_id = %(key_id)s
        """,
        {"tenant_id": tenant_id, "key_id": key_id, "replaced_by": replaced_by, "grace": grace},
    )


async def set_key_revoked(connection: Connection, tenant_id: str, key_id: str) -> None:
    """Revoke a key, unless it is revoked already."""
    await connection.execute(
        """
        UPDATE tenants.api_key SET revoked_at = now()
        WHERE tenant_id = %(tenant_id)s AND key_id = %(key_id)s AND revoked_at IS NULL
        """,
        {"tenant_id": tenant_id, "key_id": key_id},
    )


async def key(connection: Connection, tenant_id: str, key_id: str) -> ApiKey | None:
    cursor = await connection.execute(
        f"""
        SELECT {_KEY_COLUMNS} FROM tenants.api_key
        WHERE tenant_id = %(tenant_id)s AND key_id = %(key_id)s
        """,
        {"tenant_id": tenant_id, "key_id": key_id},
    )
    row = await cursor.fetchone()
    return _api_key(row) if row else None


async def keys(connection: Connection, tenant_id: str, after: str | None, limit: int) -> list[ApiKey]:
    """A tenant's keys, oldest first; `after` is the last id of the page before."""
    cursor = await connection.execute(
        f"""
        SELECT {_KEY_COLUMNS} FROM tenants.api_key
        WHERE tenant_id = %(tenant_id)s
            AND (%(after)s::text IS NULL OR (created_at, key_id) > (
                SELECT created_at, key_id FROM tenants.api_key
                WHERE tenant_id = %(tenant_id)s AND key_id = %(after)s))
        ORDER BY created_at, key_id LIMIT %(limit)s
        """,
        {"tenant_id": tenant_id, "after": after, "limit": limit},
    )
    return [_api_key(row) for row in await cursor.fetchall()]


async def operator_keys(connection: Connection, after: str | None, limit: int) -> list[ApiKey]:
    """All tenants' keys, oldest first; `after` is the last id of the page before."""
    cursor = await connection.execute(
        f"""
        SELECT {_KEY_COLUMNS} FROM tenants.api_key
        WHERE %(after)s::text IS NULL OR (created_at, key_id) > (
            SELECT created_at, key_id FROM tenants.api_key WHERE key_id = %(after)s)
        ORDER BY created_at, key_id LIMIT %(limit)s
        """,
        {"after": after, "limit": limit},
    )
    return [_api_key(row) for row in await cursor.fetchall()]


async def operator_tenant_of_key(connection: Connection, key_id: str) -> str | None:
    cursor = await connection.execute(
        "SELECT tenant_id FROM tenants.api_key WHERE key_id = %(key_id)s", {"key_id": key_id}
    )
    row = await cursor.fetchone()
    return row[0] if row else None


async def keys_by_digest(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, KeyRecord]:
    """The keys behind SHA-256 digests of key texts, those that exist, with what their tenants may do.

    Crosses tenants by its nature: whoever holds a key's text is the tenant that the row names.
    """
    cursor = await connection.execute(
        f"""
        SELECT secret_sha256, key_id, tenant_id, scopes, allowed_networks, expires_at, revoked_at,
            placement, {_LIMIT_COLUMNS}
        FROM tenants.api_key JOIN tenants.tenant USING (tenant_id) JOIN tenants.plan USING (plan)
        WHERE secret_sha256 = ANY(%(digests)s)
        """,
        {"digests": list(digests)},
    )
    return {row[0]: _key_record(row) for row in await cursor.fetchall()}


async def key_epoch(connection: Connection) -> int:
    """How many changes of keys, or of what their tenants may do, were committed so far."""
    cursor = await connection.execute("SELECT epoch FROM tenants.key_epoch")
    return _one(await cursor.fetchone())[0]


async def note_keys_used(connection: Connection, key_ids: Sequence[str], resolution: timedelta) -> None:
    """Set `last_used_at` where it is older than `resolution`. Concerns uses, not tenants' data.

    The rows are locked in one order, so that two workers' notes cannot deadlock.
    """
    await connection.execute(
        """
        WITH due AS (
            SELECT key_id FROM tenants.api_key
            WHERE key_id = ANY(%(key_ids)s)
                AND (last_used_at IS NULL OR last_used_at <= now() - %(resolution)s)
            ORDER BY key_id FOR NO KEY UPDATE
        )
        UPDATE tenants.api_key SET last_used_at = now() FROM due WHERE api_key.key_id = due.key_id
        """,
        {"key_ids": list(key_ids), "resolution": resolution},
    )


def _one(row: TupleRow | None) -> tuple[Any, ...]:
    assert row is not None, "the query always returns a row"
    return row


def _tenant(row: tuple[Any, ...]) -> Tenant:
    *fields, placement = row
    return Tenant(*fields, placement=known_placement(placement))


def _plan(row: tuple[Any, ...]) -> Plan:
    name, *limits = row
    return Plan(name, PlanLimits(*limits))


def _key_record(row: tuple[Any, ...]) -> KeyRecord:
    _, key_id, tenant_id, scopes, networks, expires_at, revoked_at, placement, *limits = row
    return KeyRecord(
        key_id,
        tenant_id,
        frozenset(scopes),
        tuple(networks),
        expires_at,
        revoked_at,
        PlanLimits(*limits),
        known_placement(placement),
    )


def _api_key(row: tuple[Any, ...]) -> ApiKey:
    (
        key_id,
        tenant_id,
        name,
        mode,
        scopes,
        networks,
        created_at,
        expires_at,
        revoked_at,
        last_used_at,
        replaced_by,
    ) = row
    return ApiKey(
        key_id=key_id,
        tenant_id=tenant_id,
        name=name,
        mode=mode,
        scopes=tuple(scopes),
        allowed_networks=tuple(networks),
        created_at=created_at,
        expires_at=expires_at,
        revoked_at=revoked_at,
        last_used_at=last_used_at,
        replaced_by=replaced_by,
    )
