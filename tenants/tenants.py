"""Tenants: made and listed by the vendor's operator, shown to themselves."""

from infra.database import Connection, Pool, borrow
from infra.errors import InvalidValueError, NotFoundError
from infra.ids import new_id
from tenants import store
from tenants.records import Tenant

MAX_NAME_LENGTH = 200
MAX_PAGE = 1000


async def operator_create_tenant(connection: Connection, name: str) -> Tenant:
    """Make a tenant, in the caller's transaction. Names need not differ.

    Raises:
        InvalidValueError: the name is empty, too long, or holds control characters.
    """
    name = checked_name(name)
    if not name:
        raise InvalidValueError("Give the tenant a name.", "name")
    return await store.insert_tenant(connection, new_id("ten"), name)


async def operator_list_tenants(pool: Pool, after: str | None = None, limit: int = MAX_PAGE) -> list[Tenant]:
    """A page of all tenants, oldest first; `after` is the last `tenant_id` of the page before.

    Raises:
        UnavailableError: PostgreSQL does not answer.
    """
    async with borrow(pool) as connection:
        return await store.operator_tenants(connection, after, page_size(limit))


async def show_tenant(pool: Pool, tenant_id: str) -> Tenant:
    """Raises: NotFoundError: there is no such tenant. UnavailableError: PostgreSQL does not answer."""
    async with borrow(pool) as connection:
        found = await store.tenant(connection, tenant_id)
    if found is None:
        raise no_such_tenant()
    return found


def no_such_tenant() -> NotFoundError:
    """What to answer when a tenant is not there."""
    return NotFoundError("There is no such tenant. `aiaas tenant list` shows them all.", "tenant_id")


def checked_name(name: str) -> str:
    """A name without spaces around it.

    Raises:
        InvalidValueError: it is too long, or holds control characters.
    """
    name = name.strip()
    if len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise InvalidValueError(
            f"A name has at most {MAX_NAME_LENGTH} characters and no line breaks or control characters.",
            "name",
        )
    return name


def page_size(limit: int) -> int:
    """`limit`, brought into 1 to `MAX_PAGE`."""
    return max(1, min(limit, MAX_PAGE))
