"""Price versions: created from price files, immutable once they are there, and taken by months that begin.

A month takes its prices when it is opened; one that is opened ahead of time takes newer ones until it begins.
All that changes prices or plans is done one after the other, under `locks.lock_prices` and the locks of the
accounts concerned. A dry run does all of it, and undoes it.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime
from fractions import Fraction
from typing import Final

import msgspec

from billing import audit
from billing.caps import check_caps_are_kept
from billing.locks import busy_is_unavailable, lock_prices
from billing.money import Currency, currency, format_nanos, format_percent
from billing.price_files import DraftPrice, PriceFileError, first_moment_of, read_price_file
from billing.prices import MeterPrice, PriceVersion
from billing.store import prices as store
from billing.store.accounts import read_account, take_prices
from billing.store.locks import lock_tenants
from infra.database import Connection, Pool, borrow
from infra.errors import NotFoundError
from infra.ids import new_id

MAX_PAGE: Final = 100
_MOST_NAMED: Final = 20
_TIMEOUT_S: Final = 60.0


class PriceChange(msgspec.Struct, frozen=True):
    """One thing that a price file changes, in words; None where it was not there, or is not any more."""

    what: str
    before: str | None
    after: str | None


class PriceEffect(msgspec.Struct, frozen=True, kw_only=True):
    """What a price of a price file does, or would do.

    Attributes:
        place: where it is in the file.
        is_new: it makes a version; else the one that holds from then on says the same already.
        price_version_id: the version made, or the one that is there; None in a dry run of one to be made.
        valid_from: months that begin then or later take it; None: all.
        replaces: the version that would hold from then on without it.
        changes: against that one.
        tenants: how many tenants on the plan take it now, or from then on.
        tenant_ids: the first of them.
        months: how many months that are opened ahead of time take it at once.
    """

    place: str
    plan: str
    currency: str
    tenant_id: str | None
    is_new: bool
    price_version_id: str | None
    valid_from: datetime | None
    replaces: str | None
    changes: tuple[PriceChange, ...]
    tenants: int
    tenant_ids: tuple[str, ...]
    months: int


class StoredPrice(msgspec.Struct, frozen=True):
    """A price version, and when it was made."""

    version: PriceVersion
    created_at: datetime


async def load_price_file(
    pool: Pool, content: bytes, is_json: bool, actor: str, now: datetime, *, dry_run: bool = False
) -> list[PriceEffect]:
    """`load_prices` of a file as it comes; a refusal of a real one is on record.

    Raises:
        PriceFileError, MoneyCapError, UnavailableError: see `load_prices`.
    """
    if dry_run:
        return await load_prices(pool, read_price_file(content, is_json), actor, now, dry_run=True)
    async with audit.refusals_recorded(pool, actor, "create_price", "prices"):
        return await load_prices(pool, read_price_file(content, is_json), actor, now)


async def load_prices(
    pool: Pool, drafts: Sequence[DraftPrice], actor: str, now: datetime, *, dry_run: bool = False
) -> list[PriceEffect]:
    """Create the versions of a price file, all of them or none; what is there already stays as it is.

    Args:
        dry_run: say what would change, and change nothing.

    Raises:
        PriceFileError: an unknown plan or tenant, or a month that has begun; and where.
        MoneyCapError: a tenant with a cap in money would have volume or package prices.
        UnavailableError: another transaction holds what this changes.
    """
    async with (
        borrow(pool, use_timeout_s=_TIMEOUT_S) as connection,
        connection.transaction(force_rollback=dry_run),
    ):
        await lock_prices(connection)
        effects: list[PriceEffect] = []
        for draft in drafts:
            effect = await _load(connection, draft, actor, now)
            _check_once(effect, effects)
            effects.append(effect)
    made_ids = {effect.price_version_id for effect in effects if effect.is_new} if dry_run else set[str]()
    return [_without(effect, made_ids) for effect in effects]


async def list_prices(
    pool: Pool,
    plan: str | None = None,
    currency_code: str | None = None,
    tenant_id: str | None = None,
    after: str | None = None,
    limit: int = MAX_PAGE,
) -> list[StoredPrice]:
    """Price versions of a plan, a currency, a tenant, or all of them, the newest first, a page at a time:
    `after` is the last id of the page before.
    """
    async with borrow(pool) as connection:
        page = await store.read_version_page(
            connection, plan, currency_code, tenant_id, after, min(limit, MAX_PAGE)
        )
        versions = await store.read_price_versions(connection, [one.price_version_id for one in page])
    return [StoredPrice(versions[one.price_version_id], one.created_at) for one in page]


async def show_price(pool: Pool, price_version_id: str) -> StoredPrice:
    """One price version.

    Raises:
        NotFoundError: there is none of this id.
    """
    async with borrow(pool) as connection:
        made_at = await store.read_made_at(connection, price_version_id)
        if made_at is None:
            raise NotFoundError("There is no such price version.", "price_version_id")
        versions = await store.read_price_versions(connection, [price_version_id])
    return StoredPrice(versions[price_version_id], made_at)


def describe_price(price: MeterPrice, unit: Currency) -> str:
    """A meter's price in one line: `graduated per 1: 0.0004 USD up to 100000, then 0.00032 USD`."""
    tiers = [
        format_nanos(Fraction(tier.nanos), unit) + (f" up to {tier.up_to_units}" if tier.up_to_units else "")
        for tier in price.tiers
    ]
    free = f", the first {price.free_units} units free" if price.free_units else ""
    return f"{price.model.replace('_', ' ')} per {price.per}: {', then '.join(tiers)}{free}"


