"""A transcript in the formats that OpenAI's endpoint has. Pure."""

from typing import Literal

import msgspec

from openapi.wire import (
    DurationUsage,
    TranscriptionBody,
    TranscriptionSegment,
    TranscriptionWord,
    VerboseTranscriptionBody,
)
from serving.contract import Segment, Task, Transcript, Word
from serving.languages import LANGUAGE_NAMES

TranscriptFormat = Literal["json", "text", "srt", "vtt", "verbose_json"]


def render(
    transcript: Transcript, form: TranscriptFormat, granularities: frozenset[str], task: Task
) -> tuple[bytes, str]:
    """The body and its content type."""
    if form == "json":
        body = TranscriptionBody(transcript.text, _usage(transcript))
        return msgspec.json.encode(body), "application/json"
    if form == "verbose_json":
        return msgspec.json.encode(_verbose(transcript, granularities, task)), "application/json"
    text = {"text": _text, "srt": _srt, "vtt": _vtt}[form](transcript)
    return text.encode(), "text/vtt; charset=utf-8" if form == "vtt" else "text/plain; charset=utf-8"


def language_name(code: str, task: Task) -> str:
    """The name of the language that a text is in: what is translated is English."""
    spoken = code if task == "transcribe" else "en"
    return LANGUAGE_NAMES.get(spoken, spoken)


def word_body(word: Word) -> TranscriptionWord:
    return TranscriptionWord(word.text, word.start_ms / 1000, word.end_ms / 1000)


def _usage(transcript: Transcript) -> DurationUsage:
    return DurationUsage(transcript.audio_ms / 1000)


def _verbose(transcript: Transcript, granularities: frozenset[str], task: Task) -> VerboseTranscriptionBody:
    return VerboseTranscriptionBody(
        task=task,
        language=language_name(transcript.language, task),
        duration=transcript.duration_ms / 1000,
        text=transcript.text,
        usage=_usage(transcript),
        segments=[
            TranscriptionSegment(
                number,
                segment.start_ms / 1000,
                segment.end_ms / 1000,
                segment.text,
                channel=msgspec.UNSET if segment.channel is None else segment.channel,
            )
            for number, segment in enumerate(transcript.segments)
        ]
        if "segment" in granularities
        else msgspec.UNSET,
        words=[word_body(word) for segment in transcript.segments for word in segment.words]
        if "word" in granularities
        else msgspec.UNSET,
    )


def _text(transcript: Transcript) -> str:
    return transcript.text + "\n"


def _srt(transcript: Transcript) -> str:
    """SubRip: numbered cues, a comma before the milliseconds. It has no place for who speaks but the text."""
    return "".join(
        f"{number}\n{_span(segment, ',')}\n{_prefix(segment)}{segment.text}\n\n"
        for number, segment in enumerate(transcript.segments, start=1)
    )


def _prefix(segment: Segment) -> str:
    return "" if segment.channel is None else f"Channel {segment.channel}: "


def _vtt(transcript: Transcript) -> str:
    """WebVTT (W3C): a header, a point before the milliseconds, a voice tag for who speaks."""
    return "WEBVTT\n\n" + "".join(
        f"{_span(segment, '.')}\n{_voice(segment)}{segment.text}\n\n" for segment in transcript.segments
    )


def _voice(segment: Segment) -> str:
    """A voice that goes on to the cue's end need not be closed."""
    return "" if segment.channel is None else f"<v Channel {segment.channel}>"


def _span(segment: Segment, point: str) -> str:
    return f"{_clock(segment.start_ms, point)} --> {_clock(segment.end_ms, point)}"


def _clock(at_ms: int, point: str) -> str:
    seconds, ms = divmod(at_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{seconds:02d}{point}{ms:03d}"
