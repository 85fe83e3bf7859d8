"""Invoices as PDF: real glyphs in both languages, all that was billed, nothing written is run."""

import asyncio
import re

import msgspec
import pytest

from billing.documents import typesetter
from billing.documents.invoice import invoice_paper
from billing.documents.typeset import MISSING
from billing.documents.typesetter import DocumentError, DocumentsBusyError, Typesetter
from billing.invoices import Carried, Party
from tests.documents_world import (
    ISSUED_AT,
    MARCH,
    assert_every_glyph_is_there,
    credit_facts,
    facts,
    month,
    pdf_of,
    text_of,
    version,
)

PLAIN = [month(MARCH, [version(0, "USD")])]


def named(name: str, **fields: str) -> Party:
    return Party(name, **fields)


async def test_an_invoice_says_all_that_was_billed_in_english() -> None:
    document = await pdf_of(facts(PLAIN))
    assert_every_glyph_is_there(document)
    text = text_of(document)
    for said in (
        "Invoice",
        "AG-000042",
        "語音智慧股份有限公司",
        "Tax ID 12345675",
        "Acme Ltd",
        "Tax ID 53212539",
        "Date of issue 3 April 2026",
        "Due date 3 May 2026",
        "Period 1 – 31 March 2026",
        "Asia/Taipei (UTC+08:00)",
        "US dollar (USD)",
        "Speech recognition 34 h 17 min 36.789 s US$21.704736545 US$21.70",
        "1,234 calls, plan standard",
        "up to 10 min 10 min free of charge US$0.00",
        "10 min – 16 h 50 min 16 h 40 min US$0.0129 per minute US$12.90",
        "Intent recognition 7,777 calls US$0.40 per 1,000 calls US$3.20 US$3.20",
        "1,000,001 and more 2,345,678 characters US$12.00 per 1,000,000 characters US$28.148136",
        "Subtotal US$53.05",
        "VAT 5% US$2.65",
        "Total US$55.70",
        "Amount due US$55.70",
        "Please pay by 3 May 2026.",
        "Speech recognition, audio",
        "highest day: 31,000 calls",
        "ab" * 32,
        "0a" * 32,
        "0c" * 32,
        "1 / 1",
    ):
        assert said in text, said
    assert "DRAFT" not in text
    assert "VOID" not in text


async def test_an_invoice_says_it_all_in_traditional_chinese() -> None:
    months = [month(MARCH, [version(0, "TWD", discount_ppm=100_000, minimum_nanos=10**14)])]
    document = await pdf_of(facts(months, "TWD", tax_name="營業稅", credit_nanos=50 * 10**9), "zh-TW")
    assert_every_glyph_is_there(document)
    text = text_of(document)
    for said in (
        "帳單",
        "開立人",
        "統一編號12345675",
        "開立日期2026年4月3日",
        "付款期限2026年5月3日",
        "計費期間2026年3月1日至31日",
        "新臺幣（TWD）",
        "語音辨識34小時17分36.789秒NT$21.704736545 NT$22",
        "每分鐘NT$0.0129",
        "每1,000次呼叫NT$0.4",
        "折扣10%",
        "最低消費",
        "使用預付額度−NT$50",
        "小計",
        "營業稅5%",
        "總計",
        "應付金額",
        "每日用量",
        "驗證",
    ):
        assert said in text, said


@pytest.mark.parametrize(
    ("status", "english", "chinese"),
    [("in_review", "DRAFT", "草稿"), ("approved", "DRAFT", "草稿"), ("void", "VOID", "作廢")],
)
async def test_what_is_not_valid_is_marked_on_every_page(status: str, english: str, chinese: str) -> None:
    for language, mark in (("en", english), ("zh-TW", chinese)):
        months = [month(MARCH, [version(number, "USD") for number in range(3)])]
        pages = (await pdf_of(facts(months, status=status), language)).pages
        assert len(pages) > 1
        assert all(page.extract_text().count(mark) >= 2 for page in pages)


