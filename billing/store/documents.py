"""What documents say beside an invoice's own content."""

from infra.database import Connection


async def read_number(connection: Connection, tenant_id: str, invoice_id: str | None) -> str | None:
    """The number of a tenant's invoice; None where it has none."""
    cursor = await connection.execute(
        "SELECT number FROM billing.invoice WHERE tenant_id = %(tenant_id)s AND invoice_id = %(invoice_id)s",
        {"tenant_id": tenant_id, "invoice_id": invoice_id},
    )
    row = await cursor.fetchone()
    return row[0] if row else None
