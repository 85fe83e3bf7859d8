"""`POST /v1/intents` says what a customer wants, in English and in Traditional Chinese."""

import pytest

from tests.stack import Stack


@pytest.mark.parametrize(
    ("model", "text", "intent"),
    [
        ("retail-en", "where is my parcel?", "order_status"),
        ("retail-zh-TW", "我的包裹到哪裡了？", "order_status"),
        ("banking-en", "I lost my debit card", "card_lost_or_stolen"),
        ("banking-zh-TW", "我的提款卡不見了，想要掛失", "card_lost_or_stolen"),
        ("healthcare-en", "I would like to book an appointment with a doctor", "book_appointment"),
        ("healthcare-zh-TW", "我想要掛號看內科", "book_appointment"),
    ],
)
def test_a_sentence_finds_its_intent(stack: Stack, model: str, text: str, intent: str) -> None:
    with stack.http() as http:
        answer = http.post("/v1/intents", json={"model": model, "text": text, "top_k": 5}).json()
    assert answer["intent"] == intent
    assert not answer["out_of_scope"]
    assert len(answer["ranking"]) == 5
    assert answer["ranking"][0] == {"intent": intent, "score": answer["score"]}
    scores = [ranked["score"] for ranked in answer["ranking"]]
    assert scores == sorted(scores, reverse=True)


def test_several_texts_are_answered_in_their_order(stack: Stack) -> None:
    texts = ["cancel my order please", "where is my parcel?"]
    with stack.http() as http:
        together = http.post("/v1/intents", json={"model": "retail-en", "texts": texts}).json()
        apart = [http.post("/v1/intents", json={"model": "retail-en", "text": text}).json() for text in texts]
    assert [result["intent"] for result in together["results"]] == [answer["intent"] for answer in apart]
    assert together["usage"] == {"units": 2, "meter": "intent.calls"}


def test_the_threshold_decides_what_is_out_of_scope(stack: Stack) -> None:
    body = {"model": "retail-en", "text": "where is my parcel?"}
    with stack.http() as http:
        strict = http.post("/v1/intents", json={**body, "threshold": 1.0}).json()
        lax = http.post("/v1/intents", json={**body, "threshold": 0.0}).json()
    assert (strict["intent"], strict["out_of_scope"]) == (None, True)
    assert (lax["intent"], lax["out_of_scope"]) == ("order_status", False)
    assert strict["ranking"] == lax["ranking"]
