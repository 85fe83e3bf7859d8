"""Speech to text by pocketsphinx, with the US English model that its wheel carries."""

import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from serving.contract import (
    RECOGNITION_RATE_HZ,
    EngineInfo,
    Recognised,
    Segment,
    Sound,
    Word,
    primary_language,
)
from serving.errors import UnsupportedLanguageError, UnsupportedTaskError

_MS_PER_FRAME = 10
_PAUSE_MS = 500
_ALTERNATE = re.compile(r"\(\d+\)$")
_BYTES_PER_SAMPLE = 2
_NOISE_SEED = 1
_SHORTEST_SAMPLES = RECOGNITION_RATE_HZ // 20
_SILENCE = bytes(RECOGNITION_RATE_HZ // 5 * _BYTES_PER_SAMPLE)

INFO = EngineInfo(
    product="asr",
    engine="pocketsphinx",
    model="pocketsphinx-en-us",
    version=version("pocketsphinx"),
    languages=("en",),
)


class PocketsphinxRecogniser:
    """A small model: good for plain sentences spoken clearly, far from Whisper on free speech.

    It holds the interpreter lock while it works (about a tenth of the sound's length), so a server runs
    it in a process of its own: see `serving.engines.isolated`.

    The settings were chosen on synthetic speech: noise of one bit keeps digital silence from upsetting the
    features (the library's own goes on from call to call; this one is the same for every window), the flat
    second pass is off and active states are bounded at 3,000 a frame. Together they take a third of the
    time of the library's defaults, with no more errors.
    """

    info = INFO

    def __init__(self) -> None:
        from pocketsphinx import Decoder

        self._decoder: Any = Decoder(
            samprate=RECOGNITION_RATE_HZ,
            loglevel="FATAL",
            fwdflat=False,
            maxhmmpf=3000,
        )

    def recognise(self, sounds: Sequence[Sound]) -> tuple[Recognised, ...]:
        """One sound after the other. Words between two pauses of half a second or more make a segment.

        Raises:
            UnsupportedLanguageError: any language but English.
            UnsupportedTaskError: any translation.
        """
        return tuple(self._recognise(sound) for sound in sounds)

    def _recognise(self, sound: Sound) -> Recognised:
        language = sound.asked.language
        if language is not None and primary_language(language) not in INFO.languages:
            raise UnsupportedLanguageError("This engine knows English only. Send language=en, or none.")
        if sound.asked.task == "translate":
            raise UnsupportedTaskError
        return Recognised(self._segments(sound.pcm), INFO.languages[0])

    def _segments(self, pcm: bytes) -> tuple[Segment, ...]:
        if len(pcm) < _SHORTEST_SAMPLES * _BYTES_PER_SAMPLE:
            return ()
        # The decoder starts from the noise and the states that it last heard: let that be the same silence.
        self._decode(_SILENCE)
        self._decode(pcm)
        return tuple(_segments(self._words()))

    def _decode(self, pcm: bytes) -> None:
        self._decoder.reinit_feat()
        self._decoder.start_utt()
        self._decoder.process_raw(_dithered(pcm), no_search=False, full_utt=True)
        self._decoder.end_utt()

    def _words(self) -> Iterator[Word]:
        for entry in self._decoder.seg() or ():
            # Silence is <sil>, <s>, </s>; noises are [NOISE] and ++UM++; a second pronunciation is word(2).
            if entry.word[0] not in "<[+":
                yield Word(
                    _ALTERNATE.sub("", entry.word),
                    entry.start_frame * _MS_PER_FRAME,
                    (entry.end_frame + 1) * _MS_PER_FRAME,
                )


def _dithered(pcm: bytes) -> bytes:
    samples = np.frombuffer(pcm, "<i2")
    noise = np.random.default_rng(_NOISE_SEED).integers(-1, 2, len(samples), np.int16)
    limit = np.iinfo(np.int16).max - 1
    return (np.clip(samples, -limit, limit) + noise).astype("<i2").tobytes()


def _segments(words: Iterator[Word]) -> Iterator[Segment]:
    spoken: list[Word] = []
    for word in words:
        if spoken and word.start_ms - spoken[-1].end_ms >= _PAUSE_MS:
            yield _segment(spoken)
            spoken = []
        spoken.append(word)
    if spoken:
        yield _segment(spoken)


def _segment(words: list[Word]) -> Segment:
    return Segment(" ".join(word.text for word in words), words[0].start_ms, words[-1].end_ms, tuple(words))
