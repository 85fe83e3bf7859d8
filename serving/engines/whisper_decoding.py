"""What Whisper's decoder writes, judged and cut into segments.

The rules are those of `whisper.transcribe` (openai-whisper), taken apart so that they hold for each window of
a batch by itself; the thresholds are its defaults.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from whisper.decoding import DecodingResult, GreedyDecoder

from serving.engines.speech_detection import Span

_HIGHEST_TEMPERATURE = 1.0
_TEMPERATURE_STEP = 0.2
_MOST_COMPRESSION = 2.4
_LEAST_LOG_PROBABILITY = -1.0
_MOST_NO_SPEECH = 0.6

_MS_PER_TIMESTAMP = 20
_LEAST_LEFT_OUT_MS = 800
_SHORTEST_LEFT_OUT_MS = 300
_LEAD_MS = 300
_FAR_FROM_SPEECH_MS = 1000
_SEED = 1


class Piece(NamedTuple):
    """Text tokens between two timestamps, in ms from where decoding began."""

    tokens: list[int]
    start_ms: int
    end_ms: int


def temperatures(first: float) -> list[float]:
    """What a window is decoded at, one after the other until a result passes: `first`, then 0.2 more."""
    steps = int((_HIGHEST_TEMPERATURE - first) / _TEMPERATURE_STEP + 1e-6)
    return [round(first + _TEMPERATURE_STEP * step, 6) for step in range(steps + 1)]


def is_silence(result: DecodingResult) -> bool:
    """The model itself doubts that anybody speaks, and what it wrote."""
    return result.no_speech_prob > _MOST_NO_SPEECH and result.avg_logprob < _LEAST_LOG_PROBABILITY


def is_repetitive(result: DecodingResult) -> bool:
    """A text that zlib shrinks this much is one that goes round in circles."""
    return result.compression_ratio > _MOST_COMPRESSION


def should_fall_back(result: DecodingResult) -> bool:
    """Whether a higher temperature may do better."""
    if is_silence(result):
        return False
    return is_repetitive(result) or result.avg_logprob < _LEAST_LOG_PROBABILITY


def cut(
    tokens: Sequence[int], timestamp_begin: int, length_ms: int, is_cut_off: bool
) -> tuple[list[Piece], int]:
    """Pieces of text, none of them past `length_ms`, and up to where they tell what was said, in ms.

    Windows end in a pause, so a piece that is open at the end is closed there. Only where the decoder was
    stopped by its limit of tokens (`is_cut_off`) is the open piece left for decoding anew from its start; a
    window that is one such piece is taken as it is.
    """
    pieces: list[Piece] = []
    start_ms = 0
    text: list[int] = []
    for token in tokens:
        if token < timestamp_begin:
            text.append(token)
            continue
        at_ms = min((token - timestamp_begin) * _MS_PER_TIMESTAMP, length_ms)
        if text:
            pieces.append(Piece(text, start_ms, at_ms))
            text = []
        start_ms = at_ms
    if not text or (is_cut_off and pieces):
        return pieces, start_ms
    return [*pieces, Piece(text, start_ms, length_ms)], length_ms


def left_out(speech: Sequence[Span], from_ms: int) -> int | None:
    """Where speech goes on after the model stopped writing, with a little before it; None where it does not.

    The end of a word is no speech that was left out, nor is a cough: it takes 0.8 s in all.
    """
    rest = [Span(max(span.start_ms, from_ms), span.end_ms) for span in speech]
    rest = [span for span in rest if span.end_ms - span.start_ms >= _SHORTEST_LEFT_OUT_MS]
    if sum(span.end_ms - span.start_ms for span in rest) < _LEAST_LEFT_OUT_MS:
        return None
    return max(from_ms, rest[0].start_ms - _LEAD_MS)


def first_start(speech: Sequence[Span]) -> int:
    """Where decoding begins, in ms: at 0, or shortly before the first word when that takes a while to come.

    Whisper may set a first timestamp within the first second only.
    """
    start_ms = speech[0].start_ms
    return start_ms - _LEAD_MS if start_ms > _FAR_FROM_SPEECH_MS else 0


def is_made_up(speech: Sequence[Span], start_ms: int, end_ms: int) -> bool:
    """Whether a text stands where nobody speaks for a second before and after."""
    return not any(
        span.start_ms < end_ms + _FAR_FROM_SPEECH_MS and start_ms - _FAR_FROM_SPEECH_MS < span.end_ms
        for span in speech
    )


class SteadySampler(GreedyDecoder):
    """Draws tokens at a temperature so that a window's text does not depend on its batch.

    A draw from softmax(logits / T) is the argmax of logits / T plus Gumbel noise. The noise has a fixed seed
    and is the same for every row, so each row is drawn as it would be alone, and again the same next time.
    """

    def __init__(self, temperature: float, eot: int) -> None:
        super().__init__(temperature, eot)
        self._generator: torch.Generator | None = None

    def reset(self) -> None:
        """Called by the library before a batch."""
        self._generator = None

    def update(self, tokens: Tensor, logits: Tensor, sum_logprobs: Tensor) -> tuple[Tensor, bool]:
        """One more token for each row; see `whisper.decoding.TokenDecoder.update`."""
        if self._generator is None:
            self._generator = torch.Generator(logits.device).manual_seed(_SEED)
        uniform = torch.rand(logits.shape[-1], generator=self._generator, device=logits.device)
        drawn = (logits / self.temperature - torch.log(-torch.log(uniform))).argmax(dim=-1)
        log_probabilities = functional.log_softmax(logits.float(), dim=-1)
        has_ended = tokens[:, -1] == self.eot
        sum_logprobs += log_probabilities.gather(1, drawn[:, None])[:, 0] * ~has_ended
        drawn[has_ended] = self.eot
        return torch.cat([tokens, drawn[:, None]], dim=-1), bool((drawn == self.eot).all())
