"""Heads of the ready-made sets: kept beside them (`heads/*.npz`), or fitted at start.

The kept heads are of the bundled encoder, and of character grams. Fitting all of them takes a minute; reading
them takes milliseconds, so a replica is ready at once. A head names the digest of what it was fitted to,
encoder and examples: one that belongs to others is refused. With another encoder heads are fitted anew.

`python -m serving.intents.fitted` fits and writes them anew, after a set's examples or the bundled encoder
were changed.
"""

import hashlib
import sys
from importlib import resources
from pathlib import Path

import msgspec
import numpy as np

from infra.errors import StartupError
from serving.contract import SentenceEncoder, primary_language
from serving.engines.encoder import BUNDLED_IDENTITY, TransformersEncoder
from serving.intents.features import CharacterGrams, EncodedSentences, Features
from serving.intents.head import LinearHead, cross_validate, fit_head
from serving.intents.sets import IntentSet, ready_made_sets


class FittedSet(msgspec.Struct, frozen=True):
    """A set ready to answer.

    `threshold` is its default for `out_of_scope`; `accuracy` is that of cross-validation over its examples.
    """

    intent_set: IntentSet
    features: Features
    head: LinearHead
    threshold: float
    accuracy: float


def load_fitted(intent_set: IntentSet, encoder: SentenceEncoder) -> FittedSet:
    """A set with the head that goes with this encoder.

    With the bundled encoder that is the kept one. With another, a head is fitted to its vectors, which takes
    some seconds. Whether that encoder knows the set's language nobody says: a set that has a kept head of
    character grams keeps it where that is the better one, by cross-validation over the set's examples.

    Raises:
        StartupError: there is no kept head, or it was fitted to something else.
    """
    if encoder.identity == BUNDLED_IDENTITY:
        return _kept(intent_set, bundled_features(intent_set, encoder))
    fitted = fit(intent_set, EncodedSentences(encoder))
    if _is_english(intent_set):
        return fitted
    kept = _kept(intent_set, bundled_features(intent_set, encoder))
    return kept if kept.accuracy >= fitted.accuracy else fitted


def fit(intent_set: IntentSet, features: Features) -> FittedSet:
    """Fit a set's head and threshold to its examples. Deterministic."""
    texts, labels = intent_set.labelled()
    vectors, truth = features.transform(texts), np.array(labels, np.int64)
    validation = cross_validate(vectors, truth, features.inverse_penalty)
    head = fit_head(vectors, truth, features.inverse_penalty)
    return FittedSet(intent_set, features, head, round(validation.threshold, 3), validation.accuracy)


def bundled_features(intent_set: IntentSet, encoder: SentenceEncoder) -> Features:
    """The bundled encoder knows English only; elsewhere character grams do better.

    Joining both for English was measured and is no better than the encoder alone.
    """
    return EncodedSentences(encoder) if _is_english(intent_set) else CharacterGrams(intent_set.labelled()[0])


def digest(intent_set: IntentSet, features: Features) -> str:
    """What a head depends on: the examples in their order, what is seen of them, and how it is fitted."""
    basis = (intent_set, features.identity, features.inverse_penalty)
    return hashlib.sha256(msgspec.json.encode(basis)).hexdigest()


def _kept(intent_set: IntentSet, features: Features) -> FittedSet:
    file = resources.files("serving.intents") / "heads" / f"{intent_set.name}.npz"
    if file.is_file():
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            if str(arrays["digest"]) == digest(intent_set, features):
                head = LinearHead(arrays["weights"].astype(np.float32), arrays["bias"].astype(np.float32))
                threshold, accuracy = float(arrays["threshold"]), float(arrays["accuracy"])
                return FittedSet(intent_set, features, head, threshold, accuracy)
    raise StartupError(
        f"The head of the intent set {intent_set.name} is not of these examples and this encoder. "
        "Run `python -m serving.intents.fitted`."
    )


def _is_english(intent_set: IntentSet) -> bool:
    return primary_language(intent_set.language) == "en"


def main() -> None:
    """Fit every ready-made set and write its head."""
    encoder = TransformersEncoder(None, threads=2)
    folder = Path(__file__).parent / "heads"
    folder.mkdir(exist_ok=True)
    for intent_set in ready_made_sets():
        fitted = fit(intent_set, bundled_features(intent_set, encoder))
        np.savez_compressed(
            folder / f"{intent_set.name}.npz",
            digest=np.array(digest(intent_set, fitted.features)),
            weights=fitted.head.weights.astype(np.float16),  # half the size; scores move by a thousandth
            bias=fitted.head.bias,
            threshold=np.array(fitted.threshold),
            accuracy=np.array(fitted.accuracy),
        )
        sys.stdout.write(f"{intent_set.name}: threshold {fitted.threshold}, accuracy {fitted.accuracy:.3f}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
