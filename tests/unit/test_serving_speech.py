"""What eSpeak NG says, and what pocketsphinx hears of it."""

import re

import pytest

from serving.contract import Recogniser, RecognitionRequest, Segment, Sound, Window
from serving.engines.espeak import EspeakSynthesiser
from serving.engines.isolated import IsolatedRecogniser
from serving.engines.pocketsphinx import PocketsphinxRecogniser
from serving.engines.voices import OPENAI_VOICES, runs, sentences
from serving.errors import EngineUnavailableError, UnknownVoiceError, UnsupportedLanguageError
from serving.media.decode import windows
from serving.media.encode import speech_encoder


@pytest.fixture(scope="module")
def synthesiser() -> EspeakSynthesiser:
    return EspeakSynthesiser()


@pytest.fixture(scope="module")
def recogniser() -> PocketsphinxRecogniser:
    return PocketsphinxRecogniser()


def spoken(synthesiser: EspeakSynthesiser, text: str, voice: str = "alloy", speed: float = 1.0) -> bytes:
    return b"".join(spoken.pcm for spoken in synthesiser.speak(text, voice, speed))


def window_of(synthesiser: EspeakSynthesiser, text: str, voice: str = "alloy") -> Window:
    encoder = speech_encoder("wav", synthesiser.sample_rate_hz)
    return next(windows(encoder.feed(spoken(synthesiser, text, voice)) + encoder.finish()))


def recognised(recogniser: Recogniser, pcm: bytes, language: str | None) -> tuple[Segment, ...]:
    (heard,) = recogniser.recognise([Sound(pcm, RecognitionRequest(language))])
    return heard.segments


def text_of(segments: tuple[Segment, ...]) -> str:
    return " ".join(segment.text for segment in segments)


def test_every_openai_voice_sounds_like_no_other(synthesiser: EspeakSynthesiser) -> None:
    names = ["alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer", "verse"]
    assert set(names) <= OPENAI_VOICES.keys()
    sounds = {spoken(synthesiser, "Hello there.", voice) for voice in OPENAI_VOICES}
    assert len(sounds) == len(OPENAI_VOICES)


def test_every_listed_voice_speaks(synthesiser: EspeakSynthesiser) -> None:
    assert {"cmn", "yue", "en-gb", "en-us", "de", "fr-fr"} <= set(synthesiser.info.voices)
    for voice in synthesiser.info.voices:
        assert len(spoken(synthesiser, "Hello 1 2.", voice)) > 4000, voice


def test_an_unknown_voice_is_refused_before_anything_is_spoken(synthesiser: EspeakSynthesiser) -> None:
    with pytest.raises(UnknownVoiceError):
        synthesiser.speak("Hello.", "../en", 1.0)


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
def test_speed_divides_the_length(synthesiser: EspeakSynthesiser, speed: float) -> None:
    text = "Your order will be delivered on Monday morning between nine and eleven."
    ratio = len(spoken(synthesiser, text)) / len(spoken(synthesiser, text, speed=speed))
    assert ratio == pytest.approx(speed, rel=0.1)


def test_chinese_is_spoken_in_mandarin_whatever_the_openai_voice(synthesiser: EspeakSynthesiser) -> None:
    text = "您的訂單明天會送達。"
    as_mandarin = len(spoken(synthesiser, text, "cmn"))
    assert len(spoken(synthesiser, text, "nova")) == pytest.approx(as_mandarin, rel=0.15)
    # An English voice would say "Chinese letter" for each character.
    assert len(spoken(synthesiser, text, "en-us")) > 1.5 * as_mandarin


def test_a_mixed_sentence_changes_language_and_numbers_follow_their_words() -> None:
    assert list(runs("我的 order 編號是 12，thank you 3 times。")) == [
        (True, "我的 "),
        (False, "order "),
        (True, "編號是 12，"),
        (False, "thank you 3 times。"),
    ]


