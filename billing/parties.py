"""Who bills and who is billed: what the next invoices say. Those that are issued keep what they said.

Each change is in the audit trail with what was there before, and so is one that was refused.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, TypeVar, get_args

import msgspec
from psycopg import errors

from billing import audit
from billing.money import NANOS_EXPONENT, parse_amount
from billing.prices import PPM
from billing.store import parties as store
from billing.store.locks import set_lock_timeout
from billing.store.parties import BillingProfile, Issuer, Language
from infra.database import Connection, Pool, borrow
from infra.errors import InvalidValueError, NotFoundError

Changed = TypeVar("Changed", BillingProfile, Issuer)

LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
MAX_ISSUERS: Final = 1000
_LOCK_TIMEOUT_MS: Final = 4_000
_MAX_PAYMENT_DAYS: Final = 365
_LENGTHS: Final = {"name": 200, "address": 500, "tax_id": 50, "email": 254, "tax_name": 50}
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+")
_ISSUER_ID: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,49}")
_PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9/._-]{0,19}")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_ONE_PERCENT_PPM: Final = PPM // 100


async def show_profile(pool: Pool, tenant_id: str) -> BillingProfile:
    """How a tenant is billed.

    Raises:
        NotFoundError: there is no such tenant, or it has no billing account.
    """
    async with borrow(pool) as connection:
        return _found(await store.read_profile(connection, tenant_id))


async def change_profile(
    pool: Pool, tenant_id: str, changes: Mapping[str, str | int], actor: str
) -> BillingProfile:
    """Change some fields of how a tenant is billed, or all, from its next draft on.

    Raises:
        NotFoundError: there is no such tenant, or it has no billing account.
        InvalidValueError: a field that it cannot be; `param` says which.
    """
    async with (
        audit.refusals_recorded(pool, actor, "billing_profile", tenant_id),
        borrow(pool) as connection,
        connection.transaction(),
    ):
        await set_lock_timeout(connection, _LOCK_TIMEOUT_MS)
        before = _found(await store.read_profile(connection, tenant_id, lock=True))
        after = msgspec.structs.replace(before, **changes)
        _check_party(after)
        _check_tax(after)
        try:
            await store.update_profile(connection, after)
        except errors.ForeignKeyViolation:
            raise InvalidValueError("There is no such issuer.", "issuer_id") from None
        await _record(connection, actor, "billing_profile", tenant_id, before, after)
        return after


async def list_issuers(pool: Pool) -> list[Issuer]:
    """All issuers, by their ids; a thousand at most."""
    async with borrow(pool) as connection:
        return await store.read_issuers(connection, MAX_ISSUERS)


async def show_issuer(pool: Pool, issuer_id: str) -> Issuer:
    """One issuer.

    Raises:
        NotFoundError: there is no such issuer.
    """
    async with borrow(pool) as connection:
        found = await store.read_issuer(connection, issuer_id)
    if found is None:
        raise NotFoundError("There is no such issuer.", "issuer_id")
    return found


async def set_issuer(pool: Pool, issuer_id: str, changes: Mapping[str, str | int], actor: str) -> Issuer:
    """Add an issuer, by its name and its numbers' prefix, or change one from its tenants' next drafts on.

    Raises:
        InvalidValueError: a field that it cannot be, `param` says which; above all another prefix, once
            numbers were given.
    """
    if not _ISSUER_ID.fullmatch(issuer_id):
        raise InvalidValueError("An issuer's id is 1 to 50 of a-z, 0-9 and dashes.", "issuer_id")
    async with (
        audit.refusals_recorded(pool, actor, "issuer", issuer_id),
        borrow(pool) as connection,
        connection.transaction(),
    ):
        await set_lock_timeout(connection, _LOCK_TIMEOUT_MS)
        before = await store.read_issuer(connection, issuer_id, lock=True)
        missing = [field for field in ("name", "number_prefix") if field not in changes]
        if before is None and missing:
            raise InvalidValueError("A new issuer needs a name and a number prefix.", missing[0])
        after = msgspec.structs.replace(
            before or Issuer(issuer_id=issuer_id, name="", number_prefix=""), **changes
        )
        _check_party(after)
        _check_numbers(before, after)
        await store.write_issuer(connection, after)
        await _record(connection, actor, "issuer", issuer_id, before, after)
        return after


def parse_percent(text: str) -> int:
    """A rate in percent, such as `5` or `8.875`, in millionths.

    Raises:
        InvalidValueError: not a number from 0 to 100 with at most four decimals.
    """
    ppm, rest = divmod(parse_amount(text) * _ONE_PERCENT_PPM, 10**NANOS_EXPONENT)
    if rest or ppm > PPM:
        raise InvalidValueError("A rate is 0 to 100 percent, with at most four decimals.", "tax_rate")
    return ppm


def _found(profile: BillingProfile | None) -> BillingProfile:
    if profile is None:
        raise NotFoundError("There is no such tenant, or it has no billing account.", "tenant_id")
    return profile


def _check_party(party: BillingProfile | Issuer) -> None:
    for field, at_most in _LENGTHS.items():
        text: str = getattr(party, field, "")
        if len(text) > at_most:
            raise InvalidValueError(f"`{field}` has {at_most} characters at most.", field)
        if _CONTROL.search(text.replace("\n", "") if field == "address" else text):
            raise InvalidValueError(f"`{field}` holds characters that cannot be printed.", field)
    if not party.name.strip():
        raise InvalidValueError("A name is needed.", "name")
    if party.email and not _EMAIL.fullmatch(party.email):
        raise InvalidValueError("An e-mail is written like ming@example.com.", "email")


def _check_tax(profile: BillingProfile) -> None:
    if profile.language not in LANGUAGES:
        raise InvalidValueError(f"A language is one of: {', '.join(LANGUAGES)}.", "language")
    if not 0 <= profile.tax_ppm <= PPM:
        raise InvalidValueError("A tax rate is 0 to 100 percent.", "tax_ppm")
    if profile.tax_ppm and not profile.tax_name.strip():
        raise InvalidValueError("A tax has a name, such as VAT.", "tax_name")


def _check_numbers(before: Issuer | None, after: Issuer) -> None:
    if not _PREFIX.fullmatch(after.number_prefix):
        raise InvalidValueError(
            "A number prefix is 1 to 20 letters, digits and / . _ -, such as AG-.", "number_prefix"
        )
    if before is not None and before.numbers_given and after.number_prefix != before.number_prefix:
        raise InvalidValueError(
            f"Numbers were given under {before.number_prefix}: the prefix stays, so that they have no gaps. "
            "Add another issuer instead.",
            "number_prefix",
        )
    if not 0 <= after.payment_days <= _MAX_PAYMENT_DAYS:
        raise InvalidValueError(f"Payment days are 0 to {_MAX_PAYMENT_DAYS}.", "payment_days")


async def _record(
    connection: Connection, actor: str, action: str, subject: str, before: Changed | None, after: Changed
) -> None:
    """What changed, field by field; nothing where nothing did."""
    was: dict[str, Any] = msgspec.structs.asdict(before) if before else {}
    changed = {
        field: [was.get(field), value]
        for field, value in msgspec.structs.asdict(after).items()
        if was.get(field) != value
    }
    if changed:
        await audit.record(connection, actor, action, subject, changed=changed)
