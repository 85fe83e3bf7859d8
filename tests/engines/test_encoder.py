"""Any transformers encoder by name or path, and the heads that are fitted to it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from infra.errors import StartupError
from infra.settings import Settings
from serving.engines.encoder import BUNDLED_IDENTITY, TransformersEncoder
from serving.intents.classifier import LinearIntentClassifier
from serving.intents.features import CharacterGrams, EncodedSentences
from serving.intents.fitted import fit, load_fitted
from serving.intents.sets import IntentSet, ready_made_sets
from tests.engines.tiny_models import ENCODER_DIMENSIONS, make_encoder, make_vits

TEXTS = ["Where is my order?", "I want my money back.", "", "word " * 400, "Cancel it"]
OF_FIRST_TOKEN = {"word_embedding_dimension": ENCODER_DIMENSIONS, "pooling_mode_cls_token": True}
SETS = {known.name: known for known in ready_made_sets()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("models") / "tiny-bert")


@pytest.fixture(scope="module")
def encoder(folder: Path) -> TransformersEncoder:
    return TransformersEncoder(str(folder), threads=2)


@pytest.fixture(scope="module")
def replica(folder: Path) -> Any:
    """The deployment as settings make it, in this process."""
    from ray import serve

    from serving.applications import applications

    made = applications(Settings(intent_model=str(folder)), 2, local=True, has_gpu=False)["intent"]
    return serve.run(made, name="intent", _local_testing_mode=True)


class EncoderThatKnows:
    """Gives each example the vector of its intent, as an encoder of the set's language nearly does."""

    identity = "knows one set by heart"

    def __init__(self, intent_set: IntentSet) -> None:
        texts, labels = intent_set.labelled()
        self._label = dict(zip(texts, labels, strict=True))
        self._axes = np.eye(len(intent_set.intents), dtype=np.float32)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._axes[[self._label[text] for text in texts]]


def test_it_says_which_model_encodes(encoder: TransformersEncoder) -> None:
    info = encoder.info
    assert (info.product, info.engine, info.model) == ("intent", "transformers-linear", "tiny-bert")
    assert len(info.version) == 12  # of the weights' digest
    assert encoder.identity != BUNDLED_IDENTITY


def test_a_vector_is_the_mean_over_the_tokens_in_any_company(encoder: TransformersEncoder) -> None:
    together = encoder.encode(TEXTS)
    assert together.shape == (len(TEXTS), ENCODER_DIMENSIONS)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([encoder.encode([text]) for text in TEXTS])
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(together[0], by_hand(encoder, TEXTS[0]).mean(0) / norm(encoder, TEXTS[0]), atol=1e-5)


@pytest.mark.parametrize("pooling", [OF_FIRST_TOKEN, {"pooling_mode": "cls"}])
def test_a_model_that_asks_for_its_first_token_is_read_by_it(
    tmp_path: Path, encoder: TransformersEncoder, pooling: dict[str, object]
) -> None:
    first = TransformersEncoder(str(make_encoder(tmp_path / "cls", pooling)), threads=2)
    expected = by_hand(encoder, TEXTS[0])[0]  # the weights are the same
    vector = first.encode(TEXTS)[0]
    assert np.allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)
    assert not np.allclose(vector, encoder.encode(TEXTS)[0], atol=1e-2)


def test_a_kept_head_is_never_used_with_another_encoder(encoder: TransformersEncoder) -> None:
    fitted = load_fitted(SETS["retail-en"], encoder)
    assert isinstance(fitted.features, EncodedSentences)
    assert fitted.head.weights.shape == (ENCODER_DIMENSIONS, 14)  # the kept one has 384 rows
    fresh = fit(SETS["retail-en"], EncodedSentences(encoder))
    assert np.array_equal(fitted.head.weights, fresh.head.weights)
    assert fitted.threshold == fresh.threshold


def test_a_kept_head_of_another_encoder_is_refused_even_where_it_would_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The digest has the encoder in it: a bundled encoder of another version has no kept heads."""
    bundled = TransformersEncoder(None, threads=2)
    assert load_fitted(SETS["retail-en"], bundled)
    monkeypatch.setattr("serving.intents.fitted.BUNDLED_IDENTITY", "of a later wheel")
    monkeypatch.setattr(bundled, "identity", "of a later wheel")
    with pytest.raises(StartupError, match="not of these examples and this encoder"):
        load_fitted(SETS["retail-en"], bundled)


def test_a_set_of_another_language_takes_what_knows_it_better(encoder: TransformersEncoder) -> None:
    chinese = SETS["retail-zh-TW"]
    assert isinstance(load_fitted(chinese, encoder).features, CharacterGrams)
    taken = load_fitted(chinese, EncoderThatKnows(chinese))
    assert isinstance(taken.features, EncodedSentences)
    assert taken.accuracy == 1


def test_a_head_that_is_fitted_anew_knows_its_examples_far_better_than_chance(
    encoder: TransformersEncoder,
) -> None:
    known = SETS["banking-en"]
    classifier = LinearIntentClassifier(encoder, encoder.info, [known])
    texts, labels = known.labelled()
    answers = classifier.classify(known.name, texts, 1, None)
    right = [known.intents[label].name == a.intent for label, a in zip(labels, answers, strict=True)]
    assert sum(right) / len(right) > 0.25  # of 14 intents, by words whose vectors mean nothing


async def test_the_replica_that_settings_choose_answers_for_every_set(replica: Any) -> None:
    info, sets = await replica.describe.remote()
    assert info.engine == "transformers-linear"
    assert {known.name for known in sets} == SETS.keys()
    (english,) = await replica.classify.remote("retail-en", ["Where is my order?"], 3, None, {})
    assert len(english.ranking) == 3
    (chinese,) = await replica.classify.remote("retail-zh-TW", ["我要取消訂單"], 1, 0.0, {})
    assert chinese.intent == "cancel_order"


def test_start_up_says_that_a_model_is_no_encoder(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match=r"INTENT_MODEL: .* gives no vectors for sentences"):
        TransformersEncoder(str(make_vits(tmp_path / "vits")), threads=1)
    with pytest.raises(StartupError, match=r"INTENT_MODEL=/no/such/model: there is no such folder"):
        TransformersEncoder("/no/such/model", threads=1)


def by_hand(encoder: TransformersEncoder, text: str) -> NDArray[np.float32]:
    """The last layer over a text's tokens, one row each."""
    import torch

    with torch.inference_mode():
        return encoder._model(**encoder._tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()


def norm(encoder: TransformersEncoder, text: str) -> float:
    return float(np.linalg.norm(by_hand(encoder, text).mean(0)))
