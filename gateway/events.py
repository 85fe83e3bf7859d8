"""Server-sent events (WHATWG HTML, 9.2) as OpenAI's clients read them: transcripts, speech, and a failure.

An event is a line of `data:`, whose `type` says what it is. Only a failure has a name beside it, `error`:
clients know it by its name or by its body, which is that of any other error.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from gateway.answer import Piece, StreamKind
from gateway.errors import error_body
from gateway.transcripts import language_name, word_body
from infra.errors import DomainError
from openapi.wire import (
    DurationUsage,
    SpeechDeltaEvent,
    SpeechDoneEvent,
    SpeechUsage,
    TranscriptDeltaEvent,
    TranscriptDoneEvent,
    TranscriptSegmentEvent,
)
from serving.contract import Segment, SpeechPiece, Task, language_code
from serving.joining import gap
from serving.listening import Listening
from serving.transcription import Heard

EVENT_STREAM = "text/event-stream"


def event_stream(headers: tuple[tuple[bytes, bytes], ...] = ()) -> StreamKind:
    """A stream of events; proxies are asked to pass each on when it comes."""
    unheld = ((b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no"))
    return StreamKind(EVENT_STREAM, (*headers, *unheld), error_event)


def event_of(data: msgspec.Struct) -> bytes:
    """One event."""
    return b"data: " + msgspec.json.encode(data) + b"\n\n"


def error_event(error: DomainError) -> bytes:
    """The event that ends a stream which breaks off."""
    return b"event: error\n" + event_of(error_body(error))


class TranscriptEvents:
    """The events of one transcript: what all deltas say together is the text of the last event.

    Args:
        is_verbose: whether segments are given with their times, and the language at the end.
        wants_words: whether segments have their words.
    """

    def __init__(self, task: Task, *, is_verbose: bool, wants_words: bool) -> None:
        self._task: Task = task
        self._is_verbose = is_verbose
        self._wants_words = wants_words
        self._texts: list[str] = []
        self._last = ""
        self._segments = 0
        self._language: str | None = None

    def heard(self, heard: Heard) -> bytes:
        """What one window adds; nothing where nobody speaks."""
        self._language = heard.language
        return b"".join(self._of_segment(segment) for segment in heard.segments)

    def done(self, audio_ms: int, duration_ms: int) -> bytes:
        """The end: what is charged, and how long the file is."""
        event = TranscriptDoneEvent("".join(self._texts), DurationUsage(audio_ms / 1000))
        if self._is_verbose:
            language = language_name(language_code(self._language), self._task)
            event = msgspec.structs.replace(event, language=language, duration=duration_ms / 1000)
        return event_of(event)

    def _of_segment(self, segment: Segment) -> bytes:
        delta = gap(self._last, segment.text) + segment.text
        self._texts.append(delta)
        self._last = segment.text or self._last
        if not self._is_verbose:
            return event_of(TranscriptDeltaEvent(delta))
        segment_id = f"seg_{self._segments}"
        self._segments += 1
        told = TranscriptSegmentEvent(
            segment_id,
            segment.start_ms / 1000,
            segment.end_ms / 1000,
            segment.text,
            channel=msgspec.UNSET if segment.channel is None else segment.channel,
        )
        if self._wants_words:
            told = msgspec.structs.replace(told, words=[word_body(word) for word in segment.words])
        return event_of(TranscriptDeltaEvent(delta, segment_id)) + event_of(told)


async def transcript_pieces(listening: Listening, events: TranscriptEvents) -> AsyncGenerator[Piece, None]:
    """A transcript's events, window by window; each window delivers its milliseconds."""
    audio_ms, ends_ms = listening.audio_ms, dict[int | None, int]()
    async with aclosing(listening.windows) as windows:
        async for heard in windows:
            ends_ms[heard.channel] = heard.end_ms
            # The last millisecond comes with the last event: a transcript that lacks it is not whole.
            yield Piece(events.heard(heard), min(sum(ends_ms.values()), audio_ms - 1))
    yield Piece(events.done(audio_ms, audio_ms // max(1, len(ends_ms))), audio_ms)


async def sound_pieces(sound: AsyncGenerator[SpeechPiece, None]) -> AsyncGenerator[Piece, None]:
    """Speech as it is: the pieces of a file."""
    async with aclosing(sound) as pieces:
        async for piece in pieces:
            yield Piece(piece.sound, piece.characters)


async def speech_pieces(
    sound: AsyncGenerator[SpeechPiece, None], characters: int
) -> AsyncGenerator[Piece, None]:
    """Speech as events; the piece that makes the text whole is the last one, and has the last event too."""
    async with aclosing(sound) as pieces:
        async for piece in pieces:
            body = event_of(SpeechDeltaEvent(piece.sound)) if piece.sound else b""
            if piece.characters == characters:
                body += event_of(SpeechDoneEvent(SpeechUsage(characters)))
            yield Piece(body, piece.characters)
