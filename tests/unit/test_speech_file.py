"""Speech leaves in slices of a file; a file of any kind is measured."""

import io
from collections.abc import Iterator
from typing import get_args

import av
import pytest

from serving.contract import SPEECH_RATE_HZ, SpeechFormat, SpeechRequest, Spoken
from serving.media.speech_file import speech_file
from tests.unit.test_serving_media import ENGINE_RATE_HZ, tone


def spoken(seconds: tuple[float, ...]) -> Iterator[Spoken]:
    """Sentences of 10 characters each."""
    for number, length_s in enumerate(seconds, start=1):
        yield Spoken(tone(length_s, ENGINE_RATE_HZ), 10 * number)


@pytest.mark.parametrize("response_format", get_args(SpeechFormat))
def test_the_first_sound_leaves_when_a_fraction_of_the_first_sentence_is_encoded(
    response_format: SpeechFormat,
) -> None:
    asked = SpeechRequest("x" * 30, "alloy", 1.0, response_format)
    pieces = list(speech_file(spoken((4.0, 2.0, 0.3)), asked, ENGINE_RATE_HZ))
    assert 0 < length_s(pieces[0].sound, response_format) <= 0.3
    whole = length_s(b"".join(piece.sound for piece in pieces), response_format)
    assert whole == pytest.approx(6.3, abs=0.1)


def test_a_sentence_counts_as_delivered_when_the_next_one_comes() -> None:
    asked = SpeechRequest("x" * 32, "alloy", 1.0, "pcm")
    pieces = list(speech_file(spoken((4.0, 2.0, 0.3)), asked, ENGINE_RATE_HZ))
    assert [piece.characters for piece in pieces] == [0, 0, 0, 0, 0, 10, 20, 32]


def test_a_long_text_comes_in_few_pieces() -> None:
    asked = SpeechRequest("x" * 80, "alloy", 1.0, "wav")
    assert len(list(speech_file(spoken((10.0,) * 8), asked, ENGINE_RATE_HZ))) < 25


def length_s(sound: bytes, response_format: SpeechFormat) -> float:
    if response_format == "pcm":
        return len(sound) / 2 / SPEECH_RATE_HZ
    with av.open(io.BytesIO(sound), "r") as container:
        stream = container.streams.audio[0]
        return sum(frame.samples for frame in container.decode(stream)) / stream.rate
