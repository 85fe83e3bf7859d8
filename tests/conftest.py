"""One embedded PostgreSQL a process; each test gets a clone of a migrated template of its own."""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psycopg
import pytest
from xdist.scheduler import LoadFileScheduling

from infra.database import Pool, open_pool
from infra.migrations import migrate
from infra.postgres import EmbeddedPostgres


class _ByFile(LoadFileScheduling):
    """Files go to whichever process is free, but all that share the running stack to one: it starts once."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "tests/contract" if file.startswith("tests/contract/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadFileScheduling:
    """What divides the suite between the processes of `make test`."""
    return _ByFile(config, log)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(Path(tmp_path_factory.mktemp("postgres")))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def template_database(postgres: EmbeddedPostgres) -> str:
    """The name of a migrated database that nobody connects to."""
    asyncio.run(migrate(postgres.url))
    return "aiaas"


@pytest.fixture
def database_url(postgres: EmbeddedPostgres, template_database: str) -> Iterator[str]:
    """A fresh, migrated database, dropped after the test."""
    name = f"test_{secrets.token_hex(6)}"
    server_url = postgres.url.rsplit("/", 1)[0]
    with psycopg.connect(f"{server_url}/postgres", autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template_database}"')
        yield f"{server_url}/{name}"
        admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def tiny_whisper(pytestconfig: pytest.Config) -> Path:
    """A checkpoint that knows the sentences of `tests.engines.tiny_whisper`; trained once for that file."""
    from tests.engines import tiny_whisper

    digest = hashlib.sha256(Path(tiny_whisper.__file__).read_bytes()).hexdigest()
    folder = pytestconfig.cache.mkdir(f"whisper-{digest[:12]}")  # type: ignore[union-attr]
    checkpoint = folder / "tiny-test.pt"
    if not checkpoint.exists():
        trained = folder / "trained"
        tiny_whisper.train(trained)
        trained.rename(checkpoint)
    return checkpoint


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    opened = await open_pool(database_url, max_size=8, application_name="aiaas-test")
    yield opened
    await opened.close()
