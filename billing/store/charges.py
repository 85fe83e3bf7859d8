"""The charge itself: one call of the function `billing.charge`, for a batch."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from billing.charges import Charge
from infra.database import Connection

CHARGED: Final = "charged"
ALREADY_CHARGED: Final = "already_charged"
CALL_ID_REUSED: Final = "call_id_reused"
OVER_CAP: Final = "over_cap"
PERIOD_NOT_OPEN: Final = "period_not_open"
UNKNOWN_TENANT: Final = "unknown_tenant"

_CHARGE: Final = """
    SELECT outcome, period, units_before, cap FROM billing.charge(
        %(call_ids)b::uuid[], %(slices)b::int[], %(tenant_ids)b::text[], %(key_ids)b::text[],
        %(meters)b::text[], %(units)b::bigint[], %(models)b::text[], %(engines)b::text[],
        %(moments)b::timestamptz[])
"""


class Outcome(NamedTuple):
    """What became of one charge; `period` and `units_before` are None where nothing is charged.

    `cap` names the cap that the call would pass, with the outcome `over_cap`.
    """

    outcome: str
    period: str | None
    units_before: int | None
    cap: str | None


async def charge(connection: Connection, charges: Sequence[Charge]) -> list[Outcome]:
    """Charge a batch in one transaction; one outcome a charge, in the same order."""
    cursor = connection.cursor(binary=True)
    await cursor.execute(
        _CHARGE,
        {
            "call_ids": [charge.call_id for charge in charges],
            "slices": [charge.slice for charge in charges],
            "tenant_ids": [charge.tenant_id for charge in charges],
            "key_ids": [charge.key_id for charge in charges],
            "meters": [charge.meter for charge in charges],
            "units": [charge.units for charge in charges],
            "models": [charge.model for charge in charges],
            "engines": [charge.engine for charge in charges],
            "moments": [charge.occurred_at for charge in charges],
        },
        prepare=True,
    )
    return [Outcome(*row) for row in await cursor.fetchall()]


async def set_up_session(connection: Connection, lock_timeout_ms: int, statement_timeout_ms: int) -> None:
    """Settings that the charge depends on, whatever the server's or the role's defaults are."""
    await connection.execute(
        """
        SELECT set_config('default_transaction_isolation', 'read committed', false),
               set_config('lock_timeout', %(lock_timeout)s, false),
               set_config('statement_timeout', %(statement_timeout)s, false),
               set_config('synchronous_commit', CASE current_setting('synchronous_commit')
                   WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)
        """,
        {"lock_timeout": f"{lock_timeout_ms}ms", "statement_timeout": f"{statement_timeout_ms}ms"},
    )