def test_a_text_is_spoken_sentence_by_sentence(synthesiser: EspeakSynthesiser) -> None:
    text = 'It costs 3.50 dollars. "Really?" 好的。謝謝！Bye'
    assert list(sentences(text)) == ["It costs 3.50 dollars.", ' "Really?"', " 好的。", "謝謝！", "Bye"]
    assert len(list(synthesiser.speak(text, "alloy", 1.0))) == 5


def test_a_text_without_an_end_is_split_and_loses_nothing() -> None:
    for text in ("word " * 500, "訂" * 1000, "x" * 1000):
        parts = list(sentences(text))
        assert "".join(parts) == text
        assert max(map(len, parts)) <= 400


@pytest.mark.parametrize(
    ("text", "heard"),
    [
        ("Where is my money?", "where is my money"),
        ("We are going to the market tomorrow.", "we are going to the market tomorrow"),
    ],
)
def test_what_is_spoken_is_recognised_word_by_word(
    synthesiser: EspeakSynthesiser, recogniser: PocketsphinxRecogniser, text: str, heard: str
) -> None:
    window = window_of(synthesiser, text)
    segments = recognised(recogniser, window.pcm, "en-US")
    assert text_of(segments) == heard
    words = [word for segment in segments for word in segment.words]
    assert " ".join(word.text for word in words) == heard
    assert all(word.start_ms < word.end_ms <= window.duration_ms + 10 for word in words)
    assert [word.start_ms for word in words] == sorted(word.start_ms for word in words)


def test_a_long_pause_parts_segments_and_no_mark_of_the_decoder_shows(
    synthesiser: EspeakSynthesiser, recogniser: PocketsphinxRecogniser
) -> None:
    pause = bytes(24_000 * 2)
    said = window_of(synthesiser, "We are going to the market tomorrow.").pcm
    segments = recognised(recogniser, pause + said + pause + said + pause, None)
    assert len(segments) == 2
    assert segments[0].end_ms + 500 <= segments[1].start_ms
    assert re.fullmatch(r"[a-z' .-]+", text_of(segments))


def test_silence_and_next_to_nothing_have_no_words(recogniser: PocketsphinxRecogniser) -> None:
    assert recognised(recogniser, bytes(64_000), None) == ()
    assert recognised(recogniser, b"", None) == ()


def test_what_was_heard_before_changes_nothing(
    synthesiser: EspeakSynthesiser, recogniser: PocketsphinxRecogniser
) -> None:
    window = window_of(synthesiser, "I would like to cancel my order.")
    loud = window_of(synthesiser, "How much money do I have in my account?", "verse")
    first = recognised(recogniser, window.pcm, None)
    recognised(recogniser, loud.pcm, None)
    assert recognised(recogniser, window.pcm, None) == first


def test_other_languages_than_english_are_refused(recogniser: PocketsphinxRecogniser) -> None:
    with pytest.raises(UnsupportedLanguageError):
        recognised(recogniser, bytes(64_000), "zh-TW")


def test_a_recogniser_that_dies_fails_its_call_and_the_next_one_works(synthesiser: EspeakSynthesiser) -> None:
    isolated = IsolatedRecogniser()
    window = window_of(synthesiser, "Where is my money?")
    try:
        assert text_of(recognised(isolated, window.pcm, "en")) == "where is my money"
        with pytest.raises(UnsupportedLanguageError):
            recognised(isolated, window.pcm, "fr")
        isolated.stop()
        assert text_of(recognised(isolated, window.pcm, None)) == "where is my money"
    finally:
        isolated.stop()


def test_stopping_a_recogniser_ends_the_work_in_hand(synthesiser: EspeakSynthesiser) -> None:
    import threading

    isolated = IsolatedRecogniser()
    isolated.warm_up()
    long = window_of(synthesiser, "I would like to cancel my order, please. " * 12)
    stopper = threading.Timer(0.3, isolated.stop)
    stopper.start()
    try:
        with pytest.raises(EngineUnavailableError):
            recognised(isolated, long.pcm, None)
    finally:
        stopper.join()
        isolated.stop()
