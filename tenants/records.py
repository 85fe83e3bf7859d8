"""What this room speaks of: tenants, keys as their owner sees them, keys as a worker checks them."""

from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Literal, get_args

import msgspec

from infra.settings import Secret
from tenants.keys import Mode

Network = IPv4Network | IPv6Network
Product = Literal["asr", "intent", "tts"]
# A key's scopes are the products it may call. Reading models, usage and receipts needs a key, no scope.
PRODUCTS: tuple[Product, ...] = ("asr", "intent", "tts")

Placement = Literal["local_only", "prefer_local", "remote"]
"""Where a tenant's calls may be answered.

`local_only`: what it sends never leaves the installation. `prefer_local`: a call that the engines here
refuse, since they are busy or away, is answered by the remote endpoint. `remote`: that answers all of them.
"""
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)


def known_placement(stored: str) -> Placement:
    """The policy that is stored; whatever is not one is `local_only`."""
    return stored if stored in PLACEMENTS else "local_only"


class PlanLimits(msgspec.Struct, frozen=True):
    """What a tenant may ask for at once, over all workers; None is the installation's own default.

    Attributes:
        requests_per_minute: of the tenant, over all its keys.
        requests_per_minute_per_key: of each of its keys.
        max_concurrent_calls: calls of the tenant in hand at the same time.
    """

    requests_per_minute: int | None = None
    requests_per_minute_per_key: int | None = None
    max_concurrent_calls: int | None = None


DEFAULT_LIMITS = PlanLimits()


class Plan(msgspec.Struct, frozen=True):
    """A plan, as far as it limits; what it costs is billing's."""

    plan: str
    limits: PlanLimits


class Tenant(msgspec.Struct, frozen=True):
    """A customer of the vendor."""

    tenant_id: str
    name: str
    created_at: datetime
    plan: str
    placement: Placement = "local_only"


class ApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """An API key as its owner sees it; the secret is not here.

    Attributes:
        scopes: the products it may call, sorted.
        allowed_networks: CIDR blocks it may be used from; empty means from anywhere.
        expires_at: from this moment on it is refused; None means never.
        last_used_at: accurate to about a minute; None until the first use.
        replaced_by: the key that a rotation put in its place.
    """

    key_id: str
    tenant_id: str
    name: str
    mode: Mode
    scopes: tuple[Product, ...]
    allowed_networks: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    replaced_by: str | None


class IssuedKey(msgspec.Struct, frozen=True):
    """A key at the one moment when its text is known."""

    api_key: ApiKey
    text: Secret


class KeyRecord(msgspec.Struct, frozen=True):
    """An API key as a worker checks it, call by call, with its tenant's limits and placement."""

    key_id: str
    tenant_id: str
    scopes: frozenset[str]
    allowed_networks: tuple[Network, ...]
    expires_at: datetime | None
    revoked_at: datetime | None
    limits: PlanLimits = DEFAULT_LIMITS
    placement: Placement = "local_only"


Role = Literal["finance", "operator"]
"""What a staff member may do: an operator all that finance may, and run the service."""
ROLES: tuple[Role, ...] = get_args(Role)


class StaffMember(msgspec.Struct, frozen=True):
    """Somebody who works for the vendor; the key itself is not here.

    Attributes:
        email: in small letters; one e-mail is one member, for good.
        revoked_at: since when they may do nothing.
        key_expires_at: from this moment on the key is refused; None means never.
        key_last_used_at: accurate to about a minute; None until the first use.
    """

    staff_id: str
    name: str
    email: str
    role: Role
    created_at: datetime
    revoked_at: datetime | None
    key_created_at: datetime
    key_expires_at: datetime | None
    key_last_used_at: datetime | None

    @property
    def actor(self) -> str:
        """How records of who did what name this member."""
        return f"staff:{self.staff_id}"


class IssuedStaffKey(msgspec.Struct, frozen=True):
    """A member with their key, at the one moment when its text is known."""

    member: StaffMember
    text: Secret
