"""Both languages say the same, of everything that is billed."""

import string

import pytest

from billing.documents.amounts import SYMBOLS
from billing.documents.words import LANGUAGES, WORDS, Texts
from billing.meters import METERS
from billing.money import currency
from billing.prices import PRICE_MODELS
from infra.errors import InvalidValueError

DATES = {"date", "month", "days"}  # a month has a name in English, and a number in both


def gaps(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_both_languages_have_the_same_texts_with_the_same_gaps() -> None:
    assert tuple(WORDS) == LANGUAGES
    english, chinese = WORDS.values()
    assert english.keys() == chinese.keys()
    for key in english.keys() - DATES:
        assert gaps(english[key]) == gaps(chinese[key]), key
        assert english[key], key


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_meter_currency_and_tiered_model_has_its_words(language: str) -> None:
    say = Texts(language)
    for meter in METERS:
        assert say(meter.meter)
        assert say(f"unit_{meter.meter}")
    for code in SYMBOLS:
        assert currency(code).code in say(code)
    assert {model for model in PRICE_MODELS if model != "per_unit"} <= WORDS[language].keys()


def test_every_currency_that_is_billed_in_has_its_symbol() -> None:
    with pytest.raises(InvalidValueError) as refusal:
        currency("XXX")
    assert sorted(SYMBOLS) == refusal.value.message.rpartition(": ")[2].rstrip(".").split(", ")


def test_a_language_that_documents_are_not_written_in_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="en, zh-TW"):
        Texts("zh-CN")
