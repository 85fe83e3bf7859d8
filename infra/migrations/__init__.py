"""Numbered, forward-only SQL migrations, applied in order under an advisory lock.

A file `NNNN_name.sql` is applied once, in one transaction with its entry in `schema_migration`. An
applied file may not change: its SHA-256 is kept and compared at every start.
"""

import hashlib
from importlib import resources

import msgspec

from infra.database import Connection, connect
from infra.errors import StartupError

_LOCK = 0x41494141  # "AIAA": any constant will do, as long as every version uses the same
_LOCK_TIMEOUT = "60s"


class Migration(msgspec.Struct, frozen=True):
    """One file: its number, its name, its text."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()


def bundled_migrations() -> list[Migration]:
    """The migrations that come with this version, in order."""
    files = [file for file in resources.files(__name__).iterdir() if file.name.endswith(".sql")]
    found = [Migration(int(file.name[:4]), file.name, file.read_text("utf-8")) for file in files]
    return sorted(found, key=lambda migration: migration.number)


async def migrate(database_url: str) -> list[str]:
    """Apply what is missing; returns the names of the migrations applied now.

    Safe to run from many processes at once.

    Raises:
        StartupError: an applied migration differs from the bundled one, or the database is newer.
        psycopg.OperationalError: the server cannot be reached.
    """
    async with await connect(database_url, "aiaas-migrate") as connection:
        await connection.execute("SELECT set_config('lock_timeout', %s, false)", [_LOCK_TIMEOUT])
        await connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        try:
            return await _apply_missing(connection, bundled_migrations())
        finally:
            await connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])


async def _apply_missing(connection: Connection, migrations: list[Migration]) -> list[str]:
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migration (number int PRIMARY KEY, name text NOT NULL, "
        "checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    rows = await connection.execute("SELECT number, name, checksum FROM schema_migration ORDER BY number")
    applied = {number: (name, checksum) for number, name, checksum in await rows.fetchall()}
    _compare(applied, {migration.number: migration for migration in migrations})
    missing = [migration for migration in migrations if migration.number not in applied]
    for migration in missing:
        async with connection.transaction():
            await connection.execute(migration.sql.encode())
            await connection.execute(
                "INSERT INTO schema_migration (number, name, checksum) VALUES (%s, %s, %s)",
                [migration.number, migration.name, migration.checksum],
            )
    return [migration.name for migration in missing]


def _compare(applied: dict[int, tuple[str, str]], bundled: dict[int, Migration]) -> None:
    for number, (name, checksum) in applied.items():
        migration = bundled.get(number)
        if migration is None:
            raise StartupError(
                f"The database is newer than this program: it has migration {name}. Upgrade first."
            )
        if migration.checksum != checksum:
            raise StartupError(
                f"Migration {name} was changed after it was applied. Restore the original file."
            )
