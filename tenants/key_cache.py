"""Keys by digest, from memory where memory can be believed, from PostgreSQL where not.

Three parts: `CachedKeys` holds and decides, `KeyChanges` tells it what changed, `KeyLoader` asks the
database. A key made, changed or revoked takes effect in every worker at once by notification; within
0.25 s by the poll when the notification is lost; within 0.9 s when the worker is cut off altogether,
since it then believes nothing it holds.
"""

import time

from infra.database import Pool
from tenants.cached_keys import UNSURE, CachedKeys, Unsure
from tenants.key_changes import KeyChanges
from tenants.key_loader import KeyLoader
from tenants.records import KeyRecord

DEFAULT_MAX_KEYS = 10_000
DEFAULT_LOOKUP_TIMEOUT_S = 5.0


class KeyCache:
    """A worker's view of all API keys.

    Args:
        pool: for look-ups; at most one of its connections at a time.
        database_url: for the connection that follows changes.
        max_keys: how many keys are held; as many digests without a key are held besides.
        lookup_timeout_s: how long a look-up in the database may take.
    """

    def __init__(
        self,
        pool: Pool,
        database_url: str,
        max_keys: int = DEFAULT_MAX_KEYS,
        lookup_timeout_s: float = DEFAULT_LOOKUP_TIMEOUT_S,
    ) -> None:
        self._cached = CachedKeys(max_keys)
        self._changes = KeyChanges(database_url, self._cached)
        self._loader = KeyLoader(pool, self._cached, lookup_timeout_s)

    async def start(self) -> None:
        """Begin to follow changes.

        Raises:
            StartupError: PostgreSQL does not answer.
        """
        await self._changes.start()

    async def close(self) -> None:
        """Stop, within a few seconds at most."""
        await self._changes.close()
        await self._loader.close()

    def known(self, digest: bytes) -> KeyRecord | Unsure | None:
        """The key whose text has this SHA-256, None where there is none, UNSURE where memory cannot say."""
        return self._cached.get(digest, time.monotonic())

    async def lookup(self, digest: bytes) -> KeyRecord | None:
        """The key whose text has this SHA-256, or None where there is none.

        Raises:
            UnavailableError: memory cannot say, and PostgreSQL does not answer.
        """
        known = self.known(digest)
        return await self._loader.load(digest) if known is UNSURE else known

    @property
    def is_trusted(self) -> bool:
        """Whether the worker is in touch with the database's key changes."""
        return self._cached.is_trusted(time.monotonic())

    def __len__(self) -> int:
        return len(self._cached)
