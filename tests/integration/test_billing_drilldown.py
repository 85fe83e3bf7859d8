"""From a line down to its calls: they add up to it, they have its digest, and the CSV is enough for both."""

import csv
import io
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import msgspec
import psycopg
import pytest

from billing.drilldown import calls_csv, line_calls
from billing.invoices import ISSUED_STATUSES, Invoice, InvoiceLine
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS, TTS_CHARACTERS
from billing.store.drilldown import UsageRow
from infra.database import Pool
from infra.errors import InvalidValueError, NotFoundError
from infra.ids import new_id
from tests.billing_world import add_account, charge, id_at, open_ledger
from tests.invoice_world import NOVEMBER, OCTOBER, close, issue_all, run, use

AFTER_OCTOBER = datetime(2025, 11, 1, 12, tzinfo=UTC)
AFTER_NOVEMBER = datetime(2025, 12, 1, 12, tzinfo=UTC)
MODELS = (
    "retail-en",
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@SUM(1)",
    "a,b",
    'say "hi"',
    "'quoted",
    "兩行\nhere",
    "＝1",
)


async def charge_spread(database_url: str, tenant_id: str, at: datetime, count: int) -> None:
    """Calls of two meters, some seconds apart by their ids, one of them taken back, of oddly named models."""
    async with open_ledger(database_url) as ledger:
        for number in range(count):
            meter, units = ((INTENT_CALLS, 1), (TTS_CHARACTERS, 100 + number))[number % 2]
            one = charge(tenant_id, meter, units, at)
            moved = id_at(datetime.now(UTC) + timedelta(seconds=20 * number), one.call_id)
            one = msgspec.structs.replace(one, call_id=moved, model=MODELS[number % len(MODELS)])
            await ledger.charge(one)
            if number == 4:
                await ledger.void(one)
            ledger.answered(one.call_id)


async def november_with_late_usage(database_url: str, pool: Pool) -> Invoice:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, [(INTENT_CALLS, 1)])
    await close(pool, AFTER_OCTOBER)
    await issue_all(pool)
    await charge_spread(database_url, tenant_id, NOVEMBER, 40)
    await charge_spread(database_url, tenant_id, OCTOBER, 12)
    await use(database_url, tenant_id, [(ASR_AUDIO_MS, 5)], NOVEMBER)
    await close(pool, AFTER_NOVEMBER)
    (invoice,) = await issue_all(pool, "2025-11")
    return invoice


async def all_rows(pool: Pool, invoice: Invoice, line: InvoiceLine, limit: int) -> list[UsageRow]:
    rows, after, pages = list[UsageRow](), None, 0
    while True:
        page = await line_calls(pool, invoice.invoice_id, line.line, after=after, limit=limit)
        rows, after, pages = [*rows, *page.rows], page.next, pages + 1
        if after is None:
            assert pages == max(1, -(-len(rows) // limit))
            return rows


def digest_from(records: Sequence[Sequence[str]]) -> str:
    """By the recipe in `billing.drilldown`, from the file alone."""
    chunks: dict[str, str] = {}
    for _, *cells in records:
        plain = [cell[1:] if cell.startswith("'") else cell for cell in cells]
        chunks[cells[0][:8]] = chunks.get(cells[0][:8], "") + ",".join(plain) + "\n"
    return sha256(b"".join(sha256(text.encode()).digest() for text in chunks.values())).hexdigest()


async def csv_of(pool: Pool, invoice: Invoice, line: int | None = None) -> list[list[str]]:
    return list(csv.reader(io.StringIO("".join([piece async for piece in calls_csv(pool, invoice, line)]))))


@pytest.mark.parametrize("limit", [1, 7, 1000])
async def test_the_pages_of_a_line_hold_its_calls_once_each_in_the_order_of_its_digest(
    database_url: str, pool: Pool, limit: int
) -> None:
    invoice = await november_with_late_usage(database_url, pool)
    assert {line.usage_period for line in invoice.lines} == {"2025-10", "2025-11"}
    for line in invoice.lines:
        rows = await all_rows(pool, invoice, line, limit)
        assert (len(rows), sum(row.calls for row in rows), sum(row.units for row in rows)) == (
            line.row_count,
            line.calls,
            line.units,
        )
        places = [(row.call_id, row.slice, row.entry) for row in rows]
        assert places == sorted(set(places))
        assert {row.occurred_at for row in rows} == {OCTOBER if line.usage_period == "2025-10" else NOVEMBER}


async def test_calls_units_and_digest_of_every_line_can_be_computed_from_the_csv(
    database_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.drilldown._CSV_PAGE", 4)
    invoice = await november_with_late_usage(database_url, pool)
    head, *records = await csv_of(pool, invoice)
    assert ",".join(head) == "line,call_id,slice,entry,calls,units,occurred_at_us,key_id,model,engine"
    for line in invoice.lines:
        own = [record for record in records if record[0] == str(line.line)]
        assert len(own) == line.row_count
        assert (sum(int(one[4]) for one in own), sum(int(one[5]) for one in own)) == (line.calls, line.units)
        assert digest_from(own) == line.digest
        assert await csv_of(pool, invoice, line.line) == [head, *own]


async def test_no_cell_of_the_csv_is_a_formula_to_a_spreadsheet(database_url: str, pool: Pool) -> None:
    invoice = await november_with_late_usage(database_url, pool)
    _, *records = await csv_of(pool, invoice)
    for record in records:
        for cell in record:
            assert not cell.startswith(("=", "+", "@", "\t", "\r", "＝"))
            assert not cell.startswith("-") or cell[1:].isdigit(), "a number may be negative"
    assert {record[8] for record in records} >= {"'=cmd|' /C calc'!A0", "'-1", "''quoted", "a,b"}


async def test_the_calls_of_a_draft_are_those_that_it_counted(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, [(INTENT_CALLS, 1)] * 3)
    (draft,) = await run(pool)
    await use(database_url, tenant_id, [(INTENT_CALLS, 1)])
    (line,) = draft.lines
    assert len(await all_rows(pool, draft, line, 2)) == line.calls == 3


async def test_a_line_that_is_not_of_usage_has_no_calls(database_url: str, pool: Pool) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    with psycopg.connect(database_url) as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("UPDATE billing.price_version SET minimum_nanos = 99000000000")
    await use(database_url, tenant_id, [(INTENT_CALLS, 1)])
    (draft,) = await run(pool)
    assert draft.lines[1].kind == "minimum"
    assert await all_rows(pool, draft, draft.lines[1], 10) == []


async def test_a_tenant_sees_calls_of_its_own_invoices_once_they_are_issued(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, [(INTENT_CALLS, 1)])
    (draft,) = await run(pool)

    async def seen(by: str) -> int:
        page = await line_calls(pool, draft.invoice_id, 1, tenant_id=by, statuses=ISSUED_STATUSES)
        return len(page.rows)

    with pytest.raises(NotFoundError):
        await seen(tenant_id)
    await close(pool, AFTER_OCTOBER)
    await issue_all(pool)
    assert await seen(tenant_id) == 1
    with pytest.raises(NotFoundError):
        await seen(new_id("ten"))
    with pytest.raises(NotFoundError):
        await line_calls(pool, draft.invoice_id, 2)


@pytest.mark.parametrize("after", ["", "x", "0.1", f"{'0' * 32}.1.99999", f"{'0' * 32}.-1.0", "9" * 200])
async def test_a_cursor_that_is_none_is_refused(pool: Pool, after: str) -> None:
    with pytest.raises(InvalidValueError):
        await line_calls(pool, "inv_none", 1, after=after)
