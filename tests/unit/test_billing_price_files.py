"""A price file is read exactly or refused, with the place of what is wrong."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from billing.price_files import MAX_FILE_BYTES, PriceFileError, draft_prices, read_price_file
from billing.prices import MeterPrice, Tier
from tests.price_world import METERS, file_of, price

YAML = """
prices:
  - plan: pro
    currency: TWD
    tenant: ten_a
    valid_from: 2026-01-01
    minimum: 1500
    discount_percent: 8.875
    meters:
      asr.audio_ms: {per: 60_000, model: volume, tiers: [{up_to: 10, price: 0.1}, {price: 0.000000001}]}
      intent.calls:
        model: per_unit
        free_units: 1000
        tiers:
          - price: "0.0043"
      tts.characters: {per: 1000000, model: package, tiers: [{price: 15}]}
"""


def test_yaml_is_read_to_the_last_digit_without_quotes() -> None:
    (draft,) = read_price_file(YAML.encode())
    version = draft.version
    assert (version.plan, version.currency, version.tenant_id) == ("pro", "TWD", "ten_a")
    assert version.valid_from == datetime(2025, 12, 31, 10, tzinfo=UTC), "where the day begins first"
    assert (version.minimum_nanos, version.discount_ppm) == (1500 * 10**9, 88_750)
    assert version.prices == {
        "asr.audio_ms": MeterPrice(60_000, (Tier(10, 10**8), Tier(None, 1)), "volume"),
        "intent.calls": MeterPrice(1, (Tier(None, 4_300_000),), "per_unit", 1000),
        "tts.characters": MeterPrice(10**6, (Tier(None, 15 * 10**9),), "package"),
    }


def test_json_and_yaml_say_the_same() -> None:
    given = price("pro", valid_from="2026-01-01T00:00:00+08:00")
    assert read_price_file(file_of(given), is_json=True) == read_price_file(file_of(given))
    exact = b'{"prices": [{"plan": "a", "currency": "USD", "minimum": 0.1, "meters": %s}]}'
    (draft,) = read_price_file(exact % json.dumps(METERS).encode(), is_json=True)
    assert draft.version.minimum_nanos == 10**8


INTENT = "prices[0].meters.intent.calls"


@pytest.mark.parametrize(
    ("meter", "place", "words"),
    [
        ({"tiers": []}, f"{INTENT}.tiers", "upper bound"),
        ({"tiers": [{"up_to": 10, "price": "1"}]}, f"{INTENT}.tiers[0]", "gap"),
        ({"tiers": [{"price": "1"}, {"price": "2"}]}, f"{INTENT}.tiers[0]", "overlap"),
        ({"tiers": [{"up_to": 9, "price": 1}, {"up_to": 9, "price": 1}, {"price": 1}]}, f"{INTENT}.tiers[1]",
         "overlap"),
        ({"tiers": [{"up_to": 0, "price": 1}, {"price": 1}]}, f"{INTENT}.tiers[0]", "overlap"),
        ({"tiers": [{"up_to": 2**63, "price": 1}, {"price": 1}]}, f"{INTENT}.tiers[0].up_to", "too large"),
        ({"tiers": [{"price": "-0.1"}]}, f"{INTENT}.tiers[0].price", "not negative"),
        ({"tiers": [{"price": -1}]}, f"{INTENT}.tiers[0].price", "not negative"),
        ({"tiers": [{"price": "1e-3"}]}, f"{INTENT}.tiers[0].price", "amount"),
        ({"tiers": [{"price": "0.0000000001"}]}, f"{INTENT}.tiers[0].price", "nine decimals"),
        ({"tiers": [{"price": "NaN"}]}, f"{INTENT}.tiers[0].price", "amount"),
        ({"tiers": [{"price": True}]}, f"{INTENT}.tiers[0].price", "bool"),
        ({"tiers": [{"price": "1", "form": 3}]}, f"{INTENT}.tiers[0]", "unknown field"),
        ({"tiers": [{"price": "1"}], "model": "flat"}, f"{INTENT}.model", "enum"),
        ({"tiers": [{"price": "1"}], "per": 0}, f"{INTENT}.per", "per 1 unit"),
        ({"tiers": [{"price": "1"}], "per": "1.5"}, f"{INTENT}.per", "int"),
        ({"tiers": [{"price": "1"}], "per": 2**63}, f"{INTENT}.per", "too large"),
        ({"tiers": [{"price": "1"}], "free_units": -1}, f"{INTENT}.free_units", "not negative"),
        ({"model": "package", "tiers": [{"up_to": 1, "price": 1}, {"price": 1}]}, f"{INTENT}.tiers",
         "one tier"),
        ({"tiers": [{"up_to": n + 1, "price": 1} for n in range(100)] + [{"price": 1}]}, f"{INTENT}.tiers",
         "at most 100"),
        ({}, INTENT, "missing required field"),
        (None, INTENT, "object"),
    ],
)  # fmt: skip
def test_a_bad_meter_is_refused_at_its_place(meter: Any, place: str, words: str) -> None:
    with pytest.raises(PriceFileError) as refusal:
        read_price_file(file_of(price("pro", {"intent.calls": meter})), is_json=True)
    assert (refusal.value.param, refusal.value.code) == (place, "invalid_price")
    assert refusal.value.message.startswith(f"{place}: ")
    assert words in refusal.value.message
    assert refusal.value.message.endswith(".")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"currency": "XXX"}, "prices[0].currency"),
        ({"currency": None}, "prices[0].currency"),
        ({"minimum": "-5"}, "prices[0].minimum"),
        ({"discount_percent": "100.1"}, "prices[0].discount_percent"),
        ({"discount_percent": "0.00001"}, "prices[0].discount_percent"),
        ({"valid_from": "soon"}, "prices[0].valid_from"),
        ({"valid_from": "2026-02-30"}, "prices[0].valid_from"),
        ({"valid_from": "0001-01-01"}, "prices[0].valid_from"),
        ({"valid_from": "2026-01-01T00:00:00"}, "prices[0].valid_from"),
        ({"valid_until": "2026-01-01"}, "prices[0]"),
        ({"meters": {**METERS, "video.frames": METERS["intent.calls"]}}, "prices[0].meters.video.frames"),
        ({"meters": {"intent.calls": METERS["intent.calls"]}}, "prices[0].meters"),
        ({"meters": []}, "prices[0].meters"),
    ],
)
def test_a_bad_price_is_refused_at_its_place(change: dict[str, Any], place: str) -> None:
    with pytest.raises(PriceFileError) as refusal:
        read_price_file(file_of({**price("pro"), **change}), is_json=True)
    assert refusal.value.param == place


DEEP = "[" * 2000 + "]" * 2000
UNENDING = b"prices: [{plan: a, currency: USD, minimum: .inf, meters: %s}]" % json.dumps(METERS).encode()
TWICE = "prices: [{plan: a, currency: USD, meters: {intent.calls: {tiers: []}, intent.calls: {tiers: []}}}]"


@pytest.mark.parametrize(
    ("content", "is_json", "words"),
    [
        (b"", False, "object"),
        (b"prices: []", False, "1 to 100"),
        (b"prices: [{]", False, "no YAML"),
        (b"{", True, "not valid JSON"),
        (b"\xff\xfe", False, "UTF-8"),
        (b"a: \x00", False, "no YAML"),
        (DEEP.encode(), False, "nested too deeply"),
        (DEEP.encode(), True, "nested too deeply"),
        (b"a: &x [1]\nb: *x", False, "Anchors"),
        (b"prices: !!python/object/apply:os.system [echo]", False, "object"),
        (b"prices: !!python/name:os.system ''", False, "tag"),
        (TWICE.encode(), False, "prices[0].meters.intent.calls: This is there twice."),
        (b'{"prices": [{"plan": "a", "plan": "b"}]}', True, "prices[0].plan: This is there twice."),
        (b"prices: [{minimum: 010}]", False, "prices[0].minimum: Write a whole"),
        (b"prices: [{minimum: 1:30}]", False, "prices[0].minimum: Write a whole"),
        (b"prices: [{minimum: 0x10}]", False, "prices[0].minimum: Write a whole"),
        (UNENDING, False, "prices[0].minimum: An amount"),
        (b" " * (MAX_FILE_BYTES + 1), False, "at most 256 KB"),
        (b"---\na: 1\n---\nb: 1\n", False, "no YAML"),
        (b'{"prices": [{"plan": "a\\u0000"}]}', True, "prices[0].plan: A text"),
        (b'{"prices": [{"\\ud800": 1}]}', True, "prices[0]: A text"),
        (b'{"prices": [{"plan": "%s"}]}' % (b"x" * 201), True, "prices[0].plan: A text"),
    ],
)  # fmt: skip
def test_what_is_no_price_file_is_refused(content: bytes, is_json: bool, words: str) -> None:
    with pytest.raises(PriceFileError) as refusal:
        read_price_file(content, is_json)
    assert words in refusal.value.message


def test_values_that_are_no_file_are_refused() -> None:
    for value in (None, 3, "prices", {"prices": {}}, {"prices": [3]}):
        with pytest.raises(PriceFileError):
            draft_prices(value)
