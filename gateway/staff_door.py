"""Who is let in by a staff key, looked up in PostgreSQL at each request.

Attempts that fail are counted by address, and one that failed too often is refused before anything is looked
up. Behind a proxy everybody has its address: so a key that was good at this worker is looked up whatever
else failed from there, and strangers cannot keep those out who were in.
"""

from collections import OrderedDict
from datetime import UTC, datetime

from gateway.attempts import FailedAttempts
from infra.database import Pool
from tenants import keys
from tenants.errors import AuthenticationError
from tenants.records import StaffMember
from tenants.staff import authenticate_staff

_FAILURES_PER_MINUTE = 30
_MAX_REMEMBERED = 1000


class StaffDoor:
    """One worker's part in letting staff in.

    Args:
        workers: how many workers share the limit of failed attempts.
    """

    def __init__(self, pool: Pool, workers: int) -> None:
        self._pool = pool
        self._attempts = FailedAttempts(_FAILURES_PER_MINUTE, workers)
        self._were_good: OrderedDict[bytes, None] = OrderedDict()

    async def identify(self, key_text: str | None, address: str) -> StaffMember:
        """The member behind a key.

        Raises:
            AuthenticationError: see `tenants.staff.authenticate_staff`.
            RateLimitError: too many attempts failed from this address.
            UnavailableError: PostgreSQL does not answer.
        """
        digest = keys.digest(key_text or "")
        if digest not in self._were_good:
            self._attempts.check(address)
        try:
            member = await authenticate_staff(self._pool, key_text, datetime.now(UTC))
        except AuthenticationError:
            self._were_good.pop(digest, None)
            self._attempts.note(address)
            raise
        self._remember(digest)
        return member

    def _remember(self, digest: bytes) -> None:
        self._were_good[digest] = None
        self._were_good.move_to_end(digest)
        if len(self._were_good) > _MAX_REMEMBERED:
            self._were_good.popitem(last=False)
