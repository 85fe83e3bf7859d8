"""What is counted. Every meter counts whole units; the database holds the same table for its foreign keys."""

from typing import Final

import msgspec

from infra.errors import InvalidValueError

ASR_AUDIO_MS: Final = "asr.audio_ms"
INTENT_CALLS: Final = "intent.calls"
TTS_CHARACTERS: Final = "tts.characters"
MONEY: Final = "money"  # no meter: what a cap counts that is not in units
CREDIT: Final = "credit"  # prepaid: a cap in money over all months


class Meter(msgspec.Struct, frozen=True):
    """One meter: its name, the product it measures, and what one unit is."""

    meter: str
    product: str
    unit: str


METERS: Final = (
    Meter(ASR_AUDIO_MS, "asr", "millisecond of audio"),
    Meter(INTENT_CALLS, "intent", "call"),
    Meter(TTS_CHARACTERS, "tts", "character"),
)
METER_NAMES: Final = frozenset(meter.meter for meter in METERS)


def check_meter(name: str) -> None:
    """Refuse a name that is no meter's.

    Raises:
        InvalidValueError: there is no such meter.
    """
    if name not in METER_NAMES:
        raise InvalidValueError(
            f"There is no such meter. Use one of: {', '.join(sorted(METER_NAMES))}.", "meter"
        )