@pytest.mark.parametrize(
    "name",
    [
        '#panic("x")',
        "*bold* _emphasis_ `raw` $x^2$ @label <b> </script> \\ // /* ~ --",
        '#sys.inputs #read("document.typ") #import "@preview/x:0.1.0"',
        "王大堃 陳喆 犇",
    ],
)
async def test_what_customers_write_is_printed_as_they_wrote_it(name: str) -> None:
    document = await pdf_of(facts(PLAIN, bill_to=named(name, address=name, tax_id=name[:50], email=name)))
    assert_every_glyph_is_there(document)
    wanted = "".join(name.split())
    assert "".join(text_of(document).split()).count(wanted) >= 3


async def test_names_in_other_scripts_have_their_glyphs() -> None:
    name = "Łódź Šiauliai Ηλίας Привет Nguyễn"
    document = await pdf_of(facts(PLAIN, bill_to=named(name)))
    assert_every_glyph_is_there(document)
    assert MISSING not in text_of(document)


async def test_a_character_that_no_font_has_is_replaced_and_never_fails() -> None:
    name = "深圳市腾讯 🚀👩\u200d💻 삼성 𠮷 \U000e0041 \ufffe"
    document = await pdf_of(facts(PLAIN, bill_to=named(name), tax_name="稅😀"), "zh-TW")
    assert_every_glyph_is_there(document)
    text = text_of(document)
    assert "深圳市騰訊" in text, "its traditional form, where that is there"
    assert "〓〓〓〓〓〓" in text.replace(" ", "")
    assert "稅〓" in text


@pytest.mark.parametrize(
    "name", ["W" * 200, "台" * 200, "a\r\n\tb\u2028c\x00\x1b[31m\u202egnp.exe", "ﷺ" * 200, ""]
)
async def test_no_name_breaks_the_page(name: str) -> None:
    address = "\n".join(["x" * 90, *["y"] * 200])[:500]
    document = await pdf_of(
        facts(PLAIN, bill_to=named(name, address=address, email="e" * 254), tax_name="税" * 50)
    )
    assert_every_glyph_is_there(document)
    text = text_of(document)
    assert not re.search(r"(\S)\1{50}", text), "a line is broken before it leaves its column"
    assert "Amount due US$55.70" in text


async def test_marks_that_turn_the_direction_of_writing_are_left_out() -> None:
    text = text_of(await pdf_of(facts(PLAIN, bill_to=named("a\r\n\tb\u2028c\x00\x1b[31m\u202egnp.exe"))))
    assert "a b c[31mgnp.exe" in text


async def test_a_changed_plan_and_late_usage_are_explained() -> None:
    versions = [version(0, "EUR", discount_ppm=50_000, minimum_nanos=99 * 10**12), version(1, "EUR")]
    document = await pdf_of(
        facts(
            [month(MARCH, versions), month("2026-01", versions, before_units=100)],
            "EUR",
            replaces="inv_before",
            revision=2,
            carried_in_minor=30,
            carried=(
                Carried(source="invoice", id="inv_x", number="AG-000030", amount_minor=50),
                Carried(source="credit_note", id="crn_x", number="AG-CN-000001", amount_minor=-20),
            ),
        )
    )
    text = " ".join(text_of(document).split())
    for said in (
        "2, replaces AG-000041, which is void",
        "At the prices that held from 2 March 2026, 00:00.",
        "plan premium",
        "5% off €53.052872545",
        "Committed on plan standard: €99,000.00 a month, for 15 d 12 h of the month's 31 d.",
        "This line makes up the difference.",
        "Late usage of January 2026",
        "less what it came to before.",
        "−100 characters",
        "Carried in from AG-000030 €0.50",
        "Credit note AG-CN-000001 −€0.20",
    ):
        assert said in text, said


async def test_what_is_carried_is_explained() -> None:
    carried = {
        "subtotal_minor": 30,
        "total_minor": 30,
        "tax_minor": 0,
        "due_minor": 0,
        "carried_out_minor": 30,
    }
    text = text_of(await pdf_of(facts([], lines=(), **carried)))
    assert "Nothing was used in this month." in text
    assert "Carried to the next invoice −US$0.30" in text
    assert "Less than US$0.50 is not collected by itself" in text
    assert "Nothing is to be paid." in text
    balance = carried | {"subtotal_minor": -30, "total_minor": -30, "carried_out_minor": -30}
    text = text_of(await pdf_of(facts([], lines=(), **balance)))
    assert "Carried to the next invoice US$0.30" in text
    assert "in your favour" in text


