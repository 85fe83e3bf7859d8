"""The pure parts around Whisper: cutting, fallback, speech detection, scripts, joining."""

import numpy as np
import pytest
import torch
from whisper.decoding import DecodingResult
from whisper.model import ModelDimensions
from whisper.tokenizer import LANGUAGES

from serving.engines.chinese import ChineseScripts
from serving.engines.speech_detection import Span, find_speech
from serving.engines.whisper_checkpoint import windows_in
from serving.engines.whisper_decoding import (
    Piece,
    SteadySampler,
    cut,
    first_start,
    is_made_up,
    left_out,
    should_fall_back,
    temperatures,
)
from serving.joining import join
from serving.languages import LANGUAGE_NAMES
from tests.engines.tiny_whisper import RATE_HZ, silence, speech

BEGIN = 1000  # the first timestamp token in these tests: one more is 20 ms later


def test_a_batch_is_as_large_as_the_memory_has_room_for_and_one_at_least() -> None:
    large = ModelDimensions(128, 1500, 1280, 20, 32, 51866, 448, 1280, 20, 32)
    turbo = ModelDimensions(128, 1500, 1280, 20, 32, 51866, 448, 1280, 20, 4)
    gib = 1 << 30
    assert windows_in(2 * gib, large) == 1
    assert windows_in(8 * gib, large) < 16 <= windows_in(12 * gib, large)
    assert windows_in(8 * gib, turbo) > windows_in(8 * gib, large)
    assert windows_in(40 * gib, large) > 4 * windows_in(10 * gib, large)


def at(ms: int) -> int:
    return BEGIN + ms // 20


def result(log_probability: float = -0.1, compression: float = 1.0, no_speech: float = 0.0) -> DecodingResult:
    return DecodingResult(
        audio_features=torch.empty(0),
        language="en",
        avg_logprob=log_probability,
        compression_ratio=compression,
        no_speech_prob=no_speech,
    )


def test_timestamps_cut_the_text_into_pieces() -> None:
    tokens = [at(0), 1, 2, at(1000), at(1500), 3, at(2400)]
    assert cut(tokens, BEGIN, 5000, is_cut_off=False) == (
        [Piece([1, 2], 0, 1000), Piece([3], 1500, 2400)],
        2400,
    )


def test_a_piece_left_open_is_closed_at_the_windows_end() -> None:
    assert cut([at(0), 1, at(1000), at(1500), 2], BEGIN, 4000, is_cut_off=False) == (
        [Piece([1], 0, 1000), Piece([2], 1500, 4000)],
        4000,
    )


def test_a_piece_that_the_token_limit_cut_off_is_decoded_anew() -> None:
    tokens = [at(0), 1, at(1000), at(1500), 2]
    assert cut(tokens, BEGIN, 4000, is_cut_off=True) == ([Piece([1], 0, 1000)], 1500)
    assert cut([at(0), 1, 2], BEGIN, 4000, is_cut_off=True) == ([Piece([1, 2], 0, 4000)], 4000)


def test_no_timestamp_lies_past_the_windows_end() -> None:
    pieces, told_ms = cut([at(0), 1, at(29_000)], BEGIN, 4000, is_cut_off=False)
    assert (pieces, told_ms) == ([Piece([1], 0, 4000)], 4000)


def test_fallback_begins_at_the_temperature_asked_for_and_ends_at_1() -> None:
    assert temperatures(0.0) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert temperatures(0.5) == [0.5, 0.7, 0.9]
    assert temperatures(1.0) == [1.0]


def test_improbable_and_repetitive_texts_fall_back_and_silence_does_not() -> None:
    assert not should_fall_back(result())
    assert should_fall_back(result(log_probability=-1.1))
    assert should_fall_back(result(compression=2.5))
    assert not should_fall_back(result(log_probability=-1.1, no_speech=0.7))


def test_what_is_drawn_at_a_temperature_does_not_depend_on_the_batch() -> None:
    def drawn(logits: torch.Tensor) -> torch.Tensor:
        sampler = SteadySampler(0.8, eot=9)
        sampler.reset()
        tokens = torch.zeros(len(logits), 1, dtype=torch.long)
        for _ in range(6):
            tokens, _ = sampler.update(tokens, logits.clone(), torch.zeros(len(logits)))
        return tokens

    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    together = drawn(logits)
    assert all(torch.equal(together[row], drawn(logits[row : row + 1])[0]) for row in range(4))


