"""Requests that may be repeated: claimed, noted, released, forgotten."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec
from psycopg.rows import class_row

from infra.database import Connection

RUN: Final = "run"
RUNNING: Final = "running"
DONE: Final = "done"
MISMATCH: Final = "mismatch"

_ENCODER: Final = msgspec.json.Encoder()


class ClaimRow(msgspec.Struct, frozen=True):
    """What became of a claim; `key_id` to `engine` are the charged call's, the last two its kept answer."""

    outcome: str
    call_id: UUID
    occurred_at: datetime
    key_id: str | None
    units: int | None
    model: str | None
    engine: str | None
    media_type: str | None
    body: bytes | None


class NotedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request whose client may try again by itself."""

    claim: bytes
    fingerprint: bytes
    call_id: UUID
    occurred_at: datetime
    lease_s: float


async def claim_request(
    connection: Connection,
    *,
    claim: bytes,
    fingerprint: bytes,
    call_id: UUID,
    occurred_at: datetime,
    session_id: int,
    lease_s: float,
    keep_s: float,
) -> ClaimRow:
    """Claim a request for a session; `call_id` is used where the request is new."""
    async with connection.cursor(row_factory=class_row(ClaimRow)) as cursor:
        await cursor.execute(
            """
            SELECT outcome, call_id, occurred_at, key_id, units, model, engine, media_type, body
            FROM billing.claim_request(
                %(claim)s, %(fingerprint)s, %(call_id)s, %(occurred_at)s, %(session_id)s::bigint,
                make_interval(secs => %(lease_s)s), make_interval(secs => %(keep_s)s))
            """,
            {
                "claim": claim,
                "fingerprint": fingerprint,
                "call_id": call_id,
                "occurred_at": occurred_at,
                "session_id": session_id,
                "lease_s": lease_s,
                "keep_s": keep_s,
            },
        )
        row = await cursor.fetchone()
    assert row is not None
    return row


async def note_requests(
    connection: Connection, requests: Sequence[NotedRequest], session_id: int, keep_s: float
) -> None:
    """Note requests; of those with one claim, the latest is remembered.

    Not waited for: a charge that commits later makes this durable too, and no retry comes earlier.
    """
    await connection.execute(
        """
        SELECT set_config('synchronous_commit', 'off', true),
               billing.note_requests(%(requests)s::text::json, %(session_id)s::bigint,
                                     make_interval(secs => %(keep_s)s))
        """,
        {"requests": _ENCODER.encode(requests).decode(), "session_id": session_id, "keep_s": keep_s},
    )


async def release_requests(connection: Connection, claims: Sequence[tuple[bytes, UUID]]) -> None:
    """Let others run these requests, where they still belong to these calls."""
    await connection.execute(
        """
        UPDATE billing.idempotent_request request SET holder = NULL
        FROM (
            SELECT held.claim FROM billing.idempotent_request held
            JOIN unnest(%(claims)s::bytea[], %(call_ids)s::uuid[]) AS given (claim, call_id)
                USING (claim, call_id)
            ORDER BY held.claim FOR UPDATE OF held
        ) AS ours
        WHERE request.claim = ours.claim
        """,
        {"claims": [claim for claim, _ in claims], "call_ids": [call_id for _, call_id in claims]},
    )


async def delete_expired(connection: Connection, limit: int) -> int:
    """Forget requests whose time is over, `limit` at most; returns how many."""
    cursor = await connection.execute(
        """
        DELETE FROM billing.idempotent_request WHERE claim IN (
            SELECT claim FROM billing.idempotent_request WHERE expires_at <= now()
            ORDER BY claim LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
        """,
        {"limit": limit},
    )
    return cursor.rowcount