async def test_a_credit_note_says_what_it_takes_back_of_which_invoice_and_where_that_goes() -> None:
    document = await pdf_of(credit_facts(facts(PLAIN)))
    assert_every_glyph_is_there(document)
    text = " ".join(text_of(document).split())
    for said in (
        "Credit note",
        "Number AG-CN-000001",
        "Date of issue 13 April 2026",
        "Corrects AG-000042 of 3 April 2026",
        "Credited of invoice AG-000042",
        "Speech recognition US$21.70 US$5.00",
        "Reason: Calls that failed on 5 March",
        "Subtotal US$5.00",
        "VAT 5% US$0.25",
        "Total credited US$5.25",
        "Taken off what was open of AG-000042 US$4.00",
        "Goes to the next invoice US$1.25",
        "0f" * 32,
    ):
        assert said in text, said
    assert "paid back" not in text
    assert "Usage by day" not in text
    in_chinese = text_of(await pdf_of(credit_facts(facts(PLAIN), "approved", reason="x" * 1000), "zh-TW"))
    for said in ("折讓單", "草稿", "折讓總額US$5.25", "尚未開立"):
        assert said in in_chinese, said
    assert "VOID" in text_of(await pdf_of(credit_facts(facts(PLAIN), "withdrawn")))


async def test_the_largest_invoice_goes_on_with_its_headings_over_the_pages() -> None:
    versions = [version(number, "EUR", tiers=20, discount_ppm=50_000) for number in range(4)]
    earlier = [month(f"2025-{number:02d}", versions, before_units=100) for number in range(1, 13)]
    document = await pdf_of(facts([month(MARCH, versions), *earlier], "EUR"))
    assert len(document.pages) > 10
    for number, page in enumerate(document.pages, 1):
        text = page.extract_text()
        assert f"{number} / {len(document.pages)}" in text
        assert ("Item Quantity Price Exact amount Amount" in text) or ("Usage rows" in text)


async def test_the_same_invoice_gives_the_same_bytes_and_is_dated_when_it_was_issued() -> None:
    paper = invoice_paper(facts(PLAIN))
    made = await asyncio.gather(*(Typesetter().pdf(paper, ISSUED_AT, "test") for _ in range(2)))
    assert made[0] == made[1]
    metadata = (await pdf_of(facts(PLAIN))).metadata
    assert metadata is not None
    assert (metadata["/CreationDate"], metadata.title) == ("D:20260403020000Z", "Invoice AG-000042")


async def test_who_comes_when_the_room_is_full_is_told_to_come_again() -> None:
    """Also one reader among others, so that nobody keeps all the others out."""
    setter, paper = Typesetter(inside=3, inside_each=2), invoice_paper(facts([], lines=()))
    readers = ["a", "a", "a", "b", "c"]
    made = await asyncio.gather(
        *(setter.pdf(paper, ISSUED_AT, reader) for reader in readers), return_exceptions=True
    )
    assert [isinstance(one, bytes) for one in made] == [True, True, False, True, False]
    assert isinstance(made[2], DocumentsBusyError)
    assert isinstance(await setter.pdf(paper, ISSUED_AT, "c"), bytes), "there is room again"


async def test_a_document_that_takes_too_long_is_given_up_and_its_process_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def hanging(*arguments: str, **options: int) -> asyncio.subprocess.Process:
        started.append(await start("sleep", "60", **options))  # type: ignore[arg-type]
        return started[-1]

    monkeypatch.setattr(typesetter.asyncio, "create_subprocess_exec", hanging)
    with pytest.raises(DocumentsBusyError):
        await Typesetter(timeout_s=0.2).pdf(invoice_paper(facts(PLAIN)), ISSUED_AT, "test")
    assert await asyncio.wait_for(started[0].wait(), 5) == -9


async def test_a_defect_is_told_from_a_busy_room() -> None:
    paper = msgspec.structs.replace(invoice_paper(facts(PLAIN)), headings=(1, 2, 3, 4, 5))  # type: ignore[arg-type]
    with pytest.raises(DocumentError, match="TypstError"):
        await Typesetter().pdf(paper, ISSUED_AT, "test")
