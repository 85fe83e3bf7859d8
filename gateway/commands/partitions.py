"""`aiaas partition`: how long usage rows stay."""

from datetime import UTC, datetime

import click

from billing.periods import check_label
from billing.retention import detach_partitions, partitions
from billing.store.retention import Partition
from gateway.commands.running import as_json, echo_json, table, with_pool


@click.group()
def partition() -> None:
    """Usage rows by month, and detaching the oldest."""


@partition.command("list")
@as_json
def partition_list(json: bool) -> None:
    """List the partitions of usage rows, the oldest first."""
    _show(with_pool(partitions), json)


@partition.command("detach")
@click.option("--before", required=True, metavar="YYYY-MM", help="Keep this month and all after it.")
@as_json
def partition_detach(before: str, json: bool) -> None:
    """Detach the usage rows of all that is older, where every month is closed.

    Counters and invoices stay. The tables stay too, outside of the usage rows, to be dumped and dropped.
    """
    check_label(before)
    moment = datetime(int(before[:4]), int(before[5:]), 1, tzinfo=UTC)
    detached = with_pool(lambda pool: detach_partitions(pool, moment))
    if not detached and not json:
        click.echo("Nothing to detach: no older rows, or a month of theirs is not closed yet.")
    else:
        _show(detached, json)


def _show(found: list[Partition], json: bool) -> None:
    if json:
        echo_json({"partitions": found})
        return
    rows = [
        [f"billing.{one.partition}", _day(one.begins_at), _day(one.ends_at), _state(one)] for one in found
    ]
    click.echo(table(["TABLE", "FROM", "TO", "STATE"], rows))


def _day(moment: datetime | None) -> str:
    return moment.astimezone(UTC).date().isoformat() if moment else "the beginning"


def _state(one: Partition) -> str:
    return "detached" if one.detached_at else "attached"
