"""Price files: price versions as YAML or JSON, read strictly and exactly. Pure.

    prices:
      - plan: pro                 # a plan of `aiaas plan list`
        currency: USD
        tenant: ten_...           # its own prices; left out: everyone's on the plan
        valid_from: 2026-01-01    # months that begin then or later, on each tenant's clock
        minimum: "50.00"          # a month
        discount_percent: "10"
        meters:                   # every meter has a price
          intent.calls:
            per: 1                # units that a tier's price is for; of a package, its size
            model: graduated      # or per_unit, volume, package
            free_units: 1000
            tiers:                # over the units after the free ones
              - {up_to: 100000, price: "0.0004"}
              - {price: "0.00032"}

Numbers are kept as they are written: no amount goes through a float. Whatever is wrong is named by its place,
such as `prices[0].meters.intent.calls.tiers[1]`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any, Final, TypeVar, cast

import msgspec
import yaml

from billing.meters import METER_NAMES
from billing.money import MAX_NANOS, currency, parse_amount
from billing.prices import PPM, InvalidPriceError, MeterPrice, PriceModel, PriceVersion, Tier
from infra.errors import InvalidValueError

MAX_FILE_BYTES: Final = 256 * 1024
MAX_PRICES: Final = 100
MAX_TIERS: Final = 100
_MAX_DEPTH: Final = 20
_MAX_TEXT_LENGTH: Final = 200
_NANOS_OF_A_PERCENT: Final = 10**9
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_WHOLE: Final = re.compile(r"-?(0|[1-9][0-9_]*)")
# A day begins first there: months that begin on it, on any clock, begin then or later.
_FIRST_ZONE: Final = timezone(timedelta(hours=14))

T = TypeVar("T")


class PriceFileError(InvalidPriceError):
    """What is wrong with a price file; `param` is the place in it."""

    def __init__(self, place: str, what: str) -> None:
        super().__init__(f"{place}: {what}" if place else what, place or None)


class DraftPrice(msgspec.Struct, frozen=True):
    """A price version that is not stored: its id is empty.

    Attributes:
        place: where it is in its file.
        says_when: the file has `valid_from`; else `version.valid_from` is None and still to be decided.
    """

    place: str
    version: PriceVersion
    says_when: bool


class _Tier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    price: str | int
    up_to: int | None = None


class _Meter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    tiers: list[_Tier]
    per: int = 1
    model: PriceModel = "graduated"
    free_units: int = 0


class _Price(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    plan: str
    currency: str
    meters: dict[str, Any]
    tenant: str | None = None
    valid_from: str | None = None
    minimum: str | int = 0
    discount_percent: str | int = 0


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    prices: list[Any]


def read_price_file(content: bytes, is_json: bool = False) -> list[DraftPrice]:
    """The price versions of a file, as far as it can be checked by itself.

    Raises:
        PriceFileError: the first thing that is wrong, and where.
    """
    return draft_prices(decode(content, is_json))


def decode(content: bytes, is_json: bool) -> Any:
    """What a file says, as plain values; a number with a point is the text of it.

    Raises:
        PriceFileError: it is too large or nested too deeply, names a thing twice, or cannot be read.
    """
    if len(content) > MAX_FILE_BYTES:
        raise PriceFileError("", f"A price file has at most {MAX_FILE_BYTES // 1024} KB.")
    try:
        text = content.decode()
        return _decode_json(text) if is_json else _decode_yaml(text)
    except UnicodeDecodeError:
        raise PriceFileError("", "A price file is UTF-8 text.") from None
    except RecursionError:
        raise PriceFileError("", "This price file is nested too deeply.") from None


def draft_prices(value: Any) -> list[DraftPrice]:
    """The price versions that decoded values say.

    Raises:
        PriceFileError: the first thing that is wrong, and where.
    """
    prices = _convert(value, _File, "").prices
    if not 1 <= len(prices) <= MAX_PRICES:
        raise PriceFileError("prices", f"A price file has 1 to {MAX_PRICES} prices.")
    return [_draft(price, f"prices[{number}]") for number, price in enumerate(prices)]


def first_moment_of(day: date) -> datetime:
    """The moment from which on a month that begins on this day, on anybody's clock, begins."""
    return datetime.combine(day, time(), _FIRST_ZONE).astimezone(UTC)


