"""Refused calls as they are counted."""

from collections.abc import Sequence

from infra.database import Connection


async def add_refusals(connection: Connection, refused: Sequence[tuple[str, str, int]]) -> None:
    """Add refused calls, as (tenant, code, calls), to the month that runs on the tenant's clock.

    A tenant without an account is passed over.
    """
    await connection.execute(
        """
        INSERT INTO billing.refusal_counter AS counter (tenant_id, period, code, calls)
        SELECT account.tenant_id, to_char(now() AT TIME ZONE account.time_zone, 'YYYY-MM'), given.code,
               given.calls
        FROM unnest(%(tenant_ids)s::text[], %(codes)s::text[], %(calls)s::bigint[]) WITH ORDINALITY
             AS given (tenant_id, code, calls, place)
        JOIN billing.account USING (tenant_id)
        ORDER BY given.place
        ON CONFLICT (tenant_id, period, code)
        DO UPDATE SET calls = counter.calls + excluded.calls, last_at = excluded.last_at
        """,
        {
            "tenant_ids": [tenant_id for tenant_id, _, _ in refused],
            "codes": [code for _, code, _ in refused],
            "calls": [calls for _, _, calls in refused],
        },
    )
