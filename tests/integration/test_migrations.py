"""Migrations are applied once, by one process at a time, and may not change afterwards."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from infra import migrations
from infra.errors import StartupError
from infra.migrations import Migration, bundled_migrations, migrate
from infra.postgres import EmbeddedPostgres


@pytest.fixture
def empty_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    name = "test_migrations"
    server_url = postgres.url.rsplit("/", 1)[0]
    with psycopg.connect(f"{server_url}/postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        yield f"{server_url}/{name}"
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


async def test_they_are_applied_once_by_many_processes_at_once(empty_url: str) -> None:
    applied = await asyncio.gather(*(migrate(empty_url) for _ in range(4)))
    names = [migration.name for migration in bundled_migrations()]
    assert sorted(name for names_of_one in applied for name in names_of_one) == names
    assert await migrate(empty_url) == []


async def test_their_numbers_have_no_gap() -> None:
    assert [migration.number for migration in bundled_migrations()] == list(
        range(1, len(bundled_migrations()) + 1)
    )


async def test_a_released_one_is_as_it_was() -> None:
    """Databases that have it refuse to start with another text: a new version adds to the list alone."""
    released = (Path(__file__).parent.parent / "released_migrations.sha256").read_text().splitlines()
    bundled = [f"{migration.checksum}  {migration.name}" for migration in bundled_migrations()]
    assert bundled[: len(released)] == released


async def test_a_changed_migration_is_refused_by_name(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(empty_url)
    first, *rest = bundled_migrations()
    changed = [Migration(first.number, first.name, first.sql + "\n-- changed"), *rest]
    monkeypatch.setattr(migrations, "bundled_migrations", lambda: changed)
    with pytest.raises(StartupError, match=first.name):
        await migrate(empty_url)


async def test_a_newer_database_is_refused(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate(empty_url)
    older = bundled_migrations()[:-1]
    monkeypatch.setattr(migrations, "bundled_migrations", lambda: older)
    with pytest.raises(StartupError, match="newer"):
        await migrate(empty_url)


async def test_a_failing_migration_leaves_nothing_half_done(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = bundled_migrations()
    bad = Migration(len(good) + 1, "bad.sql", "CREATE TABLE left_over (x int); SELECT 1/0;")
    monkeypatch.setattr(migrations, "bundled_migrations", lambda: [*good, bad])
    with pytest.raises(psycopg.errors.DivisionByZero):
        await migrate(empty_url)
    with psycopg.connect(empty_url) as connection:
        found = connection.execute(
            "SELECT to_regclass('left_over'), max(number) FROM schema_migration"
        ).fetchone()
    assert found == (None, len(good))
