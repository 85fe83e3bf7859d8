"""The ready-made intent sets: how well they do on sentences that nobody fitted them to."""

import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from serving.contract import primary_language
from serving.engines.encoder import TransformersEncoder
from serving.errors import UnknownIntentSetError
from serving.intents.classifier import LinearIntentClassifier
from serving.intents.fitted import bundled_features, fit, load_fitted
from serving.intents.sets import ready_made_sets

HELD_OUT = Path(__file__).parents[1] / "data" / "intent_sets"

# A little below what was measured. The retail sentences were written to share few words with the examples:
# character grams follow them least.
LEAST_ACCURACY = {
    "banking-en": 0.88,
    "banking-zh-TW": 0.95,
    "healthcare-en": 0.90,
    "healthcare-zh-TW": 0.90,
    "retail-en": 0.80,
    "retail-zh-TW": 0.70,
}
LEAST_REJECTED = {"en": 0.44, "zh": 0.24}


class Labelled(msgspec.Struct):
    text: str
    intent: str = ""


class HeldOut(msgspec.Struct):
    set: str
    in_scope: list[Labelled]
    out_of_scope: list[Labelled | str]


@pytest.fixture(scope="module")
def encoder() -> TransformersEncoder:
    return TransformersEncoder(None, threads=2)


@pytest.fixture(scope="module")
def classifier(encoder: TransformersEncoder) -> LinearIntentClassifier:
    return LinearIntentClassifier(encoder, encoder.info, ready_made_sets())


def held_out(name: str) -> HeldOut:
    return msgspec.json.decode((HELD_OUT / f"{name}.json").read_bytes(), type=HeldOut)


@pytest.mark.parametrize("name", sorted(LEAST_ACCURACY))
def test_unseen_sentences_find_their_intent(classifier: LinearIntentClassifier, name: str) -> None:
    sentences = held_out(name).in_scope
    answers = classifier.classify(name, [sentence.text for sentence in sentences], None, None)
    right = [answer.intent == sentence.intent for answer, sentence in zip(answers, sentences, strict=True)]
    assert sum(right) / len(right) >= LEAST_ACCURACY[name]


@pytest.mark.parametrize("name", sorted(LEAST_ACCURACY))
def test_strange_sentences_are_called_out_of_scope_more_often(
    classifier: LinearIntentClassifier, name: str
) -> None:
    sentences = held_out(name)
    strange = [text if isinstance(text, str) else text.text for text in sentences.out_of_scope]
    own = [sentence.text for sentence in sentences.in_scope]
    share = [
        sum(answer.out_of_scope for answer in classifier.classify(name, texts, 1, None)) / len(texts)
        for texts in (strange, own)
    ]
    language = next(known.language for known in classifier.intent_sets if known.name == name)
    assert share[0] >= LEAST_REJECTED[primary_language(language)]
    if name != "retail-zh-TW":
        assert share[0] > share[1] + 0.2


def test_scores_are_probabilities_in_falling_order_and_top_k_bounds_them(
    classifier: LinearIntentClassifier,
) -> None:
    (whole,) = classifier.classify("retail-en", ["Where is my order?"], None, None)
    assert whole.intent == whole.ranking[0].name == "order_status"
    assert math.isclose(sum(score.score for score in whole.ranking), 1, abs_tol=1e-4)
    assert [s.score for s in whole.ranking] == sorted((s.score for s in whole.ranking), reverse=True)
    (bounded,) = classifier.classify("retail-en", ["Where is my order?"], 3, None)
    assert bounded.ranking == whole.ranking[:3]


def test_a_threshold_of_the_request_goes_before_that_of_the_set(classifier: LinearIntentClassifier) -> None:
    text = ["我的訂單現在到哪裡了？"]
    assert classifier.classify("retail-zh-TW", text, 1, 1.0)[0].out_of_scope
    assert not classifier.classify("retail-zh-TW", text, 1, 0.0)[0].out_of_scope


def test_any_text_has_an_answer(classifier: LinearIntentClassifier) -> None:
    texts = ["", " ", "！？", "😀", "x" * 20_000, "Ａｂｃ", "\0"]
    for known in classifier.intent_sets:
        answers = classifier.classify(known.name, texts, 1, None)
        assert all(0 < answer.score <= 1 for answer in answers)


def test_an_unknown_set_is_refused(classifier: LinearIntentClassifier) -> None:
    with pytest.raises(UnknownIntentSetError):
        classifier.classify("retail-fr", ["Bonjour"], 1, None)


def test_texts_do_not_change_each_others_answers(classifier: LinearIntentClassifier) -> None:
    texts = [sentence.text for sentence in held_out("banking-en").in_scope[:40]]
    together = classifier.classify("banking-en", texts, 1, None)
    alone = [classifier.classify("banking-en", [text], 1, None)[0] for text in texts]
    assert [answer.intent for answer in together] == [answer.intent for answer in alone]
    assert np.allclose([a.score for a in together], [a.score for a in alone], atol=1e-4)


def test_heads_kept_with_the_sets_are_those_that_fitting_gives(encoder: TransformersEncoder) -> None:
    banking = next(known for known in ready_made_sets() if known.name == "banking-en")
    kept, fresh = load_fitted(banking, encoder), fit(banking, bundled_features(banking, encoder))
    assert kept.accuracy == pytest.approx(fresh.accuracy, abs=0.01)
    assert kept.threshold == pytest.approx(fresh.threshold, abs=0.002)
    assert np.allclose(kept.head.weights, fresh.head.weights, atol=0.02)


def test_every_set_has_fourteen_intents_of_twenty_or_more_different_examples() -> None:
    sets = ready_made_sets()
    assert {known.name for known in sets} == LEAST_ACCURACY.keys()
    for known in sets:
        assert len({intent.name for intent in known.intents}) == 14
        assert all(len(set(intent.examples)) == len(intent.examples) >= 20 for intent in known.intents)


def test_a_sentence_has_the_same_vector_of_length_1_in_any_company(encoder: TransformersEncoder) -> None:
    texts = [sentence.text for sentence in held_out("retail-en").in_scope[:16]] + ["word " * 400, ""]
    together = encoder.encode(texts)
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([encoder.encode([text]) for text in texts])
    assert np.allclose(together, alone, atol=1e-5)
