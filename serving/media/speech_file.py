"""Spoken sentences to the pieces of one encoded file."""

from collections.abc import Iterator

from serving.contract import SpeechPiece, SpeechRequest, Spoken
from serving.errors import NothingToSpeakError
from serving.media.encode import speech_encoder

_FIRST_SLICE_S = 0.25
_LONGEST_SLICE_S = 8.0
_BYTES_PER_SAMPLE = 2


def speech_file(
    sentences: Iterator[Spoken], request: SpeechRequest, sample_rate_hz: int
) -> Iterator[SpeechPiece]:
    """Encode sentence by sentence, and each in slices: the first leaves while the others are encoded.

    A slice is twice as long as the one before it, up to 8 s, so that a reader who plays the first one has
    the next in time, and a long text comes in few pieces.

    Raises:
        NothingToSpeakError: there is no sentence.
    """
    encoder = speech_encoder(request.response_format, sample_rate_hz)
    slice_s = _FIRST_SLICE_S
    is_silent, complete = True, 0
    for spoken in sentences:
        is_silent, begun = False, 0
        while begun < len(spoken.pcm):
            end = begun + int(slice_s * sample_rate_hz) * _BYTES_PER_SAMPLE
            # The encoder holds a sentence's last moments back: it is complete when the next one comes.
            if encoded := encoder.feed(spoken.pcm[begun:end]):
                yield SpeechPiece(encoded, complete)
            begun, slice_s = end, min(2 * slice_s, _LONGEST_SLICE_S)
        complete = spoken.characters
    if is_silent:
        raise NothingToSpeakError
    yield SpeechPiece(encoder.finish(), len(request.text))
