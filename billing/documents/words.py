"""The texts of documents, in both languages.

A document in Chinese is a 帳單, not a 發票: a government uniform invoice (統一發票) is another thing, which
this does not stand in for.
"""

from collections.abc import Mapping
from typing import Final, Literal, get_args

from infra.errors import InvalidValueError

Language = Literal["en", "zh-TW"]
LANGUAGES: Final = get_args(Language)

_ENGLISH: Final = {
    "invoice": "Invoice",
    "draft": "DRAFT",
    "void": "VOID",
    "issuer": "From",
    "customer": "Bill to",
    "tax_id": "Tax ID {tax_id}",
    "number": "Number",
    "not_issued": "not issued yet",
    "issued_on": "Date of issue",
    "due_on": "Due date",
    "period": "Period",
    "days": "{first} – {last} {month_name} {year}",
    "time_zone": "Time zone",
    "currency": "Currency",
    "revision": "Revision",
    "replaces": "{revision}, replaces {number}, which is void",
    "USD": "US dollar (USD)",
    "TWD": "New Taiwan dollar (TWD)",
    "HKD": "Hong Kong dollar (HKD)",
    "CNY": "Chinese yuan (CNY)",
    "JPY": "Japanese yen (JPY)",
    "EUR": "Euro (EUR)",
    "item": "Item",
    "units": "Quantity",
    "price": "Price",
    "exact": "Exact amount",
    "amount": "Amount",
    "nothing": "Nothing was used in this month.",
    "usage_of": "Usage in {month}",
    "late_usage_of": "Late usage of {month}",
    "late_note": (
        "Recorded after that month had been closed. Each line is what the month comes to with this usage, "
        "less what it came to before."
    ),
    "paid_ahead": "Paid in advance",
    "asr.audio_ms": "Speech recognition",
    "intent.calls": "Intent recognition",
    "tts.characters": "Speech synthesis",
    "calls_and_plan": "{calls}, plan {plan}",
    "call": "{count} call",
    "calls": "{count} calls",
    "character": "{count} character",
    "characters": "{count} characters",
    "hour": "{count} h",
    "minute": "{count} min",
    "second": "{count} s",
    "day": "{count} d",
    "per": "{price} per {per}",
    "per_many": "{price} per {per}",
    "per_call": "call",
    "per_character": "character",
    "per_hour": "hour",
    "per_minute": "minute",
    "per_second": "second",
    "per_millisecond": "millisecond",
    "free": "free of charge",
    "up_to": "up to {last}",
    "between": "{first} – {last}",
    "from": "{first} and more",
    "over": "over {begin}",
    "graduated": "Each unit at the price of its own tier; tiers run over the whole month.",
    "volume": "All units of the month at the price of the tier that the last one reached.",
    "package": "Whole packages; one that is begun counts as a whole one.",
    "prices_from": "At the prices that held from {moment}.",
    "discount": "Discount {percent}",
    "discount_basis": "{percent} off {amount}",
    "minimum": "Minimum commitment",
    "commitment": "Committed: {amount} a month.",
    "commitment_share": "Committed on plan {plan}: {amount} a month, for {held} of the month's {of}.",
    "reached": "Usage after discounts: {amount}. This line makes up the difference.",
    "reached_late": (
        "With the late usage, after discounts: {amount}. This line is by how much that changes what the "
        "commitment adds."
    ),
    "credit": "Prepaid credit used",
    "credit_basis": "Calls of the month took {amount} off the credit.",
    "subtotal": "Subtotal",
    "tax": "Tax",
    "tax_rate": "{name} {percent}",
    "total": "Total",
    "carried_invoice": "Carried in from {number}",
    "carried_credit_note": "Credit note {number}",
    "carried_out": "Carried to the next invoice",
    "due": "Amount due",
    "pay_by": "Please pay by {day}.",
    "nothing_due": "Nothing is to be paid.",
    "credit_note": "Credit note",
    "credit_number": "Number",
    "corrects": "Corrects",
    "number_of_day": "{number} of {day}",
    "credited_lines": "Credited of invoice {number}",
    "invoiced": "Invoiced",
    "credited": "Credited",
    "reason": "Reason: {reason}",
    "total_credited": "Total credited",
    "credit_reduces": "Taken off what was open of {number}",
    "credit_carries": "Goes to the next invoice",
    "credit_refunds": "To be paid back",
    "credit_draft_note": "This credit note has not been issued, and does not count.",
    "credit_chain_note": (
        "Content is the SHA-256 of all that this credit note says, the invoice's own hash included. Chain is "
        "the SHA-256 of the chain before it (32 bytes), the number, and Content (32 bytes)."
    ),
    "rounding": (
        "Each line is computed exactly and rounded once, to {smallest}, halves away from zero; a minimum "
        "commitment is what is then missing. Tax is rounded once, on the subtotal."
    ),
    "carry_small": "Less than {smallest} is not collected by itself: it is carried to the next invoice.",
    "carry_balance": "This month's balance is in your favour: it is carried to the next invoice.",
    "in_progress": "The month is not closed yet: these are the figures so far.",
    "draft_note": "This is a draft. It has not been issued and nothing is to be paid on it.",
    "void_note": "This invoice is void. Nothing is to be paid on it.",
    "by_day": "Usage by day",
    "chart": "{meter}, {unit}",
    "unit_asr.audio_ms": "audio",
    "unit_intent.calls": "calls",
    "unit_tts.characters": "characters",
    "chart_most": "highest day: {units}",
    "proof": "Proof",
    "proof_line": "Line",
    "proof_rows": "Usage rows",
    "proof_cutoff": "Recorded until (UTC)",
    "proof_price": "Price version",
    "proof_digest": "SHA-256 of the usage rows",
    "content_hash": "Content",
    "previous_hash": "Chain before",
    "chain_hash": "Chain",
    "proof_note": (
        "Each line stands for usage rows: as many as said, with that digest. The calls behind a line, and "
        "the same figures in JSON, are at /v1/invoices/{invoice_id}."
    ),
    "chain_note": (
        "Content is the SHA-256 of all that this invoice says. Chain is the SHA-256 of the chain before it "
        "(32 bytes), the number, and Content (32 bytes): no invoice can be changed, added or left out later "
        "without all that follow showing it."
    ),
    "date": "{day} {month_name} {year}",
    "month": "{month_name} {year}",
    "moment": "{date}, {time}",
    "separator": " ",
}

