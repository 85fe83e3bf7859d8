"""`aiaas price`: what tenants pay."""

import re
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import click

from billing.money import currency, format_minor, format_nanos
from billing.price_files import MAX_FILE_BYTES, DraftPrice, read_price_file
from billing.price_previews import Preview, PreviewLine, preview
from billing.price_versions import (
    MAX_PAGE,
    PriceEffect,
    StoredPrice,
    describe_price,
    list_prices,
    load_price_file,
    show_price,
)
from billing.what_if import WhatIf, as_csv, what_if
from gateway.commands.acting import acting
from gateway.commands.money import PERIOD_HELP
from gateway.commands.running import as_json, echo_json, moment, table, with_pool
from gateway.prices import price_body
from infra.database import Pool
from infra.errors import InvalidValueError

_UNITS = re.compile("([a-z.]+_?[a-z]*)=([0-9]{1,19})")


@click.group()
def price() -> None:
    """Prices of plans, from price files (YAML or JSON); each version is for good."""


@price.command("check")
@click.argument("file")
@as_json
def price_check(file: str, json: bool) -> None:
    """Say what FILE would change, and change nothing."""
    _load(file, json, dry_run=True)


@price.command("load")
@click.argument("file")
@as_json
def price_load(file: str, json: bool) -> None:
    """Create the price versions of FILE, all of them or none; what is there already stays as it is."""
    _load(file, json, dry_run=False)


@price.command("list")
@click.option("--plan", help="Only this plan's. [default: all]")
@click.option("--currency", "currency_code", help="Only those in this currency. [default: all]")
@click.option("--tenant", "tenant_id", help="Only this tenant's own. [default: all]")
@as_json
def price_list(plan: str | None, currency_code: str | None, tenant_id: str | None, json: bool) -> None:
    """List price versions, the newest first."""

    async def read(pool: Pool) -> list[StoredPrice]:
        found: list[StoredPrice] = []
        while True:
            after = found[-1].version.price_version_id if found else None
            page = await list_prices(pool, plan, currency_code, tenant_id, after)
            found += page
            if len(page) < MAX_PAGE:
                return found

    found = with_pool(read)
    if json:
        echo_json({"prices": [price_body(one) for one in found]})
        return
    rows = [
        [
            one.version.price_version_id,
            one.version.plan,
            one.version.currency,
            one.version.tenant_id or "",
            _since(one.version.valid_from),
            moment(one.created_at),
        ]
        for one in found
    ]
    click.echo(table(["PRICE", "PLAN", "CURRENCY", "TENANT", "VALID FROM", "CREATED"], rows))


@price.command("show")
@click.argument("version_id")
@as_json
def price_show(version_id: str, json: bool) -> None:
    """Show one price version, meter by meter."""
    stored = with_pool(lambda pool: show_price(pool, version_id))
    shown = price_body(stored)
    if json:
        echo_json(shown)
        return
    unit = currency(shown.currency)
    head = {
        "plan": shown.plan,
        "currency": shown.currency,
        "tenant": shown.tenant_id or "everyone on the plan",
        "valid from": _since(shown.valid_from),
        "minimum": f"{shown.minimum} {shown.currency} a month",
        "discount": f"{shown.discount_percent}%",
        **{meter: describe_price(one, unit) for meter, one in stored.version.prices.items()},
    }
    click.echo("\n".join(f"{name:<16}{value}" for name, value in head.items()))


@price.command("preview")
@click.argument("version")
@click.option("--units", "units", multiple=True, required=True, metavar="METER=N", help="Units of a month.")
@as_json
def price_preview(version: str, units: tuple[str, ...], json: bool) -> None:
    """Say what a month costs at VERSION, a version's id or a price file, tier by tier."""
    counts = dict(_units(text) for text in units)
    if Path(version).exists():
        versions = [draft.version for draft in _read(version)]
    else:
        versions = [with_pool(lambda pool: show_price(pool, version)).version]
    made = [preview(one, counts) for one in versions]
    if json:
        echo_json({"previews": made})
    else:
        click.echo("\n\n".join(_describe_preview(one) for one in made))


