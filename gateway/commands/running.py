"""What every command shares: `--json`, where the database is, errors as one line."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
import msgspec
import psycopg

from infra.database import Pool, open_pool, unreachable
from infra.errors import DomainError, StartupError
from infra.postgres import EmbeddedPostgres
from infra.settings import Settings, load_settings

T = TypeVar("T")

as_json = click.option("--json", is_flag=True, help="Print JSON, for scripts.")


class AiaasGroup(click.Group):
    """A group that turns every expected error into one line on stderr and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (StartupError, DomainError) as error:
            raise click.ClickException(str(error)) from None
        except psycopg.OperationalError as error:
            raise click.ClickException(str(unreachable(error))) from None


def settings_from(overrides: Mapping[str, str]) -> Settings:
    """The environment's settings, with a command's own options on top."""
    return load_settings({**os.environ, **overrides})


def database_url() -> str:
    """The database that the commands work on.

    Raises:
        StartupError: there is none yet.
    """
    settings = settings_from({})
    if settings.database_url:
        return settings.database_url.reveal()
    return EmbeddedPostgres(settings.home).url


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end."""
    return asyncio.run(work)


def with_pool(work: Callable[[Pool], Awaitable[T]]) -> T:
    """Run `work` with a connection pool on the commands' database."""

    async def opened() -> T:
        pool = await open_pool(database_url(), max_size=4, application_name="aiaas-cli")
        try:
            return await work(pool)
        finally:
            await pool.close()

    return run(opened())


def echo_json(value: object) -> None:
    """One line of JSON."""
    click.echo(msgspec.json.encode(value).decode())


def moment(at: datetime | None) -> str:
    """A moment as the commands show it: in UTC, to the minute; `never` where there is none."""
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M") if at else "never"


def table(headings: list[str], rows: list[list[str]]) -> str:
    """Columns as wide as their widest cell, numbers' columns not told apart."""
    if not rows:
        return "None yet."
    widths = [max(len(row[column]) for row in [headings, *rows]) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [headings, *rows]
    )
