"""What the other side answers, as far as it is read: OpenAI's `verbose_json`, and our own intents."""

from typing import Annotated

from msgspec import Meta, Struct

Seconds = Annotated[float, Meta(ge=0)]
Score = Annotated[float, Meta(ge=0, le=1)]


class WordBody(Struct, frozen=True):
    word: str
    start: Seconds
    end: Seconds


class SegmentBody(Struct, frozen=True):
    text: str
    start: Seconds
    end: Seconds


class TranscriptionBody(Struct, frozen=True):
    """`language` is Whisper's name of it, or its code."""

    text: str
    language: str | None = None
    segments: list[SegmentBody] | None = None
    words: list[WordBody] | None = None


class RankedBody(Struct, frozen=True):
    intent: str
    score: Score


class ResultBody(Struct, frozen=True):
    """`intent` is null where the text is out of scope."""

    score: Score
    out_of_scope: bool
    ranking: Annotated[list[RankedBody], Meta(min_length=1)]


class IntentListBody(Struct, frozen=True):
    results: list[ResultBody]
