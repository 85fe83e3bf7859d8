"""Who acts when a command is run, for records of who did what."""

import os
import pwd
from datetime import UTC, datetime

from infra.database import Pool
from tenants.staff import authenticate_staff

_KEY_VARIABLE = "AIAAS_STAFF_KEY"


async def acting(pool: Pool) -> str:
    """The actor: `staff:<staff_id>` by the key in AIAAS_STAFF_KEY; without one `os:<login name>`.

    The login name is the operating system's own for this process, not what the environment says.

    Raises:
        AuthenticationError: the key is malformed, unknown, revoked or expired.
        UnavailableError: PostgreSQL does not answer.
    """
    key_text = os.environ.get(_KEY_VARIABLE, "")
    if key_text:
        return (await authenticate_staff(pool, key_text, datetime.now(UTC))).actor
    return f"os:{_login_name(os.getuid())}"


def _login_name(user_id: int) -> str:
    """The account's name; its number where it has none, as in many containers."""
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return str(user_id)
