"""Who bills and who is billed, as they are kept."""

from typing import Literal

import msgspec
from psycopg import sql
from psycopg.rows import class_row

from infra.database import Connection

Language = Literal["en", "zh-TW"]


class BillingProfile(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant as it is billed.

    Attributes:
        issuer_id: who bills it.
        language: of its documents.
        tax_name: such as VAT; `tax_ppm`, its rate in millionths.
    """

    tenant_id: str
    issuer_id: str
    name: str
    address: str
    tax_id: str
    email: str
    language: Language
    tax_name: str
    tax_ppm: int


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """Who bills.

    Attributes:
        number_prefix: what its invoices' numbers begin with.
        payment_days: from the day of issue until an invoice is due.
        numbers_given: how many documents have one.
    """

    issuer_id: str
    name: str
    address: str = ""
    tax_id: str = ""
    email: str = ""
    number_prefix: str
    payment_days: int = 30
    numbers_given: int = 0


_READ_PROFILE = sql.SQL(
    """
    SELECT tenant_id, issuer_id, name, address, tax_id, email, language, tax_name, tax_ppm
    FROM billing.profile WHERE tenant_id = %(tenant_id)s
    """
)
_LOCK_PROFILE = sql.SQL("{read} FOR UPDATE").format(read=_READ_PROFILE)
_READ_ISSUERS = sql.SQL(
    """
    SELECT issuer_id, name, address, tax_id, email, number_prefix, payment_days,
           last_number + last_credit_number AS numbers_given
    FROM billing.issuer WHERE %(issuer_id)s::text IS NULL OR issuer_id = %(issuer_id)s
    ORDER BY issuer_id LIMIT %(limit)s
    """
)
_LOCK_ISSUER = sql.SQL("{read} FOR UPDATE").format(read=_READ_ISSUERS)


async def read_profile(
    connection: Connection, tenant_id: str, *, lock: bool = False
) -> BillingProfile | None:
    """A tenant's profile; with `lock`, locked until the transaction ends."""
    async with connection.cursor(row_factory=class_row(BillingProfile)) as cursor:
        await cursor.execute(_LOCK_PROFILE if lock else _READ_PROFILE, {"tenant_id": tenant_id})
        return await cursor.fetchone()


async def update_profile(connection: Connection, profile: BillingProfile) -> None:
    """Write a profile that is there.

    Raises:
        psycopg.errors.ForeignKeyViolation: there is no such issuer.
    """
    await connection.execute(
        """
        UPDATE billing.profile
        SET issuer_id = %(issuer_id)s, name = %(name)s, address = %(address)s, tax_id = %(tax_id)s,
            email = %(email)s, language = %(language)s, tax_name = %(tax_name)s, tax_ppm = %(tax_ppm)s
        WHERE tenant_id = %(tenant_id)s
        """,
        msgspec.structs.asdict(profile),
    )


async def read_issuers(connection: Connection, limit: int) -> list[Issuer]:
    """All issuers, by their ids."""
    async with connection.cursor(row_factory=class_row(Issuer)) as cursor:
        await cursor.execute(_READ_ISSUERS, {"issuer_id": None, "limit": limit})
        return await cursor.fetchall()


async def read_issuer(connection: Connection, issuer_id: str, *, lock: bool = False) -> Issuer | None:
    """One issuer; with `lock`, locked until the transaction ends."""
    async with connection.cursor(row_factory=class_row(Issuer)) as cursor:
        await cursor.execute(_LOCK_ISSUER if lock else _READ_ISSUERS, {"issuer_id": issuer_id, "limit": 1})
        return await cursor.fetchone()


async def write_issuer(connection: Connection, issuer: Issuer) -> None:
    """Add an issuer, or write one that is there."""
    await connection.execute(
        """
        INSERT INTO billing.issuer (issuer_id, name, address, tax_id, email, number_prefix, payment_days)
        VALUES (%(issuer_id)s, %(name)s, %(address)s, %(tax_id)s, %(email)s, %(number_prefix)s,
                %(payment_days)s)
        ON CONFLICT (issuer_id) DO UPDATE
        SET name = excluded.name, address = excluded.address, tax_id = excluded.tax_id,
            email = excluded.email, number_prefix = excluded.number_prefix,
            payment_days = excluded.payment_days
        """,
        msgspec.structs.asdict(issuer),
    )
