"""The decision whether a call may come in."""

from datetime import datetime
from ipaddress import IPv6Address, ip_address

from tenants import keys
from tenants.cached_keys import UNSURE
from tenants.errors import (
    AddressNotAllowedError,
    ExpiredApiKeyError,
    InsufficientScopeError,
    MalformedApiKeyError,
    MissingApiKeyError,
    RevokedApiKeyError,
    UnknownApiKeyError,
    WrongKindOfKeyError,
)
from tenants.key_cache import KeyCache
from tenants.records import KeyRecord, Network, Product


async def authenticate(
    cache: KeyCache, key_text: str | None, peer_address: str | None, now: datetime
) -> KeyRecord:
    """The key behind a call.

    Args:
        key_text: what the caller sent, without `Bearer`.
        peer_address: where the call comes from; an IPv4 address may be written as IPv6.
        now: the present, with a time zone.

    Raises:
        AuthenticationError: missing, malformed (nothing is looked up), unknown, revoked, expired; the
            first that holds.
        AddressNotAllowedError: the key counts, but not from this address.
        UnavailableError: the key cannot be checked at this moment.
    """
    if not key_text:
        raise MissingApiKeyError
    if not keys.is_well_formed(key_text):
        raise _staff_keys_place() if keys.is_staff_key(key_text) else MalformedApiKeyError()
    digest = keys.digest(key_text)
    record = cache.known(digest)
    if record is UNSURE:
        record = await cache.lookup(digest)
    if record is None:
        raise UnknownApiKeyError
    if record.revoked_at is not None:
        raise RevokedApiKeyError
    if record.expires_at is not None and record.expires_at <= now:
        raise ExpiredApiKeyError
    if record.allowed_networks and not _is_within(peer_address, record.allowed_networks):
        raise AddressNotAllowedError
    return record


def require_scope(record: KeyRecord, product: Product) -> None:
    """Raises: InsufficientScopeError: the key may not call this product."""
    if product not in record.scopes:
        raise InsufficientScopeError(product)


def _staff_keys_place() -> WrongKindOfKeyError:
    return WrongKindOfKeyError("This is a staff key: it opens /v1/admin alone. Send a tenant's API key here.")


def _is_within(peer_address: str | None, networks: tuple[Network, ...]) -> bool:
    """Whether an address lies in one of the networks; what is no address lies in none."""
    try:
        address = ip_address(peer_address or "")
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return any(address in network for network in networks)
