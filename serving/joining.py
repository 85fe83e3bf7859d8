"""Pieces of text to one text. Pure."""

import re
from collections.abc import Iterable

# Chinese, Japanese, Thai, Lao, Burmese, Khmer and Tibetan put no spaces between words; Korean does.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
)


def join(texts: Iterable[str]) -> str:
    """Join with single spaces, and with none where a piece ends or begins in a script that has no spaces."""
    joined = ""
    for text in texts:
        joined += gap(joined, text) + text
    return joined


def gap(before: str, after: str) -> str:
    """What `join` puts between two pieces, of which it looks at the characters that meet."""
    if not before or not after or _UNSPACED.match(before[-1]) or _UNSPACED.match(after[0]):
        return ""
    return " "
