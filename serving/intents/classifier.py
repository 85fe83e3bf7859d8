"""All ready-made sets behind one door."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from serving.contract import (
    EngineInfo,
    IntentAnswer,
    IntentInfo,
    IntentScore,
    IntentSetInfo,
    SentenceEncoder,
)
from serving.errors import UnknownIntentSetError
from serving.intents.fitted import FittedSet, load_fitted
from serving.intents.sets import IntentSet


class LinearIntentClassifier:
    """A linear head per set: over the encoder's vectors, or over characters (see `load_fitted`).

    Args:
        sets: their heads are read or fitted here, at construction.

    Raises:
        StartupError: a set's head is missing or stale.
    """

    def __init__(self, encoder: SentenceEncoder, info: EngineInfo, sets: Sequence[IntentSet]) -> None:
        self.info = info
        self._fitted = {known.name: load_fitted(known, encoder) for known in sets}
        self.intent_sets = tuple(_info(fitted) for fitted in self._fitted.values())

    def classify(
        self, set_name: str, texts: Sequence[str], top_k: int | None, threshold: float | None
    ) -> tuple[IntentAnswer, ...]:
        """See `IntentClassifier.classify`; without a threshold the set's own applies.

        Raises:
            UnknownIntentSetError: there is no set of that name.
        """
        fitted = self._fitted.get(set_name)
        if fitted is None:
            raise UnknownIntentSetError
        limit = fitted.threshold if threshold is None else threshold
        names = [intent.name for intent in fitted.intent_set.intents]
        probabilities = fitted.head.probabilities(fitted.features.transform(texts))
        return tuple(_answer(row, names, top_k, limit) for row in probabilities)


def _answer(
    probabilities: NDArray[np.float32], names: list[str], top_k: int | None, threshold: float
) -> IntentAnswer:
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    ranking = tuple(IntentScore(names[index], round(float(probabilities[index]), 6)) for index in order)
    best = ranking[0]
    return IntentAnswer(best.name, best.score, ranking, best.score < threshold)


def _info(fitted: FittedSet) -> IntentSetInfo:
    intent_set = fitted.intent_set
    return IntentSetInfo(
        name=intent_set.name,
        language=intent_set.language,
        description=intent_set.description,
        intents=tuple(IntentInfo(intent.name, intent.description) for intent in intent_set.intents),
        threshold=fitted.threshold,
    )