def test_speech_after_the_last_timestamp_was_left_out_unless_it_is_a_words_end() -> None:
    speech_spans = [Span(0, 2000), Span(8000, 9500)]
    assert left_out(speech_spans, 1800) == 7700
    assert left_out(speech_spans, 500) == 500
    assert left_out(speech_spans, 9300) is None
    assert left_out([Span(0, 2000), Span(3000, 3200)], 1900) is None


def test_decoding_begins_shortly_before_a_late_first_word() -> None:
    assert first_start([Span(900, 2000)]) == 0
    assert first_start([Span(9000, 12_000)]) == 8700


def test_a_text_far_from_all_speech_is_made_up() -> None:
    assert is_made_up([Span(0, 2000)], 5000, 6000)
    assert not is_made_up([Span(0, 2000)], 2500, 6000)


def noise(level: int, seconds: float = 4) -> bytes:
    drawn = np.random.default_rng(0).normal(0, level, int(seconds * RATE_HZ))
    return drawn.clip(-32768, 32767).astype("<i2").tobytes()


def tone(hertz: float) -> bytes:
    return (np.sin(np.arange(4 * RATE_HZ) / RATE_HZ * 2 * np.pi * hertz) * 3000).astype("<i2").tobytes()


@pytest.mark.parametrize(
    "sound",
    [silence(4), noise(50), noise(3000), noise(10_000), tone(50), tone(440), tone(1000), b""],
    ids=["silence", "hiss", "noise", "loud noise", "hum", "tone", "high tone", "nothing"],
)
def test_nobody_speaks_in_silence_noise_and_tones(sound: bytes) -> None:
    assert find_speech(sound) == []


def test_speech_is_found_where_it_is_also_when_it_is_quiet_or_noisy() -> None:
    said = np.frombuffer(silence(3) + speech("Please call me tomorrow morning.") + silence(3), "<i2")
    quiet = (said // 20).astype("<i2")
    noisy = said + np.frombuffer(noise(300, len(said) / RATE_HZ), "<i2")
    for sound in (said, quiet, noisy):
        spans = find_speech(sound.astype("<i2").tobytes())
        assert spans[0].start_ms == pytest.approx(3000, abs=150)
        assert spans[-1].end_ms == pytest.approx(4860, abs=300)


@pytest.mark.parametrize(
    ("tag", "written"),
    [
        ("zh-TW", "這裡的頭髮乾淨"),
        ("zh-Hant-TW", "這裡的頭髮乾淨"),
        ("zh-HK", "這裏的頭髮乾淨"),
        ("zh_hant", "這裏的頭髮乾淨"),
        ("zh-CN", "这里的头发干净"),
        ("zh-Hans-HK", "这里的头发干净"),
        ("zh-SG", "这里的头发干净"),
        ("zh", "这里的头发干净"),
        ("ja", "这里的头发干净"),
    ],
)
def test_chinese_is_written_as_the_language_tag_says(tag: str, written: str) -> None:
    scripts = ChineseScripts()
    assert scripts.convert("这里的头发干净", tag) == written
    assert scripts.convert(written, tag) == written


def test_words_are_written_as_their_text_is() -> None:
    scripts = ChineseScripts()
    assert scripts.convert_words(["这里", "的", "头", "发", "干", "净"], "zh-TW") == [
        "這裡",
        "的",
        "頭",
        "髮",
        "乾",
        "淨",
    ]
    assert scripts.convert_words(["頭", "髮"], "zh-CN") == ["头", "发"]


def test_pieces_of_chinese_are_joined_without_spaces() -> None:
    assert join(["您好。", "請問", "有什麼事"]) == "您好。請問有什麼事"
    assert join(["Where is it?", "", "Here."]) == "Where is it? Here."
    assert join(["안녕하세요", "감사합니다"]) == "안녕하세요 감사합니다"
    assert join([]) == ""


def test_languages_have_the_names_that_whisper_gives_them() -> None:
    assert LANGUAGE_NAMES == LANGUAGES
