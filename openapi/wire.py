"""Requests and answers. OpenAI's field names where OpenAI has the endpoint, so that its clients work.

Times are seconds as JSON numbers where OpenAI has them so; everything of ours names its unit.
"""

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

MAX_UPLOAD_BYTES = 25 * 1024 * 1024
MAX_SPEECH_CHARACTERS = 4096
MAX_INTENT_CHARACTERS = 2000
MAX_INTENT_TEXTS = 128


class ErrorDetail(Struct, frozen=True):
    """What went wrong: `message` for people, `code` for programs, `param` the field at fault."""

    message: str
    type: str
    code: str
    param: str | None


class ErrorBody(Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class SpeechBody(Struct, frozen=True):
    """`POST /v1/audio/speech`. `instructions` is accepted and has no effect on the bundled voices."""

    model: Annotated[str, Meta(description="`tts-1`, or a model of `GET /v1/models`.")]
    input: Annotated[str, Meta(description="The text to speak, up to 4,096 characters.")]
    voice: Annotated[
        str, Meta(description="An OpenAI voice such as `alloy`, or one of the model's `voices`.")
    ]
    response_format: Annotated[
        Literal["mp3", "opus", "aac", "flac", "wav", "pcm"],
        Meta(description="`pcm` is 24 kHz, 16 bit, mono."),
    ] = "mp3"
    speed: Annotated[float, Meta(ge=0.25, le=4.0, description="1 is the voice's own pace.")] = 1.0
    instructions: Annotated[
        str | None, Meta(description="Accepted; the bundled voices make no use of it.")
    ] = None
    stream_format: Annotated[
        Literal["audio", "sse"],
        Meta(description="`audio` is the file itself; `sse` is events, each with a piece of the file."),
    ] = "audio"


class IntentBody(Struct, frozen=True, forbid_unknown_fields=True):
    """`POST /v1/intents`: exactly one of `text` and `texts`.

    `model` names an intent set. `top_k` bounds the ranking. A best score under `threshold` is answered
    as out of scope; without it the set's own threshold holds.
    """

    model: Annotated[str, Meta(description="An intent set of `GET /v1/models`, such as `retail-en`.")]
    text: Annotated[str | None, Meta(description="A customer's sentence, up to 2,000 characters.")] = None
    texts: Annotated[
        Annotated[list[str], Meta(min_length=1, max_length=MAX_INTENT_TEXTS)] | None,
        Meta(description="Up to 128 sentences at once, instead of `text`."),
    ] = None
    top_k: Annotated[int, Meta(ge=1, le=500, description="How many intents to rank.")] = 3
    threshold: Annotated[
        Annotated[float, Meta(ge=0.0, le=1.0)] | None,
        Meta(description="A best score below it is out of scope. The set's own by default."),
    ] = None


class ModelObject(Struct, frozen=True):
    """One entry of `GET /v1/models`. `aliases` are other names under which it answers."""

    id: str
    owned_by: str
    product: Literal["asr", "intent", "tts"]
    engine: str
    languages: list[str]
    voices: list[str]
    intents: list[str]
    aliases: list[str]
    object: Literal["model"] = "model"
    created: int = 0


class ModelList(Struct, frozen=True):
    """`GET /v1/models`."""

    data: list[ModelObject]
    object: Literal["list"] = "list"


class DurationUsage(Struct, frozen=True):
    """What a transcription is charged for: the exact duration, to the millisecond, of each channel that was
    recognised by itself."""

    seconds: float
    type: Literal["duration"] = "duration"


class TranscriptionBody(Struct, frozen=True):
    """A transcription as `json`."""

    text: str
    usage: DurationUsage


class TranscriptionWord(Struct, frozen=True):
    """One word with its place in the sound, in seconds."""

    word: str
    start: float
    end: float


class TranscriptionSegment(Struct, frozen=True):
    """One stretch of speech, in seconds. Whisper's figures are null where the engine has none.

    `channel` is there where the channels were recognised each by itself: the first is 0.
    """

    id: int
    start: float
    end: float
    text: str
    seek: int = 0
    tokens: list[int] = msgspec.field(default_factory=list[int])
    temperature: float = 0.0
    avg_logprob: float | None = None
    compression_ratio: float | None = None
    no_speech_prob: float | None = None
    channel: int | msgspec.UnsetType = msgspec.UNSET


class VerboseTranscriptionBody(Struct, frozen=True, omit_defaults=False):
    """A transcription as `verbose_json`; words and segments as `timestamp_granularities[]` asks.

    A translation names the language of its text, which is English, and has segments. `duration` is the
    file's; `usage` is more where more than one channel was recognised.
    """

    task: Literal["transcribe", "translate"]
    language: str
    duration: float
    text: str
    usage: DurationUsage
    segments: list[TranscriptionSegment] | msgspec.UnsetType = msgspec.UNSET
    words: list[TranscriptionWord] | msgspec.UnsetType = msgspec.UNSET


class TranscriptDeltaEvent(Struct, frozen=True, omit_defaults=False):
    """More of a transcript that is streamed: all deltas together are its text.

    `segment_id` with `verbose_json`: the segment that the delta is the text of.
    """

    delta: str
    segment_id: str | msgspec.UnsetType = msgspec.UNSET
    type: Literal["transcript.text.delta"] = "transcript.text.delta"


class TranscriptSegmentEvent(Struct, frozen=True, omit_defaults=False):
    """A segment of a transcript that is streamed as `verbose_json`, in seconds; `words` where asked for.

    `speaker` is empty: who speaks is not told apart, but by `channel` where the channels are recognised each
    by itself.
    """

    id: str
    start: float
    end: float
    text: str
    speaker: str = ""
    words: list[TranscriptionWord] | msgspec.UnsetType = msgspec.UNSET
    channel: int | msgspec.UnsetType = msgspec.UNSET
    type: Literal["transcript.text.segment"] = "transcript.text.segment"


class TranscriptDoneEvent(Struct, frozen=True, omit_defaults=False):
    """The end of a transcript that is streamed: the whole text; with `verbose_json` language and duration."""

    text: str
    usage: DurationUsage
    language: str | msgspec.UnsetType = msgspec.UNSET
    duration: float | msgspec.UnsetType = msgspec.UNSET
    type: Literal["transcript.text.done"] = "transcript.text.done"


class SpeechUsage(Struct, frozen=True):
    """What speech is charged for: the text's characters. No tokens are counted, and so their fields are 0."""

    characters: int
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    type: Literal["characters"] = "characters"


class SpeechDeltaEvent(Struct, frozen=True):
    """A piece of the sound: decoded and put together, all of them are the file."""

    audio: bytes
    type: Literal["speech.audio.delta"] = "speech.audio.delta"


class SpeechDoneEvent(Struct, frozen=True):
    """The end of speech that is streamed as events."""

    usage: SpeechUsage
    type: Literal["speech.audio.done"] = "speech.audio.done"


class RankedIntent(Struct, frozen=True):
    """An intent and its probability within its set."""

    intent: str
    score: float


class IntentUsage(Struct, frozen=True):
    """What an intent call is charged for: one `intent.calls` unit a text."""

    units: int
    meter: Literal["intent.calls"] = "intent.calls"


class IntentResult(Struct, frozen=True):
    """The answer to one of `texts`. `intent` is null when the text is out of scope."""

    intent: str | None
    score: float
    out_of_scope: bool
    ranking: list[RankedIntent]


class IntentAnswerBody(Struct, frozen=True):
    """The answer to `text`."""

    id: str
    model: str
    intent: str | None
    score: float
    out_of_scope: bool
    ranking: list[RankedIntent]
    usage: IntentUsage
    object: Literal["intent"] = "intent"


class IntentListBody(Struct, frozen=True):
    """The answer to `texts`, in their order."""

    id: str
    model: str
    results: list[IntentResult]
    usage: IntentUsage
    object: Literal["list"] = "list"


class MeterUsageBody(Struct, frozen=True):
    """A meter's sum: charged calls and the units they used."""

    units: int
    calls: int


class DayUsageBody(Struct, frozen=True):
    """One day of the tenant's own calendar, by meter."""

    date: str
    meters: dict[str, MeterUsageBody]


class UsageBody(Struct, frozen=True):
    """`GET /v1/usage`: the caller's tenant in one month of its own calendar."""

    period: str
    meters: dict[str, MeterUsageBody]
    days: list[DayUsageBody]


class ReceiptBody(Struct, frozen=True):
    """`GET /v1/calls/{id}`: what one call was charged.

    `amount` is for people. `amount_nanos` is exact, in billionths of the currency's unit: a whole number,
    or `numerator/denominator`; an invoice line adds these up and rounds once. A call that was taken back,
    since its answer did not leave, is `voided` and costs nothing. `ran_on` says whether the call was answered
    by an engine here or sent to the remote endpoint that `engine` then names.
    """

    id: str
    status: Literal["charged", "voided"]
    created: datetime
    model: str
    engine: str
    ran_on: Literal["local", "remote"]
    key_id: str
    meter: str
    units: int
    period: str
    price_version: str
    amount: str
    amount_nanos: str
    currency: str
    object: Literal["call"] = "call"


class HealthBody(Struct, frozen=True):
    """`GET /healthz`: the process answers."""

    status: Literal["ok"] = "ok"


class ReadyBody(Struct, frozen=True):
    """`GET /readyz`: whether calls can be answered, part by part."""

    ready: bool
    parts: dict[str, bool]
