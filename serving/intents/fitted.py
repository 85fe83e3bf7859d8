"""Heads of the ready-made sets, fitted once and kept beside them (`heads/*.npz`).

Fitting all of them takes a minute; reading them takes milliseconds, so a replica is ready at once. A head
names the digest of what it was fitted to: one that belongs to other examples is refused.

`python -m serving.intents.fitted` fits and writes them anew, after a set's examples were changed.
"""

import hashlib
import sys
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np

from infra.errors import StartupError
from serving.contract import SentenceEncoder, primary_language
from serving.intents.features import CharacterGrams, EncodedSentences, Features
from serving.intents.head import LinearHead, cross_validated_threshold, fit_head
from serving.intents.sets import IntentSet, ready_made_sets

# Inverse strength of the penalty, by cross-validation over the examples of the ready-made sets (never over
# the held-out sentences): 1 to 100 were tried for each kind of features.
_ENCODER_INVERSE_PENALTY = 10.0
_CHARACTER_INVERSE_PENALTY = 30.0


class FittedSet(msgspec.Struct, frozen=True):
    """A set ready to answer; `threshold` is its default for `out_of_scope`."""

    intent_set: IntentSet
    features: Features
    head: LinearHead
    threshold: float


def load_fitted(intent_set: IntentSet, encoder: SentenceEncoder) -> FittedSet:
    """Read a set's head.

    Raises:
        StartupError: there is none, or it was fitted to other examples.
    """
    file = resources.files("serving.intents") / "heads" / f"{intent_set.name}.npz"
    features = _features(intent_set, encoder)
    if file.is_file():
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            if str(arrays["digest"]) == digest(intent_set):
                head = LinearHead(arrays["weights"].astype(np.float32), arrays["bias"].astype(np.float32))
                return FittedSet(intent_set, features, head, float(arrays["threshold"]))
    raise StartupError(
        f"The head of the intent set {intent_set.name} is not of these examples. "
        "Run `python -m serving.intents.fitted`."
    )


def fit(intent_set: IntentSet, encoder: SentenceEncoder) -> FittedSet:
    """Fit a set's head and threshold to its examples."""
    texts, labels = intent_set.labelled()
    features = _features(intent_set, encoder)
    vectors, truth = features.transform(texts), np.array(labels, np.int64)
    inverse_penalty = _ENCODER_INVERSE_PENALTY if _is_english(intent_set) else _CHARACTER_INVERSE_PENALTY
    threshold = cross_validated_threshold(vectors, truth, inverse_penalty)
    return FittedSet(intent_set, features, fit_head(vectors, truth, inverse_penalty), round(threshold, 3))


def digest(intent_set: IntentSet) -> str:
    """What a head depends on: the examples in their order, and how they are fitted."""
    basis = (intent_set, _ENCODER_INVERSE_PENALTY, _CHARACTER_INVERSE_PENALTY)
    return hashlib.sha256(msgspec.json.encode(basis)).hexdigest()


def _features(intent_set: IntentSet, encoder: SentenceEncoder) -> Features:
    """The bundled encoder knows English only; elsewhere character grams do better.

    Joining both for English was measured and is no better than the encoder alone.
    """
    return EncodedSentences(encoder) if _is_english(intent_set) else CharacterGrams(intent_set.labelled()[0])


def _is_english(intent_set: IntentSet) -> bool:
    return primary_language(intent_set.language) == "en"


def main() -> None:
    """Fit every ready-made set and write its head."""
    from serving.engines.minilm import MiniLmEncoder

    encoder = MiniLmEncoder(threads=2)
    folder = Path(__file__).parent / "heads"
    folder.mkdir(exist_ok=True)
    for intent_set in ready_made_sets():
        fitted = fit(intent_set, encoder)
        np.savez_compressed(
            folder / f"{intent_set.name}.npz",
            digest=np.array(digest(intent_set)),
            weights=fitted.head.weights.astype(np.float16),  # half the size; scores move by a thousandth
            bias=fitted.head.bias,
            threshold=np.array(fitted.threshold),
        )
        sys.stdout.write(f"{intent_set.name}: threshold {fitted.threshold}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
