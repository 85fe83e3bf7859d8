"""API keys: made, listed, rotated and revoked by their tenant's owner or the vendor's operator.

An operator who has a key's id alone asks `operator_tenant_of_key` first, and then acts in that tenant.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import get_args

from psycopg.errors import ForeignKeyViolation

from infra.database import Pool, borrow
from infra.errors import InvalidValueError, NotFoundError
from infra.settings import Secret
from tenants import keys, store
from tenants.keys import Mode
from tenants.records import PRODUCTS, ApiKey, IssuedKey
from tenants.tenants import MAX_PAGE, checked_name, no_such_tenant, page_size

MAX_NETWORKS = 64
DEFAULT_GRACE = timedelta(hours=24)
MAX_GRACE = timedelta(days=30)


async def create_key(
    pool: Pool,
    tenant_id: str,
    *,
    name: str = "",
    mode: Mode = "live",
    scopes: Sequence[str] = PRODUCTS,
    expires_at: datetime | None = None,
    allowed_networks: Sequence[str] = (),
) -> IssuedKey:
    """Make a key. Its text is in the answer and nowhere else.

    Args:
        scopes: the products it may call: `asr`, `intent`, `tts`.
        expires_at: from then on it is refused; with a time zone, in the future.
        allowed_networks: CIDR blocks it may be used from; none means from anywhere.

    Raises:
        InvalidValueError: `param` names the argument at fault.
        NotFoundError: there is no such tenant.
        UnavailableError: PostgreSQL does not answer.
    """
    key_id, text = _new_key(mode)
    name = checked_name(name)
    scopes = _checked_scopes(scopes)
    networks = _checked_networks(allowed_networks)
    check_expiry(expires_at)
    try:
        async with borrow(pool) as connection:
            record = await store.insert_key(
                connection,
                tenant_id,
                key_id=key_id,
                name=name,
                mode=mode,
                secret_sha256=keys.digest(text),
                scopes=scopes,
                allowed_networks=networks,
                expires_at=expires_at,
            )
    except ForeignKeyViolation:
        raise no_such_tenant() from None
    return IssuedKey(record, Secret(text))


async def list_keys(
    pool: Pool, tenant_id: str, after: str | None = None, limit: int = MAX_PAGE
) -> list[ApiKey]:
    """A page of a tenant's keys, oldest first, revoked and expired ones too.

    Args:
        after: the last `key_id` of the page before.

    Raises:
        UnavailableError: PostgreSQL does not answer.
    """
    async with borrow(pool) as connection:
        return await store.keys(connection, tenant_id, after, page_size(limit))


async def operator_list_keys(pool: Pool, after: str | None = None, limit: int = MAX_PAGE) -> list[ApiKey]:
    """As `list_keys`, over all tenants."""
    async with borrow(pool) as connection:
        return await store.operator_keys(connection, after, page_size(limit))


async def operator_tenant_of_key(pool: Pool, key_id: str) -> str:
    """The tenant that a key belongs to.

    Raises:
        NotFoundError: there is no such key.
        UnavailableError: PostgreSQL does not answer.
    """
    async with borrow(pool) as connection:
        tenant_id = await store.operator_tenant_of_key(connection, key_id)
    if tenant_id is None:
        raise _no_such_key()
    return tenant_id


async def rotate_key(pool: Pool, tenant_id: str, key_id: str, grace: timedelta = DEFAULT_GRACE) -> IssuedKey:
    """Put a new key in an old one's place, in one transaction.

    The new one has the same name, mode, scopes and networks, and lives as long from now on as the old one
    was made to live. The old one works on for the grace time, or until it would have expired.

    Raises:
        InvalidValueError: the grace time is negative or over 30 days; or the key is revoked, expired, or
            replaced already.
        NotFoundError: the tenant has no such key.
        UnavailableError: PostgreSQL does not answer.
    """
    if not timedelta() <= grace <= MAX_GRACE:
        raise InvalidValueError(f"The grace time is at least 0 and at most {MAX_GRACE.days} days.", "grace")
    async with borrow(pool) as connection, connection.transaction():
        old = await store.lock_key(connection, tenant_id, key_id)
        if old is None:
            raise _no_such_key()
        _check_rotatable(old)
        new_key_id, text = _new_key(old.mode)
        record = await store.insert_successor(
            connection, tenant_id, of_key_id=key_id, key_id=new_key_id, secret_sha256=keys.digest(text)
        )
        await store.retire_key(connection, tenant_id, key_id=key_id, replaced_by=new_key_id, grace=grace)
    return IssuedKey(record, Secret(text))


async def revoke_key(pool: Pool, tenant_id: str, key_id: str) -> ApiKey:
    """Refuse a key from now on, for good. Revoking again changes nothing.

    Raises:
        NotFoundError: the tenant has no such key.
        UnavailableError: PostgreSQL does not answer.
    """
    async with borrow(pool) as connection:
        await store.set_key_revoked(connection, tenant_id, key_id)
        revoked = await store.key(connection, tenant_id, key_id)
    if revoked is None:
        raise _no_such_key()
    return revoked


def _new_key(mode: Mode) -> tuple[str, str]:
    if mode not in get_args(Mode):
        raise InvalidValueError("A key's mode is `live` or `test`.", "mode")
    return keys.new_key(mode)


def _check_rotatable(old: ApiKey) -> None:
    if old.replaced_by is not None:
        raise InvalidValueError("This key was replaced already. Rotate the key that replaced it.", "key_id")
    if old.revoked_at is not None:
        raise InvalidValueError("This key is revoked. Make a new key instead.", "key_id")
    if old.expires_at is not None and old.expires_at <= datetime.now(UTC):
        raise InvalidValueError("This key has expired. Make a new key instead.", "key_id")


def _checked_scopes(scopes: Sequence[str]) -> list[str]:
    wanted = sorted(set(scopes))
    if not wanted or not set(wanted) <= set(PRODUCTS):
        raise InvalidValueError(f"A key's scopes are one or more of: {', '.join(PRODUCTS)}.", "scopes")
    return wanted


def check_expiry(expires_at: datetime | None) -> None:
    """Raises: InvalidValueError: it lies in the past, or has no time zone."""
    if expires_at is None:
        return
    if expires_at.tzinfo is None:
        raise InvalidValueError("The expiry needs a time zone, such as `Z`.", "expires_at")
    if expires_at <= datetime.now(UTC):
        raise InvalidValueError("The expiry lies in the past. Choose a later time, or none.", "expires_at")


def _checked_networks(networks: Sequence[str]) -> list[str]:
    if len(networks) > MAX_NETWORKS:
        raise InvalidValueError(f"A key has at most {MAX_NETWORKS} networks.", "allowed_networks")
    try:
        return [str(ip_network(network)) for network in networks]
    except ValueError:
        raise InvalidValueError(
            "An allowed network is a CIDR block without host bits, such as 203.0.113.0/24 or 2001:db8::/32.",
            "allowed_networks",
        ) from None


def _no_such_key() -> NotFoundError:
    return NotFoundError("There is no such key. `aiaas key list` shows them all.", "key_id")
