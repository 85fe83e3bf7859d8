"""Which voice speaks which part of a text."""

import re
from collections.abc import Iterator

MANDARIN = "cmn"

# OpenAI's voice names, each a language and a variant of eSpeak NG of its own. `alloy` has the variant that
# recognisers and people understand best.
OPENAI_VOICES: dict[str, tuple[str, str]] = {
    "alloy": ("en-us", "f2"),
    "ash": ("en-us", "edward"),
    "ballad": ("en", "benjamin"),
    "cedar": ("en-us", "Henrique"),
    "coral": ("en-us", "f3"),
    "echo": ("en-us", "adam"),
    "fable": ("en", "Hugo"),
    "marin": ("en-us", "anika"),
    "nova": ("en-us", "f4"),
    "onyx": ("en-us", "caleb"),
    "sage": ("en-us", "Annie"),
    "shimmer": ("en-us", "f1"),
    "verse": ("en-us", "Diogo"),
}

_LONGEST_SENTENCE = 400
_SENTENCE_END = re.compile(r"(?<=[。！？；…\n])|(?<=[.!?;])(?=\s)|(?<=[.!?][\"'”’）)])(?=\s)")
_BREATH = re.compile(r"(?<=[,，、:：\s])")
# Ideographs with their extensions and compatibility forms (Unicode 16, chapter 18), and bopomofo.
_HAN = re.compile(r"[\u3007\u3105-\u312f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")


def sentences(text: str) -> Iterator[str]:
    """Split a text into sentences; one longer than 400 characters is split where a reader would breathe."""
    for sentence in _SENTENCE_END.split(text):
        yield from _breaths(sentence) if len(sentence) > _LONGEST_SENTENCE else (sentence,)


def _breaths(sentence: str) -> Iterator[str]:
    part = ""
    for piece in _BREATH.split(sentence):
        if part and len(part) + len(piece) > _LONGEST_SENTENCE:
            yield part
            part = ""
        part += piece
        while len(part) > _LONGEST_SENTENCE:
            yield part[:_LONGEST_SENTENCE]
            part = part[_LONGEST_SENTENCE:]
    if part:
        yield part


def runs(sentence: str) -> Iterator[tuple[bool, str]]:
    """Split a sentence into runs of (is Chinese, text).

    Digits, spaces and punctuation stay with what comes before them, at the beginning with what follows: so
    a number is read in the language of the words that lead to it.
    """
    run = ""
    chinese: bool | None = None
    for character in sentence:
        kind = True if _HAN.match(character) else False if character.isalpha() else chinese
        if chinese is not None and kind != chinese:
            yield chinese, run
            run = ""
        run += character
        chinese = kind
    if run:
        yield bool(chinese), run
