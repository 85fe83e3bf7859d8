"""Chinese text in the script that a language tag asks for, by OpenCC's dictionaries."""

from collections.abc import Sequence
from typing import Any

_SIMPLIFIED = "t2s"
_TRADITIONAL = "s2t"
_TAIWAN = "s2tw"
_HONG_KONG = "s2hk"
_OF_REGION = {
    "TW": _TAIWAN,
    "HK": _HONG_KONG,
    "MO": _HONG_KONG,
    "CN": _SIMPLIFIED,
    "SG": _SIMPLIFIED,
    "MY": _SIMPLIFIED,
}


class ChineseScripts:
    """Characters only: the words stay as they were said (no `軟體` for `软件`).

    A recogniser of Chinese writes either script, whichever it has seen more of. The same text always comes
    out the same; without a region or script in the tag, it stays as it is.
    """

    def __init__(self) -> None:
        from opencc import OpenCC

        names = (_SIMPLIFIED, _TRADITIONAL, _TAIWAN, _HONG_KONG)
        self._converters: dict[str, Any] = {name: OpenCC(name) for name in names}

    def convert(self, text: str, tag: str) -> str:
        """The text in the script of a tag (RFC 5646) such as `zh-TW`, `zh-Hans` or `zh-Hant-HK`."""
        configuration = _configuration(tag)
        return self._converters[configuration].convert(text) if configuration else text

    def convert_words(self, words: Sequence[str], tag: str) -> list[str]:
        """The same for words that make up a text: what a character becomes depends on those around it."""
        converted = self.convert("".join(words), tag)
        if len(converted) != sum(map(len, words)):
            return [self.convert(word, tag) for word in words]
        ends = [sum(map(len, words[: number + 1])) for number in range(len(words))]
        return [converted[end - len(word) : end] for word, end in zip(words, ends, strict=True)]


def _configuration(tag: str) -> str | None:
    language, *subtags = tag.replace("_", "-").upper().split("-")
    if language not in ("ZH", "YUE"):
        return None
    of_region = next((_OF_REGION[subtag] for subtag in subtags if subtag in _OF_REGION), None)
    if "HANS" in subtags:
        return _SIMPLIFIED
    if "HANT" in subtags:
        return _TRADITIONAL if of_region in (None, _SIMPLIFIED) else of_region
    return of_region
