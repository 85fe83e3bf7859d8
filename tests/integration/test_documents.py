"""Documents of invoices that were really issued: who may have one, what it is called, what it shows."""

from datetime import UTC, datetime, timedelta

import pytest

from billing.credit_notes import CreditLine, approve_credit_note, create_credit_note, issue_credit_note
from billing.documents.downloads import credit_note_pdf, invoice_lines_csv, invoice_pdf
from billing.documents.facts import read_credit_facts, read_facts
from billing.documents.typesetter import Typesetter
from billing.meters import INTENT_CALLS, TTS_CHARACTERS
from infra.database import Pool
from infra.errors import NotFoundError
from tests.billing_world import add_account
from tests.documents_world import assert_every_glyph_is_there, read, text_of
from tests.invoice_world import CHECKER, MAKER, NOVEMBER, OCTOBER, close, issue_all, run, use

AFTER_OCTOBER = datetime(2025, 11, 1, 12, tzinfo=UTC)
AFTER_NOVEMBER = datetime(2025, 12, 1, 12, tzinfo=UTC)


async def issued_october(database_url: str, pool: Pool) -> tuple[str, str]:
    """A tenant, and its issued invoice of 15 USD and of what its calls cost."""
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, [(TTS_CHARACTERS, 1_000_000), (INTENT_CALLS, 7)])
    await close(pool, AFTER_OCTOBER)
    (invoice,) = await issue_all(pool)
    return tenant_id, invoice.invoice_id


async def test_an_issued_invoice_is_its_tenants_to_read_and_the_same_each_time(
    database_url: str, pool: Pool
) -> None:
    tenant_id, invoice_id = await issued_october(database_url, pool)
    setter = Typesetter()
    file = await invoice_pdf(pool, setter, invoice_id, tenant_id=tenant_id, reader=tenant_id)
    assert file.name == "AG-000001.pdf"
    document = read(file.body)
    assert_every_glyph_is_there(document)
    text = text_of(document)
    for said in (
        "AG-000001",
        "1 – 31 October 2025",
        "Speech synthesis 1,000,000 characters",
        "plan standard",
        "highest day: 1,000,000 characters",
        "Total US$15.00",
        "Amount due US$15.00",
    ):
        assert said in text, said
    again = await invoice_pdf(pool, setter, invoice_id, reader="finance")
    assert again == file, "for the vendor too, at another moment"
    in_chinese = await invoice_pdf(pool, setter, invoice_id, language="zh-TW", reader="finance")
    assert "應付金額US$15.00" in text_of(read(in_chinese.body))
    lines = await invoice_lines_csv(pool, invoice_id)
    assert (lines.name, lines.body.count(b"\r\n")) == ("AG-000001.csv", 3)


async def test_another_tenants_and_one_that_is_not_issued_are_as_if_they_were_not_there(
    database_url: str, pool: Pool
) -> None:
    tenant_id, invoice_id = await issued_october(database_url, pool)
    await use(database_url, tenant_id, [(INTENT_CALLS, 1000)], NOVEMBER)
    (draft,) = await run(pool, "2025-11")
    other_id = await add_account(pool, now=OCTOBER)
    for reader_id, asked_for in ((other_id, invoice_id), (tenant_id, draft.invoice_id), (tenant_id, "inv_x")):
        with pytest.raises(NotFoundError) as refusal:
            await read_facts(pool, asked_for, reader_id)
        assert refusal.value.message == "There is no such invoice."
    file = await invoice_pdf(pool, Typesetter(), draft.invoice_id, reader="finance")
    assert file.name == f"draft-{draft.invoice_id}.pdf"
    text = text_of(read(file.body))
    assert "DRAFT" in text
    assert "The month is not closed yet" in text


async def test_days_are_of_the_invoices_own_month_and_late_usage_is_not_among_them(
    database_url: str, pool: Pool
) -> None:
    tenant_id, _ = await issued_october(database_url, pool)
    await use(database_url, tenant_id, [(TTS_CHARACTERS, 2_000_000)], OCTOBER + timedelta(days=5))
    await use(database_url, tenant_id, [(TTS_CHARACTERS, 500_000)], NOVEMBER)
    await close(pool, AFTER_NOVEMBER)
    (november,) = await issue_all(pool, "2025-11")
    file = await invoice_pdf(pool, Typesetter(), november.invoice_id, tenant_id=tenant_id, reader=tenant_id)
    text = text_of(read(file.body))
    assert "Late usage of October 2025" in text
    assert "highest day: 500,000 characters" in text


async def test_what_an_invoice_replaces_and_takes_over_is_named_by_number(
    database_url: str, pool: Pool
) -> None:
    tenant_id = await add_account(pool, now=OCTOBER)
    await use(database_url, tenant_id, [(INTENT_CALLS, 1000)])
    await use(database_url, tenant_id, [(INTENT_CALLS, 1000)], NOVEMBER)
    await close(pool, AFTER_OCTOBER)
    (october,) = await issue_all(pool)
    await close(pool, AFTER_NOVEMBER)
    (november,) = await issue_all(pool, "2025-11")
    facts = await read_facts(pool, november.invoice_id, tenant_id)
    assert [one.number for one in facts.invoice.carried] == [october.number]
    assert set(facts.plans.values()) == {"standard"}


async def test_a_credit_note_is_its_tenants_to_read_once_it_is_issued(database_url: str, pool: Pool) -> None:
    tenant_id, invoice_id = await issued_october(database_url, pool)
    lines = [CreditLine(2, 500)]
    note = await create_credit_note(pool, invoice_id, MAKER, lines, "Too loud")
    await approve_credit_note(pool, note.credit_note_id, CHECKER)
    with pytest.raises(NotFoundError):
        await read_credit_facts(pool, note.credit_note_id, tenant_id)
    issued = await issue_credit_note(pool, note.credit_note_id, CHECKER)
    other_id = await add_account(pool, now=OCTOBER)
    with pytest.raises(NotFoundError, match="no such credit note"):
        await read_credit_facts(pool, note.credit_note_id, other_id)
    file = await credit_note_pdf(
        pool, Typesetter(), note.credit_note_id, tenant_id=tenant_id, reader=tenant_id
    )
    assert file.name == f"{issued.number}.pdf"
    text = text_of(read(file.body))
    assert "Speech synthesis US$15.00 US$5.00" in text
    assert "Taken off what was open of AG-000001 US$5.00" in text
