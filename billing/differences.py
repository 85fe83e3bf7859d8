"""What differs between two records, named leaf by leaf. Pure."""

from collections.abc import Sequence
from typing import Any, cast

import msgspec


class Difference(msgspec.Struct, frozen=True):
    """One thing that is not as it was computed.

    Attributes:
        line: the invoice's line; None where it is of the whole invoice.
        what: the place in words: `line 2, asr.audio_ms`, `invoice`, `seal 2025-10 asr.audio_ms`, `chain`.
        field: such as `units`, or `tiers.1.amount_nanos`: the second tier's amount.
        on_record, computed: as text; empty where there is nothing.
    """

    line: int | None
    what: str
    field: str
    on_record: str
    computed: str


def describe(difference: Difference) -> str:
    """One difference as a line of text."""
    on_record, computed = difference.on_record or "nothing", difference.computed or "nothing"
    return f"{difference.what}, {difference.field}: on record {on_record}, computed {computed}"


def differing(line: int | None, what: str, field: str, on_record: Any, computed: Any) -> list[Difference]:
    """Each leaf of two JSON values that is not the same, by its path below `field`."""
    if on_record == computed:
        return []
    kept, made = _parts(on_record), _parts(computed)
    if kept is None or made is None:
        return [Difference(line, what, field or "all of it", _text(on_record), _text(computed))]
    return [
        one
        for name in {**kept, **made}
        for one in differing(line, what, f"{field}.{name}" if field else name, kept.get(name), made.get(name))
    ]


def _parts(value: Any) -> dict[str, Any] | None:
    """The parts of an object or an array by their names; None where it has none."""
    if isinstance(value, dict):
        return cast(dict[str, Any], value)
    if isinstance(value, list | tuple):
        return {str(index): part for index, part in enumerate(cast(Sequence[Any], value))}
    return None


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