def _draft(value: Any, place: str) -> DraftPrice:
    read = _convert(value, _Price, place)
    try:
        currency(read.currency)
    except InvalidValueError as error:
        raise PriceFileError(f"{place}.currency", error.message) from None
    valid_from, says_when = _valid_from(read.valid_from, f"{place}.valid_from")
    version = PriceVersion(
        price_version_id="",
        plan=read.plan,
        currency=read.currency,
        valid_from=valid_from,
        prices=_meters(read.meters, f"{place}.meters"),
        tenant_id=read.tenant,
        minimum_nanos=_amount(read.minimum, f"{place}.minimum"),
        discount_ppm=_percent(read.discount_percent, f"{place}.discount_percent"),
    )
    return DraftPrice(place, version, says_when)


def _meters(meters: Mapping[str, Any], place: str) -> dict[str, MeterPrice]:
    for name in meters:
        if name not in METER_NAMES:
            known = ", ".join(sorted(METER_NAMES))
            raise PriceFileError(f"{place}.{name}", f"There is no such meter. Use one of: {known}.")
    if missing := sorted(METER_NAMES - meters.keys()):
        raise PriceFileError(place, f"{missing[0]} has no price. Give it one: 0 where it costs nothing.")
    return {name: _meter(meters[name], f"{place}.{name}") for name in sorted(meters)}


def _meter(value: Any, place: str) -> MeterPrice:
    read = _convert(value, _Meter, place)
    for name, number in (("per", read.per), ("free_units", read.free_units)):
        if number > MAX_NANOS:
            raise PriceFileError(f"{place}.{name}", "This number is too large.")
    if len(read.tiers) > MAX_TIERS:
        raise PriceFileError(f"{place}.tiers", f"A price has at most {MAX_TIERS} tiers.")
    _check_tiers(read.tiers, read.free_units, f"{place}.tiers")
    tiers = tuple(
        Tier(tier.up_to, _amount(tier.price, f"{place}.tiers[{number}].price"))
        for number, tier in enumerate(read.tiers)
    )
    try:
        return MeterPrice(read.per, tiers, read.model, read.free_units)
    except InvalidPriceError as error:
        raise PriceFileError(f"{place}.{error.param}", error.message) from None


def _check_tiers(tiers: Sequence[_Tier], free_units: int, place: str) -> None:
    """Each tier begins where the one before it ends, and the last one has no end."""
    begin = 0
    for number, tier in enumerate(tiers):
        here, is_last = f"{place}[{number}]", number == len(tiers) - 1
        if tier.up_to is None:
            if not is_last:
                raise PriceFileError(
                    here, "Tiers overlap: one without `up_to` goes on for ever, so it is last."
                )
            return
        if tier.up_to <= begin:
            raise PriceFileError(
                here, f"Tiers overlap: this one begins after {begin} units and ends at {tier.up_to}."
            )
        if tier.up_to + free_units > MAX_NANOS:
            raise PriceFileError(f"{here}.up_to", "This number is too large.")
        if is_last:
            raise PriceFileError(
                here, f"There is a gap: units after {tier.up_to} have no price. The last tier has no `up_to`."
            )
        begin = tier.up_to


def _amount(value: str | int, place: str) -> int:
    text = str(value)
    if text.startswith("-"):
        raise PriceFileError(place, "An amount is not negative.")
    try:
        return parse_amount(text)
    except InvalidValueError as error:
        raise PriceFileError(place, error.message) from None


def _percent(value: str | int, place: str) -> int:
    """A percentage as millionths."""
    ppm, rest = divmod(_amount(value, place) * PPM, 100 * _NANOS_OF_A_PERCENT)
    if rest or ppm > PPM:
        raise PriceFileError(place, "A discount is 0 to 100 percent, with four decimals at most.")
    return ppm


