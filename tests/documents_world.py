"""Invoices to be set as documents, made without a database, and PDFs as they are read."""

import io
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pypdf
from pypdf.generic import ContentStream

from billing.credit_notes import CreditLine, CreditNote, CreditNoteStatus
from billing.documents.credit_note import CreditFacts, credit_note_paper
from billing.documents.facts import Facts
from billing.documents.invoice import invoice_paper
from billing.documents.typesetter import Typesetter
from billing.invoices import Invoice, InvoiceLine, Party
from billing.meters import ASR_AUDIO_MS, INTENT_CALLS, METERS, TTS_CHARACTERS
from billing.money import currency, format_minor
from billing.prices import MeterPrice, PriceVersion, Tier
from billing.statement import MonthUse, Segment, Use, statement
from billing.store.usage import DayRow

MARCH = "2026-03"
ISSUED_AT = datetime(2026, 4, 3, 2, tzinfo=UTC)
UNITS = {ASR_AUDIO_MS: 123_456_789, INTENT_CALLS: 7_777, TTS_CHARACTERS: 2_345_678}


def version(
    number: int, code: str, tiers: int = 3, minimum_nanos: int = 0, discount_ppm: int = 0
) -> PriceVersion:
    """A price version with a graduated, a package and a volume price."""
    steps = [Tier((step + 1) * 60_000_000, 4_300_000 * (tiers - step)) for step in range(tiers - 1)]
    return PriceVersion(
        price_version_id=f"pv_{number}",
        plan="standard" if number == 0 else "premium",
        currency=code,
        valid_from=None,
        prices={
            ASR_AUDIO_MS: MeterPrice(60_000, (*steps, Tier(None, 4_300_000)), free_units=600_000),
            INTENT_CALLS: MeterPrice(1_000, (Tier(None, 400_000_000),), "package"),
            TTS_CHARACTERS: MeterPrice(
                1_000_000, (Tier(1_000_000, 15 * 10**9), Tier(None, 12 * 10**9)), "volume"
            ),
        },
        minimum_nanos=minimum_nanos,
        discount_ppm=discount_ppm,
    )


def month(label: str, versions: Sequence[PriceVersion], before_units: int = 0) -> MonthUse:
    """A month in which each meter was used under each version."""
    starts_at = datetime(int(label[:4]), int(label[5:]), 1, tzinfo=ZoneInfo("Asia/Taipei"))
    segments = tuple(
        Segment(one, Fraction(1, len(versions)), starts_at + timedelta(days=number))
        for number, one in enumerate(versions)
    )
    keys = [(segment, meter) for segment in range(len(segments)) for meter in UNITS]
    uses = tuple(Use(segment, meter, 1_234, UNITS[meter], 1_240, "ab" * 32) for segment, meter in keys)
    before = dict.fromkeys(keys, before_units) if before_units else {}
    return MonthUse(usage_period=label, segments=segments, uses=uses, before=before)


def facts(months: Sequence[MonthUse], code: str = "USD", status: str = "issued", **fields: Any) -> Facts:
    """An invoice of March 2026 over these months; `fields` in the place of its own."""
    unit, zone = currency(code), ZoneInfo("Asia/Taipei")
    made = statement(months, MARCH, unit, tax_ppm=50_000, credit_nanos=fields.pop("credit_nanos", 0))
    starts_at, ends_at = datetime(2026, 3, 1, tzinfo=zone), datetime(2026, 4, 1, tzinfo=zone)
    number = fields.get("number", "AG-000042")
    issued = {
        "number": number,
        "issued_at": ISSUED_AT,
        "due_on": date(2026, 5, 3),
        "previous_chain_sha256": "0b" * 32,
        "chain_sha256": "0c" * 32,
    }
    if status in ("draft", "in_review", "approved"):
        issued = dict.fromkeys(issued)
    lines = tuple(
        InvoiceLine(
            line=place,
            cutoff_at=datetime(2026, 4, 1, 4, tzinfo=UTC),
            amount=format_minor(line.amount_minor, unit),
            **msgspec.structs.asdict(line),
        )
        for place, line in enumerate(made.lines, 1)
    )
    totals = {name: value for name, value in msgspec.structs.asdict(made).items() if name != "lines"}
    content: dict[str, Any] = {
        "invoice_id": "inv_sample",
        "tenant_id": "ten_sample",
        "period": MARCH,
        "revision": 1,
        "replaces": None,
        "starts_at": starts_at,
        "ends_at": ends_at,
        "time_zone": zone.key,
        "issuer_id": "default",
        "issuer": Party("語音智慧股份有限公司", "臺北市信義區市府路 1 號", "12345675", "billing@example.com"),
        "bill_to": Party("Acme Ltd", "88 Market Street\nSan Francisco", "53212539", "ap@acme.example"),
        "language": "en",
        "currency": code,
        "period_complete": True,
        "lines": lines,
        "tax_name": "VAT",
        "tax_ppm": 50_000,
        "carried": (),
        **totals,
    }
    way: dict[str, Any] = {
        "status": status,
        "total": "",
        "due": "",
        "credited_minor": 0,
        "open_minor": 0,
        "open": "",
        "content_sha256": "0a" * 32,
        "drafted_at": ISSUED_AT - timedelta(days=2),
        "prepared_by": ("worker",),
        "approved_at": None,
        "approved_by": None,
        "approved_sha256": None,
        "settled_at": None,
        "to_be_reissued": False,
        **issued,
    }
    return Facts(
        invoice=Invoice(**{**content, **way, **fields}),
        days=tuple(
            DayRow(date(2026, 3, day), meter.meter, day * 1_000, 3)
            for day in range(1, 32)
            for meter in METERS
        ),
        plans={
            segment.version.price_version_id: segment.version.plan
            for one in months
            for segment in one.segments
        },
        replaced_number="AG-000041",
    )