_CHINESE: Final = {
    "invoice": "帳單",
    "draft": "草稿",
    "void": "作廢",
    "issuer": "開立人",
    "customer": "客戶",
    "tax_id": "統一編號 {tax_id}",
    "number": "帳單號碼",
    "not_issued": "尚未開立",
    "issued_on": "開立日期",
    "due_on": "付款期限",
    "period": "計費期間",
    "days": "{year}年{month}月{first}日至{last}日",
    "time_zone": "時區",
    "currency": "幣別",
    "revision": "版次",
    "replaces": "第 {revision} 版，取代已作廢的 {number}",
    "USD": "美元（USD）",
    "TWD": "新臺幣（TWD）",
    "HKD": "港幣（HKD）",
    "CNY": "人民幣（CNY）",
    "JPY": "日圓（JPY）",
    "EUR": "歐元（EUR）",
    "item": "項目",
    "units": "用量",
    "price": "單價",
    "exact": "精確金額",
    "amount": "金額",
    "nothing": "本月沒有用量。",
    "usage_of": "{month}用量",
    "late_usage_of": "{month}補計用量",
    "late_note": "該月結算後才記錄的用量。各行金額為該月計入此用量後的金額，減去先前的金額。",
    "paid_ahead": "預付款",
    "asr.audio_ms": "語音辨識",
    "intent.calls": "意圖辨識",
    "tts.characters": "語音合成",
    "calls_and_plan": "{calls}，方案 {plan}",
    "call": "{count} 次呼叫",
    "calls": "{count} 次呼叫",
    "character": "{count} 字元",
    "characters": "{count} 字元",
    "hour": "{count} 小時",
    "minute": "{count} 分",
    "second": "{count} 秒",
    "day": "{count} 天",
    "per": "每{per} {price}",
    "per_many": "每 {per} {price}",
    "per_call": "次呼叫",
    "per_character": "字元",
    "per_hour": "小時",
    "per_minute": "分鐘",
    "per_second": "秒",
    "per_millisecond": "毫秒",
    "free": "免費",
    "up_to": "{last}以內",
    "between": "{first}–{last}",
    "from": "{first}起",
    "over": "超過 {begin}",
    "graduated": "各用量依其所在級距計價；級距以整月用量累計。",
    "volume": "全月用量一律依最終達到的級距計價。",
    "package": "以整包計價；未滿一包以一包計。",
    "prices_from": "適用自 {moment} 起的價格。",
    "discount": "折扣 {percent}",
    "discount_basis": "{amount} 的 {percent}",
    "minimum": "最低消費",
    "commitment": "每月承諾：{amount}。",
    "commitment_share": "方案 {plan} 每月承諾：{amount}，占該月 {of} 中的 {held}。",
    "reached": "折扣後用量金額：{amount}。本行補足差額。",
    "reached_late": "計入補計用量後的折扣後金額：{amount}。本行為最低消費補足額因此的增減。",
    "credit": "使用預付額度",
    "credit_basis": "本月呼叫自預付額度扣除 {amount}。",
    "subtotal": "小計",
    "tax": "稅額",
    "tax_rate": "{name} {percent}",
    "total": "總計",
    "carried_invoice": "自 {number} 結轉",
    "carried_credit_note": "折讓單 {number}",
    "carried_out": "結轉下期",
    "due": "應付金額",
    "pay_by": "請於 {day} 前付款。",
    "nothing_due": "本期無須付款。",
    "credit_note": "折讓單",
    "credit_number": "折讓單號碼",
    "corrects": "更正帳單",
    "number_of_day": "{number}（{day}）",
    "credited_lines": "帳單 {number} 之折讓",
    "invoiced": "原金額",
    "credited": "折讓金額",
    "reason": "原因：{reason}",
    "total_credited": "折讓總額",
    "credit_reduces": "抵減 {number} 未付金額",
    "credit_carries": "抵入下期帳單",
    "credit_refunds": "退款",
    "credit_draft_note": "此折讓單尚未開立，不生效力。",
    "credit_chain_note": (
        "「內容」為本折讓單全部內容（含原帳單的雜湊值）的 SHA-256；"
        "「鏈值」為前一鏈值（32 位元組）、號碼與「內容」（32 位元組）的 SHA-256。"
    ),
    "rounding": (
        "各行金額精確計算後，四捨五入一次至 {smallest}；最低消費補足其差額；稅額以小計計算，四捨五入一次。"
    ),
    "carry_small": "未達 {smallest} 的金額不單獨收取，結轉至下期帳單。",
    "carry_balance": "本期餘額對貴客戶有利，結轉至下期帳單。",
    "in_progress": "本月尚未結算：以上為目前數字。",
    "draft_note": "此為草稿，尚未開立，無須付款。",
    "void_note": "本帳單已作廢，無須付款。",
    "by_day": "每日用量",
    "chart": "{meter}（{unit}）",
    "unit_asr.audio_ms": "音訊長度",
    "unit_intent.calls": "呼叫次數",
    "unit_tts.characters": "字元數",
    "chart_most": "最高一日：{units}",
    "proof": "驗證",
    "proof_line": "行",
    "proof_rows": "用量紀錄數",
    "proof_cutoff": "記錄截止（UTC）",
    "proof_price": "價格版本",
    "proof_digest": "用量紀錄的 SHA-256",
    "content_hash": "內容",
    "previous_hash": "前一鏈值",
    "chain_hash": "鏈值",
    "proof_note": (
        "每一行皆對應用量紀錄：筆數與摘要如上。各行背後的呼叫明細與相同數字的 JSON，"
        "請見 /v1/invoices/{invoice_id}。"
    ),
    "chain_note": (
        "「內容」為本帳單全部內容的 SHA-256；「鏈值」為前一鏈值（32 位元組）、帳單號碼與「內容」（32 位元組）"
        "的 SHA-256：任何帳單事後遭更改、增列或刪除，其後所有帳單都會顯示不符。"
    ),
    "date": "{year}年{month}月{day}日",
    "month": "{year}年{month}月",
    "moment": "{date} {time}",
    "separator": " ",
}

WORDS: Final[Mapping[str, Mapping[str, str]]] = {"en": _ENGLISH, "zh-TW": _CHINESE}

MONTH_NAMES: Final = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)


class Texts:
    """The texts of one language.

    Raises:
        InvalidValueError: documents are not written in this language.
    """

    def __init__(self, language: str) -> None:
        if language not in WORDS:
            raise InvalidValueError(f"A document's language is one of: {', '.join(LANGUAGES)}.", "language")
        self.language = language
        self._words = WORDS[language]

    def __call__(self, key: str, **values: str | int) -> str:
        """The text of a key, its gaps filled."""
        return self._words[key].format(**values)