@price.command("what-if")
@click.argument("file")
@click.option("--period", required=True, help=PERIOD_HELP)
@click.option("--csv", is_flag=True, help="Print a row a tenant, for spreadsheets.")
@as_json
def price_what_if(file: str, period: str, csv: bool, json: bool) -> None:
    """Say what the tenants on FILE's plans would have paid for a past month at its prices."""
    drafts = _read(file)
    found = with_pool(lambda pool: what_if(pool, drafts, period))
    if json:
        echo_json(found)
    else:
        click.echo(as_csv(found).rstrip() if csv else _describe_what_if(found))


def _load(file: str, json: bool, *, dry_run: bool) -> None:
    content = _content(file)

    async def load(pool: Pool) -> list[PriceEffect]:
        now = datetime.now(UTC)
        return await load_price_file(pool, content, _is_json(file), await acting(pool), now, dry_run=dry_run)

    effects = with_pool(load)
    if json:
        echo_json({"prices": effects, "dry_run": dry_run})
    else:
        click.echo("\n\n".join(_describe_effect(one, dry_run) for one in effects))


def _content(file: str) -> bytes:
    """A file's bytes, one more than it may have at most.

    Raises:
        InvalidValueError: it cannot be read.
    """
    try:
        with Path(file).open("rb") as opened:
            return opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidValueError(f"{file} cannot be read: {error.strerror}.", "file") from None


def _is_json(file: str) -> bool:
    return file.endswith(".json")


def _read(file: str) -> list[DraftPrice]:
    return read_price_file(_content(file), _is_json(file))


def _units(text: str) -> tuple[str, int]:
    match = _UNITS.fullmatch(text)
    if match is None:
        raise InvalidValueError("--units takes METER=N, such as intent.calls=5000.")
    return match[1], int(match[2])


def _since(valid_from: datetime | None) -> str:
    return f"{moment(valid_from)} UTC" if valid_from else "all months"


def _describe_effect(one: PriceEffect, dry_run: bool) -> str:
    whose = f" for {one.tenant_id}" if one.tenant_id else ""
    head = f"{one.place}: {one.plan} in {one.currency}{whose}"
    if not one.is_new:
        return f"{head}: nothing changes, {one.price_version_id} says the same."
    what = "would be made" if dry_run else f"{one.price_version_id} is made"
    changes = [
        f"  {change.what}: {change.before or 'none'} -> {change.after or 'none'}" for change in one.changes
    ]
    return "\n".join(
        [
            f"{head}: {what}, for months from {_since(one.valid_from)} on.",
            *changes,
            f"  {one.tenants} tenants on the plan take it; of their months, {one.months} are open already.",
        ]
    )


def _describe_preview(one: Preview) -> str:
    rows = [
        [line.meter or line.kind, str(line.units), line.amount, _describe_tiers(line, one.currency)]
        for line in one.lines
    ]
    head = f"{one.price_version_id or 'draft'}  {one.plan}"
    return f"{head}\n{table(['LINE', 'UNITS', 'AMOUNT', 'TIERS'], rows)}\n\ntotal {one.total}"


def _describe_tiers(line: PreviewLine, code: str) -> str:
    per = f" per {line.per_units}" if line.per_units not in (None, 1) else ""
    prices = [(use.units, format_nanos(Fraction(use.nanos), currency(code))) for use in line.tiers]
    return "; ".join(f"{units} at {price}{per}" for units, price in prices)


def _describe_what_if(found: WhatIf) -> str:
    rows = [
        [
            row.tenant_id,
            *(
                format_minor(minor, currency(row.currency))
                for minor in (row.before_minor, row.after_minor, row.difference_minor)
            ),
        ]
        for row in found.rows
    ]
    totals = [f"{one.tenants} tenants: {one.difference}" for one in found.totals]
    return "\n".join([table(["TENANT", "BEFORE", "AFTER", "DIFFERENCE"], rows), *totals])