def _valid_from(text: str | None, place: str) -> tuple[datetime | None, bool]:
    """The moment, None for all months, and whether the file says anything of it."""
    if text is None:
        return None, False
    if text == "all":
        return None, True
    try:
        is_date = _DATE.fullmatch(text)
        moment = first_moment_of(date.fromisoformat(text)) if is_date else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        moment = None
    if moment is None or moment.tzinfo is None or not 1970 <= moment.year <= 9000:
        raise PriceFileError(
            place, "Write a date such as 2026-01-01, a moment such as 2026-01-01T00:00:00+08:00, or all."
        )
    return moment.astimezone(UTC), True


def _convert(value: Any, kind: type[T], place: str) -> T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        what, _, path = str(error).partition(" - at `$")
        where = (place + path.rstrip("`")).lstrip(".")
        raise PriceFileError(where, f"{what}.") from None


def _decode_json(text: str) -> Any:
    try:
        value = json.loads(text, parse_float=str, parse_constant=str, object_pairs_hook=_Pairs)
    except ValueError as error:
        where = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise PriceFileError(where, "This is not valid JSON.") from None
    return _build(value, "", 0)


def _decode_yaml(text: str) -> Any:
    try:
        for event in yaml.parse(text, yaml.SafeLoader):  # references make small files grow without end
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                raise PriceFileError(f"line {_line(event.start_mark)}", "Anchors and aliases are not taken.")
        return _build(yaml.compose(text, yaml.SafeLoader), "", 0)
    except yaml.MarkedYAMLError as error:
        line = _line(error.problem_mark)
        raise PriceFileError(f"line {line}", f"This is no YAML: {error.problem}.") from None
    except yaml.YAMLError:
        raise PriceFileError("", "This is no YAML: it has characters that are not text.") from None


def _line(mark: Any) -> int:
    return mark.line + 1 if mark else 1


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON, its names as they come."""


def _build(read: Any, place: str, depth: int) -> Any:
    """Plain values of what was read: numbers as they are written, nothing made into a date or a float."""
    if depth > _MAX_DEPTH:
        raise PriceFileError("", "This price file is nested too deeply.")
    if isinstance(read, yaml.MappingNode):
        read = _Pairs((_name(key, place), value) for key, value in read.value)
    elif isinstance(read, yaml.SequenceNode):
        read = read.value
    if isinstance(read, _Pairs):
        built: dict[str, Any] = {}
        for given, value in read:
            name = _text(given, place)
            inside = f"{place}.{name}" if place else name
            if name in built:
                raise PriceFileError(inside, "This is there twice.")
            built[name] = _build(value, inside, depth + 1)
        return built
    if isinstance(read, list):
        values = cast("list[Any]", read)
        return [_build(value, f"{place}[{number}]", depth + 1) for number, value in enumerate(values)]
    value = _scalar(read, place) if isinstance(read, yaml.ScalarNode) else read
    return _text(value, place) if isinstance(value, str) else value


def _text(text: str, place: str) -> str:
    """Refuse what is no text, or far too long to be anything here."""
    if len(text) > _MAX_TEXT_LENGTH or not text.isprintable():
        raise PriceFileError(
            place, f"A text has at most {_MAX_TEXT_LENGTH} characters, all of them printable."
        )
    return text


def _name(key: yaml.Node, place: str) -> str:
    if not isinstance(key, yaml.ScalarNode):
        raise PriceFileError(place, "A name is a word.")
    return key.value


def _scalar(node: yaml.ScalarNode, place: str) -> Any:
    kind, text = node.tag.removeprefix("tag:yaml.org,2002:"), node.value
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() in ("true", "yes", "on")
    if kind == "int":
        if not _WHOLE.fullmatch(text) or len(text) > 30:
            raise PriceFileError(place, "Write a whole number in decimal digits.")
        return int(text.replace("_", ""))
    if kind in ("str", "float", "timestamp"):
        return text
    raise PriceFileError(place, f"A tag ({node.tag}) is not taken.")
