"""What a linear head sees of a sentence."""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from serving.contract import SentenceEncoder

_NOT_WORD = re.compile(r"[\W_]+")
_LONGEST_GRAM = 2


class Features(Protocol):
    """Sentences to vectors of length 1 (or less, where a sentence holds what no example held).

    `identity` tells apart what gives other vectors. `inverse_penalty` is the inverse strength of the penalty
    that suits a head over them: by cross-validation over the examples of the ready-made sets (never over the
    held-out sentences), of 1 to 100.
    """

    @property
    def identity(self) -> str: ...

    @property
    def inverse_penalty(self) -> float: ...

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row per text."""
        ...


class EncodedSentences:
    """The sentence encoder's vectors: the same for every set."""

    inverse_penalty = 10.0

    def __init__(self, encoder: SentenceEncoder) -> None:
        self.identity = encoder.identity
        self._encoder = encoder

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._encoder.encode(texts)


class CharacterGrams:
    """Which single characters and pairs of them a text holds: for Chinese, a character is near a word.

    Texts are folded first (NFKC, lower case, no punctuation). A gram weighs the root of its smoothed
    inverse document frequency over the examples, ln((1 + examples) / (1 + those that hold it)) + 1. Grams
    that no example held count towards the length only, so an unfamiliar text comes out short and its best
    probability low. Triples, and no weights, were measured and are no better.
    """

    identity = "characters"
    inverse_penalty = 30.0

    def __init__(self, examples: Sequence[str]) -> None:
        holders = Counter(gram for text in examples for gram in _grams(text))
        self._column = {gram: column for column, gram in enumerate(sorted(holders))}
        total = 1 + len(examples)
        self._weight = np.array(
            [math.sqrt(math.log(total / (1 + holders[gram])) + 1) for gram in self._column], np.float32
        )
        self._unknown_square = math.log(total) + 1

    def transform(self, texts: Sequence[str]) -> NDArray[np.float32]:
        rows = np.zeros((len(texts), len(self._column)), np.float32)
        for index, text in enumerate(texts):
            row = rows[index]
            grams = _grams(text)
            known = [self._column[gram] for gram in grams if gram in self._column]
            row[known] = self._weight[known]
            unknown = len(grams) - len(known)
            length = math.sqrt(float(row @ row) + unknown * self._unknown_square)
            if length:
                rows[index] /= length
        return rows


def _grams(text: str) -> set[str]:
    folded = _NOT_WORD.sub("", unicodedata.normalize("NFKC", text).lower())
    return {
        folded[start : start + length]
        for length in range(1, _LONGEST_GRAM + 1)
        for start in range(len(folded) - length + 1)
    }