def credit_facts(corrected: Facts, status: CreditNoteStatus = "issued", **fields: Any) -> CreditFacts:
    """A credit note of 5.00 against the first line of an invoice, and of 0.25 tax."""
    invoice = corrected.invoice
    content: dict[str, Any] = {
        "credit_note_id": "crn_sample",
        "invoice_id": invoice.invoice_id,
        "invoice_number": invoice.number,
        "invoice_sha256": invoice.content_sha256,
        "tenant_id": invoice.tenant_id,
        "period": invoice.period,
        "issuer_id": invoice.issuer_id,
        "currency": invoice.currency,
        "reason": "Calls that failed on 5 March",
        "remedy": "carry",
        "lines": (CreditLine(1, 500),),
        "subtotal_minor": 500,
        "tax_name": "VAT",
        "tax_ppm": 50_000,
        "tax_minor": 25,
        "total_minor": 525,
        "status": status,
        "total": "",
        "content_sha256": "0d" * 32,
        "prepared_at": ISSUED_AT,
        "prepared_by": "staff:one",
    }
    unknown = (
        "approved_at",
        "approved_by",
        "issued_at",
        "issued_by",
        "number",
        "previous_chain_sha256",
        "chain_sha256",
        "reduces_minor",
        "carries_minor",
        "refunds_minor",
    )
    issued: dict[str, Any] = {
        "issued_at": ISSUED_AT + timedelta(days=10),
        "number": "AG-CN-000001",
        "previous_chain_sha256": "0e" * 32,
        "chain_sha256": "0f" * 32,
        "reduces_minor": 400,
        "carries_minor": 125,
        "refunds_minor": 0,
    }
    way = dict.fromkeys(unknown) | (issued if status == "issued" else {})
    return CreditFacts(CreditNote(**{**content, **way, **fields}), invoice)


async def pdf_of(given: Facts | CreditFacts, language: str | None = None) -> pypdf.PdfReader:
    """Its document, as a reader of PDF sees it."""
    is_invoice = isinstance(given, Facts)
    paper = invoice_paper(given, language) if is_invoice else credit_note_paper(given, language)
    return read(await Typesetter().pdf(paper, ISSUED_AT, "test"))


def read(pdf: bytes) -> pypdf.PdfReader:
    return pypdf.PdfReader(io.BytesIO(pdf))


def text_of(document: pypdf.PdfReader) -> str:
    """All its text; spaces beside Chinese characters, which are typography, left out."""
    text = "\n".join(page.extract_text() for page in document.pages)
    return re.sub(r"(?<=[\u3000-\u9fff]) (?=\S)|(?<=\S) (?=[\u3000-\u9fff])", "", text)


def assert_every_glyph_is_there(document: pypdf.PdfReader) -> None:
    """Every font is embedded, and no glyph shown is the one for missing characters (glyph 0)."""
    shown = 0
    for page in document.pages:
        for font in _fonts(page):
            descriptor = font["/DescendantFonts"][0]["/FontDescriptor"]
            assert {"/FontFile", "/FontFile2", "/FontFile3"} & set(descriptor), font["/BaseFont"]
            assert font["/Encoding"] == "/Identity-H"
        for operands, operator in ContentStream(page.get_contents(), document).operations:
            if operator in (b"Tj", b"TJ"):
                pieces = operands[0] if isinstance(operands[0], list) else operands
                glyphs = [
                    glyph for piece in pieces if isinstance(piece, str | bytes) for glyph in _glyphs(piece)
                ]
                assert 0 not in glyphs
                shown += len(glyphs)
    assert shown > 100


def _fonts(page: pypdf.PageObject) -> Iterator[Any]:
    for font in page["/Resources"]["/Font"].values():  # type: ignore[union-attr]
        yield font.get_object()


def _glyphs(piece: Any) -> list[int]:
    raw = piece if isinstance(piece, bytes) else piece.original_bytes
    return [int.from_bytes(raw[at : at + 2]) for at in range(0, len(raw), 2)]
