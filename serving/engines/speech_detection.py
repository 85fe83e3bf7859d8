"""Where somebody speaks, found by WebRTC's voice activity detector."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.contract import RECOGNITION_RATE_HZ

_FRAME_MS = 30
_FRAME_SAMPLES = RECOGNITION_RATE_HZ * _FRAME_MS // 1000
_BYTES_PER_SAMPLE = 2
_LENIENT = 1  # of 0 to 3: a word taken for noise is worse than noise taken for a word
_SHORTEST_MS = 150  # the detector takes the first 120 ms of any noise for speech
_LONGEST_GAP_MS = 300
_LEVEL_FRAMES = 33
_LEAST_SPREAD_DB = 3.0


class Span(NamedTuple):
    start_ms: int
    end_ms: int


def find_speech(pcm: bytes) -> list[Span]:
    """Stretches of speech in mono s16le at 16 kHz, in order, with gaps of 300 ms or more between them.

    WebRTC's detector takes loud noise and tones for speech. What tells them apart is that speech rises and
    falls: where the level stays within 3 dB for a second, nobody speaks.
    """
    import webrtcvad

    detector = webrtcvad.Vad(_LENIENT)
    frames = np.frombuffer(pcm, "<i2")[: len(pcm) // _BYTES_PER_SAMPLE // _FRAME_SAMPLES * _FRAME_SAMPLES]
    if not len(frames):
        return []
    is_moving = _spread_db(frames.reshape(-1, _FRAME_SAMPLES)) >= _LEAST_SPREAD_DB
    spans: list[Span] = []
    for number, moves in enumerate(is_moving):
        at = number * _FRAME_SAMPLES * _BYTES_PER_SAMPLE
        if (
            detector.is_speech(pcm[at : at + _FRAME_SAMPLES * _BYTES_PER_SAMPLE], RECOGNITION_RATE_HZ)
            and moves
        ):
            start_ms = number * _FRAME_MS
            if spans and start_ms - spans[-1].end_ms < _LONGEST_GAP_MS:
                spans[-1] = Span(spans[-1].start_ms, start_ms + _FRAME_MS)
            else:
                spans.append(Span(start_ms, start_ms + _FRAME_MS))
    return [span for span in spans if span.end_ms - span.start_ms >= _SHORTEST_MS]


def _spread_db(frames: NDArray[np.int16]) -> NDArray[np.float64]:
    """For each frame, how far levels lie apart in the second around it."""
    levels = 10 * np.log10(np.mean(np.square(frames.astype(np.float64)), axis=1) + 1.0)
    around = np.lib.stride_tricks.sliding_window_view(
        np.pad(levels, _LEVEL_FRAMES // 2, mode="edge"), _LEVEL_FRAMES
    )
    return around.max(axis=1) - around.min(axis=1)
