"""Speech to text by Whisper (Radford et al. 2022, arXiv:2212.04356), through the library openai-whisper."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import whisper
from numpy.typing import NDArray
from torch import Tensor
from whisper.audio import HOP_LENGTH, N_SAMPLES
from whisper.decoding import DecodingOptions, DecodingResult, DecodingTask
from whisper.timing import add_word_timestamps
from whisper.tokenizer import LANGUAGES, Tokenizer, get_tokenizer

from serving.contract import (
    RECOGNITION_RATE_HZ,
    EngineInfo,
    Recognised,
    RecognitionRequest,
    Segment,
    Sound,
    Word,
    primary_language,
)
from serving.engines.chinese import ChineseScripts
from serving.engines.speech_detection import Span, find_speech
from serving.engines.whisper_checkpoint import load_checkpoint, model_name, translates, windows_in
from serving.engines.whisper_decoding import (
    Piece,
    SteadySampler,
    cut,
    first_start,
    is_made_up,
    is_repetitive,
    is_silence,
    left_out,
    should_fall_back,
    temperatures,
)
from serving.errors import UnsupportedLanguageError, UnsupportedTaskError

_SAMPLES_PER_MS = RECOGNITION_RATE_HZ // 1000
_FULL_SCALE = 32768.0
_MOST_ROUNDS = 12
_LEAST_PROGRESS_MS = 500


@dataclass
class _Window:
    """A sound on its way to text; what is said before `at_ms` is in `segments` already."""

    asked: RecognitionRequest
    samples: NDArray[np.float32]
    speech: list[Span]
    language: str | None
    at_ms: int = 0
    segments: list[Segment] = field(default_factory=list[Segment])

    @property
    def length_ms(self) -> int:
        return len(self.samples) // _SAMPLES_PER_MS


class WhisperRecogniser:
    """Decodes sounds of different requests as one batch, each as if it were alone. One thread at a time.

    A sound in which nobody speaks is answered without the model. The others go in rounds: a batch through the
    encoder, one call of the decoder for all that ask for the same (language, task, prompt, temperature), and
    again at a higher temperature for those alone whose text repeats itself or is improbable. Where a model
    stops writing while somebody still speaks, the rest of that sound is in the next round.

    Args:
        model: a name that `whisper.available_models()` has, or the path of a checkpoint.
        threads: how many cores torch may use.

    Raises:
        StartupError: the model cannot be had; see `load_checkpoint`.
    """

    def __init__(self, model: str, threads: int) -> None:
        torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS=1, and this overrides it
        self._model = load_checkpoint(model)
        self._is_half = self._model.device.type == "cuda"
        self._scripts = ChineseScripts()
        # What is left of the context beside the tokens to come and the three or four that begin them.
        self._most_tokens = self._model.dims.n_text_ctx // 2
        self._most_prompt_tokens = self._most_tokens - 4
        languages = tuple(LANGUAGES)[: self._model.num_languages] if self._model.is_multilingual else ("en",)
        self.info = EngineInfo(
            product="asr",
            engine="whisper",
            model=model_name(model),
            version=version("openai-whisper"),
            languages=languages,
            translates=translates(self._model),
        )

    def room_for(self, gpu: float) -> int:
        """How many windows a batch may have in this part of the GPU's memory; no limit without one."""
        if self._model.device.type != "cuda":
            return sys.maxsize
        memory_bytes = torch.cuda.get_device_properties(self._model.device).total_memory
        return windows_in(int(memory_bytes * (gpu or 1)), self._model.dims)

    def warm_up(self) -> None:
        """Have everything loaded and compiled that the first call would wait for."""
        silent = _Window(RecognitionRequest(language="en"), np.zeros(N_SAMPLES, np.float32), [], "en")
        mel = self._mel(silent)
        self._decode([silent], self._model.encoder(mel[None]))
        tokenizer = self._tokenizer(silent)
        self._words(silent, mel, [Piece(tokenizer.encode(" one two"), 0, 1000)], silent.length_ms)

    @torch.inference_mode()
    def recognise(self, sounds: Sequence[Sound]) -> tuple[Recognised, ...]:
        """See `Recogniser.recognise`. How many sounds the memory has room for is the caller's to know.

        Segments carry words where they are asked for.
        """
        windows = [self._begin(sound) for sound in sounds]
        waiting = [window for window in windows if window.speech]
        for _ in range(_MOST_ROUNDS):
            if not waiting:
                break
            self._decode_round(waiting)
            waiting = [window for window in waiting if window.at_ms < window.length_ms]
        return tuple(Recognised(tuple(window.segments), window.language) for window in windows)

    def _begin(self, sound: Sound) -> _Window:
        language = sound.asked.language and primary_language(sound.asked.language)
        if language is not None and language not in self.info.languages:
            raise UnsupportedLanguageError(f"The model does not know this language. {self._known()}")
        if sound.asked.task == "translate" and not self.info.translates:
            raise UnsupportedTaskError
        samples = np.frombuffer(sound.pcm, "<i2")[:N_SAMPLES].astype(np.float32) / _FULL_SCALE
        speech = find_speech(sound.pcm)
        if language is None and not self._model.is_multilingual:
            language = "en"
        return _Window(sound.asked, samples, speech, language, first_start(speech) if speech else 0)

    def _known(self) -> str:
        return f"It knows: {', '.join(self.info.languages)}."

    def _decode_round(self, windows: list[_Window]) -> None:
        mels = torch.stack([self._mel(window) for window in windows])
        features = self._model.encoder(mels)
        self._find_languages(windows, features)
        for window, mel, result in zip(windows, mels, self._decode(windows, features), strict=True):
            self._take(window, mel, result)

    def _mel(self, window: _Window) -> Tensor:
        """The spectrogram of what is left, with silence up to 30 s, as the model was trained."""
        samples = whisper.pad_or_trim(window.samples[window.at_ms * _SAMPLES_PER_MS :])
        mel = whisper.log_mel_spectrogram(samples, self._model.dims.n_mels, device=self._model.device)
        return mel.half() if self._is_half else mel

    def _find_languages(self, windows: list[_Window], features: Tensor) -> None:
        unknown = [number for number, window in enumerate(windows) if window.language is None]
        if unknown:
            _, found = self._model.detect_language(features[unknown])
            for number, probabilities in zip(unknown, found, strict=True):
                windows[number].language = max(probabilities, key=probabilities.__getitem__)

    def _decode(self, windows: list[_Window], features: Tensor) -> list[DecodingResult]:
        """The first result of each window that passes, or its last."""
        results: dict[int, DecodingResult] = {}
        failed = list(range(len(windows)))
        attempt = 0
        while failed:
            for options, members in self._by_options(windows, failed, attempt):
                results.update(zip(members, self._run(options, features[members]), strict=True))
            attempt += 1
            failed = [
                number
                for number in failed
                if should_fall_back(results[number])
                and attempt < len(temperatures(windows[number].asked.temperature))
            ]
        return [results[number] for number in range(len(windows))]

    def _by_options(
        self, windows: list[_Window], numbers: list[int], attempt: int
    ) -> Iterator[tuple[DecodingOptions, list[int]]]:
        """Windows that the decoder can take together."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for number in numbers:
            window = windows[number]
            temperature = temperatures(window.asked.temperature)[attempt]
            key = (window.language, window.asked.task, window.asked.prompt, temperature)
            groups.setdefault(key, []).append(number)
        for (language, task, _, temperature), members in groups.items():
            options = DecodingOptions(
                task=task,
                language=language,
                temperature=temperature,
                prompt=self._prompt(windows[members[0]]),
                fp16=self._is_half,
            )
            yield options, members

    def _prompt(self, window: _Window) -> list[int] | None:
        """The last tokens of the prompt; what looks like a mark of the decoder in it is plain text."""
        if not (prompt := window.asked.prompt.strip()):
            return None
        tokens = self._tokenizer(window).encode(" " + prompt, disallowed_special=())
        return tokens[-self._most_prompt_tokens :]

    def _run(self, options: DecodingOptions, features: Tensor) -> list[DecodingResult]:
        task = DecodingTask(self._model, options)
        if options.temperature > 0:
            task.decoder = SteadySampler(options.temperature, task.tokenizer.eot)
        return task.run(features)

    def _take(self, window: _Window, mel: Tensor, result: DecodingResult) -> None:
        """Add what was said, and go on to where more is said, or to the end."""
        begun_ms, length_ms = window.at_ms, window.length_ms - window.at_ms
        window.at_ms = window.length_ms
        if is_silence(result) or is_repetitive(result):
            return
        is_cut_off = len(result.tokens) >= self._most_tokens
        tokenizer = self._tokenizer(window)
        pieces, told_ms = cut(result.tokens, tokenizer.timestamp_begin, length_ms, is_cut_off)
        pieces = [
            piece
            for piece in pieces
            if tokenizer.decode(piece.tokens).strip()
            and not is_made_up(window.speech, begun_ms + piece.start_ms, begun_ms + piece.end_ms)
        ]
        words = (
            self._words(window, mel, pieces, length_ms) if window.asked.wants_words else [()] * len(pieces)
        )
        for piece, of_piece in zip(pieces, words, strict=True):
            window.segments.append(self._segment(window, begun_ms, piece, of_piece))
        next_ms = left_out(window.speech, begun_ms + told_ms)
        if next_ms is not None and next_ms >= begun_ms + _LEAST_PROGRESS_MS:
            window.at_ms = next_ms

    def _segment(self, window: _Window, begun_ms: int, piece: Piece, words: Sequence[Word]) -> Segment:
        tag = self._script_tag(window)
        texts = self._scripts.convert_words([word.text for word in words], tag)
        start_ms, end_ms = begun_ms + piece.start_ms, begun_ms + piece.end_ms
        return Segment(
            self._scripts.convert(self._tokenizer(window).decode(piece.tokens).strip(), tag),
            start_ms,
            end_ms,
            tuple(
                Word(text, begun_ms + word.start_ms, begun_ms + word.end_ms)
                for text, word in zip(texts, words, strict=True)
            ),
        )

    def _script_tag(self, window: _Window) -> str:
        """The tag whose script the text is to have: what is translated is English."""
        return window.asked.language or "" if window.asked.task == "transcribe" else ""

    def _words(
        self, window: _Window, mel: Tensor, pieces: list[Piece], length_ms: int
    ) -> list[tuple[Word, ...]]:
        """Words of each piece, aligned by the model's cross-attention; in order, inside their piece."""
        segments: list[dict[str, Any]] = [
            {"seek": 0, "start": piece.start_ms / 1000, "end": piece.end_ms / 1000, "tokens": piece.tokens}
            for piece in pieces
        ]
        add_word_timestamps(
            segments=segments,
            model=self._model,
            tokenizer=self._tokenizer(window),
            mel=mel,
            num_frames=length_ms * _SAMPLES_PER_MS // HOP_LENGTH,
            last_speech_timestamp=0.0,
        )
        return [
            tuple(_inside(piece, segment.get("words", ())))
            for piece, segment in zip(pieces, segments, strict=True)
        ]

    def _tokenizer(self, window: _Window) -> Tokenizer:
        return get_tokenizer(
            self._model.is_multilingual,
            num_languages=self._model.num_languages,
            language=window.language,
            task=window.asked.task,
        )


def _inside(piece: Piece, timings: Sequence[dict[str, Any]]) -> Iterator[Word]:
    """Alignment may stray past a segment's own timestamps, which are the better known."""
    last_ms = piece.start_ms
    for timing in timings:
        start_ms = min(max(round(timing["start"] * 1000), last_ms), piece.end_ms)
        last_ms = min(max(round(timing["end"] * 1000), start_ms), piece.end_ms)
        if text := timing["word"].strip():
            yield Word(text, start_ms, last_ms)
