"""The door of the admin API: staff key -> member. See `gateway.staff_door` for what it asks.

A route names the role it takes in `before_request=admit_staff("finance")`, as others do in `gateway.auth`.
"""

from gateway.auth import Connection, Door, bearer_key
from gateway.bodies import AnyRequest
from gateway.headers import headers_of
from gateway.services import services_of
from tenants.records import Role, StaffMember
from tenants.staff import require_role


def admit_staff(role: Role) -> Door:
    """What lets in members of a role, and operators; before the body is read."""

    async def door(request: AnyRequest) -> None:
        client = request.scope["client"]
        key_text = bearer_key(headers_of(request.scope).get(b"authorization", b""))
        member = await services_of(request).staff_door.identify(key_text, client[0] if client else "")
        require_role(member, role)
        request.scope["state"]["staff"] = member

    return door


def staff_of(connection: Connection) -> StaffMember:
    """The member that `admit_staff` let in."""
    return connection.scope["state"]["staff"]
