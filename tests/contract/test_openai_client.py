"""The official `openai` client works unchanged, with only its base URL and key set."""

import io
import struct
from typing import Literal

import av
import openai
import pytest

from tests.stack import Stack

FORMATS: list[Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]] = [
    "mp3",
    "opus",
    "aac",
    "flac",
    "wav",
    "pcm",
]
# The voice differs a little from call to call; of this, the small recogniser made the same 300 times of 300.
SENTENCE = "Please call me tomorrow."
HEARD = "please call me tomorrow"


def speak(stack: Stack, text: str, form: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]) -> bytes:
    return (
        stack.openai()
        .audio.speech.create(model="tts-1", voice="alloy", input=text, response_format=form)
        .content
    )


def duration_s(sound: bytes, form: str) -> float:
    """The sound's length, read back with a decoder that is not the product's."""
    if form == "pcm":
        return len(sound) / 2 / 24_000
    with av.open(io.BytesIO(sound)) as container:
        stream = container.streams.audio[0]
        return sum(frame.samples for frame in container.decode(stream)) / stream.rate


@pytest.mark.parametrize("form", FORMATS)
def test_speech_comes_in_every_format(
    stack: Stack, form: Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
) -> None:
    assert 0.8 < duration_s(speak(stack, SENTENCE, form), form) < 4


def test_pcm_is_sound_and_not_silence(stack: Stack) -> None:
    sound = speak(stack, SENTENCE, "pcm")
    samples = struct.unpack(f"<{len(sound) // 2}h", sound)
    assert max(map(abs, samples)) > 3000


@pytest.mark.parametrize("form", [form for form in FORMATS if form not in ("pcm", "aac")])
def test_what_is_spoken_is_transcribed_in_every_format(
    stack: Stack, form: Literal["mp3", "opus", "flac", "wav"]
) -> None:
    """The voice differs from call to call; once in a thousand the small recogniser makes nothing of it."""

    def words_heard() -> int:
        file = (f"speech.{form}", speak(stack, SENTENCE, form))
        text = stack.openai().audio.transcriptions.create(model="whisper-1", file=file).text
        return len(set(text.split()) & set(HEARD.split()))

    # The lossy formats may cost a word.
    wanted = 4 if form in ("wav", "flac") else 3
    assert any(words_heard() >= wanted for _ in range(3))


def test_streamed_speech_is_as_long_as_the_whole(stack: Stack) -> None:
    with stack.openai().audio.speech.with_streaming_response.create(
        model="tts-1", voice="nova", input=SENTENCE, response_format="pcm"
    ) as response:
        streamed = b"".join(response.iter_bytes())
    whole = stack.openai().audio.speech.create(
        model="tts-1", voice="nova", input=SENTENCE, response_format="pcm"
    )
    assert len(streamed) == len(whole.content)


def test_speech_is_marked_as_made_by_a_machine(stack: Stack) -> None:
    with stack.openai().audio.speech.with_streaming_response.create(
        model="tts-1", voice="alloy", input=SENTENCE, response_format="mp3"
    ) as response:
        assert response.headers["x-aiaas-generated"] == "ai"
        sound = b"".join(response.iter_bytes())
    with av.open(io.BytesIO(sound)) as container:
        assert container.metadata["comment"].startswith("AI-generated speech")


def test_speed_shortens_speech(stack: Stack) -> None:
    client = stack.openai()
    slow = client.audio.speech.create(
        model="tts-1", voice="alloy", input=SENTENCE, response_format="pcm", speed=0.5
    )
    fast = client.audio.speech.create(
        model="tts-1", voice="alloy", input=SENTENCE, response_format="pcm", speed=2.0
    )
    assert len(slow.content) > 2 * len(fast.content)


def test_traditional_chinese_is_spoken(stack: Stack) -> None:
    assert 0.5 < duration_s(speak(stack, "您好，請問需要什麼協助？", "mp3"), "mp3") < 8


@pytest.mark.parametrize("form", ["json", "text", "srt", "vtt", "verbose_json"])
def test_transcription_comes_in_every_format(
    stack: Stack, form: Literal["json", "text", "srt", "vtt", "verbose_json"]
) -> None:
    sound = speak(stack, SENTENCE, "wav")
    answer = stack.openai().audio.transcriptions.create(
        model="whisper-1", file=("speech.wav", sound), response_format=form, language="en"
    )
    text = answer if isinstance(answer, str) else answer.text  # type: ignore[union-attr]
    assert len(set(HEARD.split()) & set(text.replace("\n", " ").split())) >= 3
    if form == "srt":
        assert text.startswith("1\n00:00:0")
        assert "," in text.splitlines()[1]
    if form == "vtt":
        assert text.startswith("WEBVTT\n\n00:00:0")


def test_verbose_transcription_has_words_and_segments_in_order(stack: Stack) -> None:
    sound = speak(stack, SENTENCE, "wav")
    answer = stack.openai().audio.transcriptions.create(
        model="whisper-1",
        file=("speech.wav", sound),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert answer.language == "english"
    assert answer.duration == pytest.approx(duration_s(sound, "wav"), abs=0.01)
    assert answer.words
    assert answer.segments
    assert " ".join(word.word for word in answer.words) == answer.text
    times = [moment for word in answer.words for moment in (word.start, word.end)]
    assert times == sorted(times)
    assert times[-1] <= answer.duration + 0.01


def test_a_translation_is_refused_in_words_where_the_engine_cannot_translate(stack: Stack) -> None:
    sound = speak(stack, SENTENCE, "wav")
    with pytest.raises(openai.BadRequestError) as refused:
        stack.openai().audio.translations.create(model="whisper-1", file=("speech.wav", sound))
    assert (refused.value.code, refused.value.param) == ("unsupported_task", "model")
    assert "/v1/audio/transcriptions" in refused.value.message


def test_a_prompt_and_a_temperature_are_taken(stack: Stack) -> None:
    sound = speak(stack, SENTENCE, "wav")
    answer = stack.openai().audio.transcriptions.create(
        model="whisper-1", file=("speech.wav", sound), prompt="Amelie", temperature=0.2
    )
    assert len(set(HEARD.split()) & set(answer.text.split())) >= 2


def test_models_are_listed_with_their_voices_and_intents(stack: Stack) -> None:
    listed = {model.id: model.to_dict() for model in stack.openai().models.list()}
    by_alias = {alias: model for model in listed.values() for alias in model["aliases"]}  # type: ignore[union-attr]
    assert by_alias["whisper-1"]["product"] == "asr"
    assert "alloy" in by_alias["tts-1"]["voices"]
    assert {
        "retail-en",
        "retail-zh-TW",
        "banking-en",
        "banking-zh-TW",
        "healthcare-en",
        "healthcare-zh-TW",
    } <= set(listed)


def test_errors_are_the_clients_own_exceptions(stack: Stack) -> None:
    client = stack.openai()
    with pytest.raises(openai.NotFoundError) as not_found:
        client.audio.speech.create(model="gpt-9", voice="alloy", input="hi")
    assert (not_found.value.code, not_found.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.audio.speech.create(model="tts-1", voice="nobody", input="hi")
    assert (bad.value.code, bad.value.param) == ("invalid_value", "voice")
    with pytest.raises(openai.AuthenticationError) as unknown:
        stack.openai("sk-something").models.list()
    assert unknown.value.code == "malformed_api_key"
