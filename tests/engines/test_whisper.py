"""A small, real Whisper through the product's loading, batching, fallback, timestamps and guards."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import torch
from msgspec import structs
from whisper.decoding import DecodingOptions, DecodingTask

from infra.errors import StartupError
from serving.contract import Recognised, Recogniser, RecognitionRequest, Segment, Sound, Window
from serving.engines.whisper import WhisperRecogniser
from serving.engines.whisper_checkpoint import load_checkpoint
from serving.engines.whisper_decoding import SteadySampler
from serving.errors import UnsupportedLanguageError
from serving.media.decode import windows
from serving.media.encode import speech_encoder
from serving.transcription import hear
from tests.engines.tiny_whisper import (
    CHINESE,
    CIRCLING,
    ENGLISH,
    PAIR_GAP_SAMPLES,
    PAIRS,
    RATE_HZ,
    silence,
    speech,
)
from tests.media_files import sound_file

ASKED = RecognitionRequest(wants_words=False)
WITHIN_MS = 500
SILENT_WINDOW_S = 20.1


@pytest.fixture(scope="module")
def recogniser(tiny_whisper: Path) -> WhisperRecogniser:
    return WhisperRecogniser(str(tiny_whisper), threads=2)


def sound(text: str, **asked: object) -> Sound:
    return Sound(speech(text), structs.replace(ASKED, **asked))


def texts(segments: tuple[Segment, ...]) -> list[str]:
    return [segment.text for segment in segments]


def file_of(pcm: bytes) -> bytes:
    encoder = speech_encoder("wav", RATE_HZ)
    return encoder.feed(pcm) + encoder.finish()


def length_ms(pcm: bytes) -> int:
    return len(pcm) // 2 * 1000 // RATE_HZ


def test_the_engine_says_what_it_is(recogniser: Recogniser) -> None:
    info = recogniser.info
    assert (info.engine, info.model) == ("whisper", "tiny-test")
    assert {"en", "zh", "ja", "de"} <= set(info.languages)
    assert info.translates


def test_every_sentence_is_transcribed_exactly_alone_and_in_a_batch(recogniser: WhisperRecogniser) -> None:
    sounds = [sound(text) for text in ENGLISH + CHINESE]
    together = recogniser.recognise(sounds)
    assert [texts(heard.segments) for heard in together] == [[text] for text in ENGLISH + CHINESE]
    assert [heard.language for heard in together] == ["en"] * len(ENGLISH) + ["zh"] * len(CHINESE)
    for alone in (1, len(ENGLISH)):
        assert recogniser.recognise([sounds[alone]]) == (together[alone],)


def test_requests_of_different_kinds_are_answered_together_as_they_are_alone(
    recogniser: WhisperRecogniser,
) -> None:
    sounds = [
        sound(ENGLISH[1]),
        sound(ENGLISH[1], language="en-GB"),
        sound(ENGLISH[3], prompt="parcel <|endoftext|>", language="en"),
        sound(ENGLISH[3], temperature=0.4, language="en"),
        sound(CHINESE[0], language="zh-TW"),
        sound(ENGLISH[5], task="translate", language="en"),
        Sound(silence(2), ASKED),
    ]
    together = recogniser.recognise(sounds)
    assert together == tuple(recogniser.recognise([single])[0] for single in sounds)
    assert texts(together[0].segments) == texts(together[1].segments) == [ENGLISH[1]]
    assert together[6].segments == ()


def test_options_reach_the_decoder(recogniser: WhisperRecogniser, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched_options(monkeypatch)
    recogniser.recognise([sound(ENGLISH[0], prompt="  Amelie  ", task="translate", temperature=0.2)])
    assert (seen[0].task, seen[0].temperature, seen[0].language) == ("translate", 0.2, "en")
    tokenizer = DecodingTask(load_of(recogniser), seen[0]).tokenizer
    assert tokenizer.decode(list(seen[0].prompt or ())) == " Amelie"


def test_a_prompt_is_bounded_so_that_the_answer_has_room(
    recogniser: WhisperRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watched_options(monkeypatch)
    recogniser.recognise([sound(ENGLISH[0], prompt="name " * 400, language="en")])
    assert len(seen[0].prompt or ()) == 220


def watched_options(monkeypatch: pytest.MonkeyPatch) -> list[DecodingOptions]:
    """Every decoding of the real decoder from here on, as it was asked for."""
    seen: list[DecodingOptions] = []
    made = DecodingTask.__init__

    def watch(self: DecodingTask, model: object, options: DecodingOptions) -> None:
        seen.append(options)
        made(self, model, options)  # type: ignore[arg-type]

    monkeypatch.setattr(DecodingTask, "__init__", watch)
    return seen


def load_of(recogniser: WhisperRecogniser) -> object:
    return recogniser._model


def test_a_higher_temperature_is_tried_for_the_failing_sound_alone(
    recogniser: WhisperRecogniser, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[tuple[float, int]] = []
    steady: set[bool] = set()
    run = DecodingTask.run

    def watch(self: DecodingTask, mel: torch.Tensor) -> list[object]:
        decoded.append((self.options.temperature, len(mel)))
        if self.options.temperature:
            steady.add(isinstance(self.decoder, SteadySampler))
        return run(self, mel)  # type: ignore[return-value]

    monkeypatch.setattr(DecodingTask, "run", watch)
    known = [sound(text, language="en") for text in ENGLISH[:3]]
    alone = recogniser.recognise(known)
    decoded.clear()
    together = recogniser.recognise([*known, sound(CIRCLING, language="en")])
    assert together[:3] == alone
    assert decoded[:3] == [(0.0, 4), (0.2, 1), (0.4, 1)]
    assert steady == {True}
    assert all("no no no" not in text for text in texts(together[3].segments))


def test_two_sentences_of_one_text_have_their_own_times(recogniser: WhisperRecogniser) -> None:
    first, second = (speech(ENGLISH[number]) for number in PAIRS[0])
    pcm = first + bytes(PAIR_GAP_SAMPLES * 2) + second
    (heard,) = recogniser.recognise([Sound(pcm, ASKED)])
    assert texts(heard.segments) == [ENGLISH[number] for number in PAIRS[0]]
    second_ms = length_ms(pcm) - length_ms(second)
    assert heard.segments[0].end_ms == pytest.approx(length_ms(first), abs=WITHIN_MS)
    assert heard.segments[1].start_ms == pytest.approx(second_ms, abs=WITHIN_MS)
    assert heard.segments[1].end_ms <= length_ms(pcm)


def test_long_audio_is_exactly_its_sentences_in_order_at_their_times(recogniser: WhisperRecogniser) -> None:
    """In silence a window ends where its last 10 s begin: each holds one sentence as the model knows it."""
    file_pcm, spoken = b"", list[Segment]()
    for text in ENGLISH:
        said = silence(0.3) + speech(text)
        spoken.append(Segment(text, length_ms(file_pcm) + 300, length_ms(file_pcm + said)))
        file_pcm = (file_pcm + said).ljust(len(silence(len(spoken) * SILENT_WINDOW_S)), b"\0")
    samples = np.frombuffer(file_pcm, "<i2").reshape(-1, 1)
    cut = list(windows(sound_file("flac", "flac", RATE_HZ, samples)))
    assert [window.start_ms for window in cut] == [
        round(number * SILENT_WINDOW_S * 1000) for number in range(len(ENGLISH))
    ]
    heard = transcript_of(cut, recogniser)
    assert [segment.text for segment in heard] == list(ENGLISH)
    for segment, wanted in zip(heard, spoken, strict=True):
        assert segment.start_ms == pytest.approx(wanted.start_ms, abs=WITHIN_MS)
        assert segment.end_ms == pytest.approx(wanted.end_ms, abs=WITHIN_MS)


def transcript_of(cut: list[Window], recogniser: WhisperRecogniser) -> list[Segment]:
    async def given() -> AsyncIterator[Window]:
        for window in cut:
            yield window

    async def recognise(window: Window, asked: RecognitionRequest) -> Recognised:
        (heard,) = recogniser.recognise([Sound(window.pcm, asked)])
        return heard

    async def run() -> list[Segment]:
        return [segment async for heard in hear(given(), ASKED, recognise) for segment in heard.segments]

    return asyncio.run(run())


def test_times_stay_inside_the_window(recogniser: WhisperRecogniser) -> None:
    (heard,) = recogniser.recognise([sound(ENGLISH[1])])
    assert heard.segments[0].end_ms <= length_ms(speech(ENGLISH[1]))


@pytest.mark.parametrize("level", [0, 40, 3000, 12_000])
def test_silence_and_noise_have_no_text(recogniser: WhisperRecogniser, level: int) -> None:
    noise = np.random.default_rng(0).normal(0, level, 30 * RATE_HZ) if level else np.zeros(30 * RATE_HZ)
    (heard,) = recogniser.recognise([Sound(noise.clip(-32768, 32767).astype("<i2").tobytes(), ASKED)])
    assert heard.segments == ()
    assert heard.language is None


def test_next_to_nothing_has_no_text(recogniser: WhisperRecogniser) -> None:
    assert [
        heard.segments for heard in recogniser.recognise([Sound(b"", ASKED), Sound(bytes(2), ASKED)])
    ] == [
        (),
        (),
    ]
    assert recogniser.recognise([]) == ()


def test_words_are_in_order_and_inside_their_segment(recogniser: WhisperRecogniser) -> None:
    (heard,) = recogniser.recognise([sound(ENGLISH[2], wants_words=True)])
    (segment,) = heard.segments
    assert " ".join(word.text for word in segment.words) == segment.text
    times = list(itertools.chain.from_iterable((word.start_ms, word.end_ms) for word in segment.words))
    assert times == sorted(times)
    assert segment.start_ms <= times[0]
    assert times[-1] <= segment.end_ms
    assert len(set(times)) > 2


@pytest.mark.parametrize(
    ("tag", "text"),
    [
        ("zh", "您的訂單明天會送達。"),
        ("zh-TW", "您的訂單明天會送達。"),
        ("zh-CN", "您的订单明天会送达。"),
        ("zh-Hans", "您的订单明天会送达。"),
    ],
)
def test_chinese_comes_in_the_script_of_the_language_tag(
    recogniser: WhisperRecogniser, tag: str, text: str
) -> None:
    (heard,) = recogniser.recognise([sound(CHINESE[0], language=tag, wants_words=True)])
    assert texts(heard.segments) == [text]
    assert "".join(word.text for word in heard.segments[0].words) == text
    assert heard.language == "zh"


def test_a_language_that_the_model_does_not_know_is_refused(recogniser: WhisperRecogniser) -> None:
    with pytest.raises(UnsupportedLanguageError):
        recogniser.recognise([sound(ENGLISH[0], language="tlh")])


def test_a_checkpoint_that_is_not_there_is_named_with_the_way_to_provide_it(tmp_path: Path) -> None:
    with pytest.raises(StartupError) as caught:
        load_checkpoint(str(tmp_path / "absent.pt"))
    assert str(tmp_path / "absent.pt") in str(caught.value)
    assert "ASR_MODEL" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not a checkpoint")
    with pytest.raises(StartupError, match=r"broken\.pt is no Whisper checkpoint"):
        load_checkpoint(str(broken))


def test_a_model_that_cannot_be_fetched_is_named_with_its_address_and_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for proxy in ("http_proxy", "https_proxy", "HTTPS_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(proxy, "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(StartupError) as caught:
        load_checkpoint("turbo")
    assert "https://" in str(caught.value)
    assert str(tmp_path / "whisper" / "large-v3-turbo.pt") in str(caught.value)