async def _load(connection: Connection, draft: DraftPrice, actor: str, now: datetime) -> PriceEffect:
    await _check_names(connection, draft)
    version = msgspec.structs.replace(
        draft.version,
        price_version_id=new_id("prc"),
        valid_from=await _valid_from(connection, draft, now),
    )
    scope = (version.plan, version.currency, version.tenant_id)
    concerned = await store.read_concerned(connection, *scope, version.valid_from)
    held = await _holding(connection, version)
    effect = PriceEffect(
        place=draft.place,
        plan=version.plan,
        currency=version.currency,
        tenant_id=version.tenant_id,
        is_new=True,
        price_version_id=version.price_version_id,
        valid_from=version.valid_from,
        replaces=held.price_version_id if held else None,
        changes=tuple(_changes(held, version)),
        tenants=len(concerned),
        tenant_ids=tuple(concerned[:_MOST_NAMED]),
        months=0,
    )
    if held and held.tenant_id == version.tenant_id and not effect.changes:
        return msgspec.structs.replace(effect, is_new=False, price_version_id=held.price_version_id)
    await _check_not_begun(connection, draft.place, version, concerned, now)
    with busy_is_unavailable():
        await lock_tenants(connection, concerned)
        await store.insert_version(connection, version)
        months = await take_prices(connection, concerned, now)
    await check_caps_are_kept(connection, concerned)
    await audit.record(
        connection,
        actor,
        "create_price",
        version.price_version_id,
        plan=version.plan,
        currency=version.currency,
        tenant_id=version.tenant_id,
        valid_from=version.valid_from.isoformat() if version.valid_from else None,
    )
    return msgspec.structs.replace(effect, months=len(months))


async def _check_names(connection: Connection, draft: DraftPrice) -> None:
    version = draft.version
    if not await store.has_plan(connection, version.plan):
        raise PriceFileError(
            f"{draft.place}.plan",
            "There is no such plan. `aiaas plan list` shows them; `plan set` makes one.",
        )
    if version.tenant_id is None:
        return
    account = await read_account(connection, version.tenant_id)
    if account is None:
        raise PriceFileError(f"{draft.place}.tenant", "There is no such tenant.")
    if account.currency != version.currency:
        raise PriceFileError(f"{draft.place}.currency", f"This tenant is billed in {account.currency}.")


async def _valid_from(connection: Connection, draft: DraftPrice, now: datetime) -> datetime | None:
    """What the file says; else all months for a plan's first prices, and the next month for later ones."""
    version = draft.version
    if not draft.says_when:
        is_first = version.tenant_id is None and not await _has_versions(connection, version)
        return None if is_first else _next_month(now)
    return version.valid_from


async def _has_versions(connection: Connection, version: PriceVersion) -> bool:
    return await store.has_versions(connection, version.plan, version.currency, version.tenant_id)


def _next_month(now: datetime) -> datetime:
    """When the first month begins that has not begun on anybody's clock."""
    begin = date(now.year, now.month, 1)
    while first_moment_of(begin) <= now:
        begin = date(begin.year + begin.month // 12, begin.month % 12 + 1, 1)
    return first_moment_of(begin)


async def _check_not_begun(
    connection: Connection, place: str, version: PriceVersion, concerned: Sequence[str], now: datetime
) -> None:
    """Months that have begun keep their prices; only a plan's first ones may be as old as they like."""
    running = datetime(now.year, now.month, 1, tzinfo=UTC)
    is_first = not await _has_versions(connection, version)
    if not is_first and (version.valid_from is None or version.valid_from <= running):
        raise PriceFileError(
            f"{place}.valid_from", f"The month {now:%Y-%m} has begun: prices change from a later one on."
        )
    begun = await store.read_begun_month(connection, concerned, version.valid_from, now)
    if begun:
        raise PriceFileError(
            f"{place}.valid_from",
            f"The month {begun.period} of {begun.tenant_id} has begun: prices change from a later one on.",
        )


async def _holding(connection: Connection, version: PriceVersion) -> PriceVersion | None:
    """The version that holds from then on as things are."""
    held_id = await store.find_version(
        connection, version.tenant_id, version.plan, version.currency, version.valid_from
    )
    return (await store.read_price_versions(connection, [held_id]))[held_id] if held_id else None


def _changes(held: PriceVersion | None, version: PriceVersion) -> list[PriceChange]:
    before, after = _described(held) if held else {}, _described(version)
    return [
        PriceChange(what, before.get(what), after.get(what))
        for what in sorted(before.keys() | after.keys())
        if before.get(what) != after.get(what)
    ]


def _described(version: PriceVersion) -> dict[str, str]:
    """All that a version says, in words that are the same only where it says the same."""
    unit = currency(version.currency)
    return {
        **{f"meters.{meter}": describe_price(price, unit) for meter, price in version.prices.items()},
        "minimum": format_nanos(Fraction(version.minimum_nanos), unit),
        "discount_percent": format_percent(version.discount_ppm),
    }


def _check_once(effect: PriceEffect, earlier: Sequence[PriceEffect]) -> None:
    for one in earlier:
        same_scope = (one.plan, one.currency, one.tenant_id) == (
            effect.plan,
            effect.currency,
            effect.tenant_id,
        )
        if same_scope and one.valid_from == effect.valid_from:
            raise PriceFileError(
                effect.place, f"{one.place} is of the same plan, and valid from the same moment."
            )


def _without(effect: PriceEffect, made_ids: set[str | None] | set[str]) -> PriceEffect:
    """What a dry run tells, without the ids of versions that were undone."""
    kept = {
        name: None if getattr(effect, name) in made_ids else getattr(effect, name)
        for name in ("price_version_id", "replaces")
    }
    return msgspec.structs.replace(effect, **kept)
