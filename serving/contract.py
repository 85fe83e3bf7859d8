"""The structs that cross the wire to Ray, and the interfaces that engines fulfil."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:  # a gateway worker and a replica without numbers load no numpy
    import numpy as np
    from numpy.typing import NDArray

T = TypeVar("T")
Product = Literal["asr", "intent", "tts"]
Task = Literal["transcribe", "translate"]
SpeechFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
Channels = Literal["mix", "split"]

MEDIA_TYPES: dict[SpeechFormat, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}

RECOGNITION_RATE_HZ = 16_000
"""Sample rate of every `Window`: mono, signed 16-bit little-endian."""

SPEECH_RATE_HZ = 24_000
"""Sample rate of all speech that leaves, in every format."""


class EngineInfo(msgspec.Struct, frozen=True):
    """Which engine answers for a product.

    `languages` are codes of ISO 639; empty means that the voice or the intent set decides. `translates` says
    that the recogniser turns speech into English text.
    """

    product: Product
    engine: str
    model: str
    version: str
    languages: tuple[str, ...] = ()
    voices: tuple[str, ...] = ()
    translates: bool = False


class Word(msgspec.Struct, frozen=True):
    text: str
    start_ms: int
    end_ms: int


class Segment(msgspec.Struct, frozen=True):
    """A stretch of speech between two pauses; `channel` as its window's."""

    text: str
    start_ms: int
    end_ms: int
    words: tuple[Word, ...] = ()
    channel: int | None = None


class Window(msgspec.Struct, frozen=True):
    """At most 30 s of sound: `pcm` is mono s16le at 16 kHz; `start_ms` counts from the file's beginning.

    `channel` is which of the file's it is, from 0; None where they are mixed.
    """

    pcm: bytes
    start_ms: int
    duration_ms: int
    channel: int | None = None


class RecognitionRequest(msgspec.Struct, frozen=True):
    """What is asked of a recogniser.

    Attributes:
        language: the language spoken, as a tag (RFC 5646); None has the engine find out.
        task: `translate` asks for English text.
        prompt: words that may come, such as names; an engine may make no use of it.
        temperature: 0 to 1, how freely words are drawn; an engine may make no use of it.
        wants_words: whether segments need words; an engine that has them anyway may give them unasked.
        channels: whether a file's channels are mixed into one, or each is recognised by itself. It is done
            when the file is decoded: an engine makes no use of it.
    """

    language: str | None = None
    task: Task = "transcribe"
    prompt: str = ""
    temperature: float = 0.0
    wants_words: bool = True
    channels: Channels = "mix"


class Sound(msgspec.Struct, frozen=True):
    """A window's sound and what is asked of it: mono s16le at 16 kHz, 30 s at most."""

    pcm: bytes
    asked: RecognitionRequest


class Recognised(msgspec.Struct, frozen=True):
    """What was heard in one sound; times count from its beginning.

    `language` is the spoken language's code, None where nothing was heard and none was asked for.
    """

    segments: tuple[Segment, ...]
    language: str | None


class Transcript(msgspec.Struct, frozen=True):
    """What was said, in order of time.

    `audio_ms` is the decoded length of all that was recognised: the unit that is charged. Where the channels
    of a file were recognised each by itself, that is the file's length once for each of the `channels`.
    `language` is a code of ISO 639: `und` where nothing was heard and no language was asked for.
    """

    text: str
    language: str
    audio_ms: int
    segments: tuple[Segment, ...]
    engine: str
    model: str
    channels: int = 1

    @property
    def duration_ms(self) -> int:
        """The length of the file."""
        return self.audio_ms // self.channels


class Answered(msgspec.Struct, Generic[T], frozen=True):
    """An answer, and who gave it: `engine` says also where that was, see `serving.placement`."""

    value: T
    engine: str
    model: str


class SpeechRequest(msgspec.Struct, frozen=True):
    """`speed` is a factor from 0.25 to 4.0; 1.0 is the voice's own pace."""

    text: str
    voice: str
    speed: float = 1.0
    response_format: SpeechFormat = "mp3"


class Spoken(msgspec.Struct, frozen=True):
    """A piece of speech: mono s16le at the engine's rate, and how many characters of the text are spoken
    when it ends."""

    pcm: bytes
    characters: int


class SpeechPiece(msgspec.Struct, frozen=True):
    """A piece of the encoded file, and how many characters of the text are wholly in it when it ends."""

    sound: bytes
    characters: int


class IntentScore(msgspec.Struct, frozen=True):
    name: str
    score: float


class IntentAnswer(msgspec.Struct, frozen=True):
    """The most probable intent of one text.

    `ranking` holds the `top_k` best in falling order; scores are probabilities over the set's intents.
    `out_of_scope` says that the best score is below the threshold: the text is probably none of them.
    """

    intent: str
    score: float
    ranking: tuple[IntentScore, ...]
    out_of_scope: bool


class IntentInfo(msgspec.Struct, frozen=True):
    name: str
    description: str


class IntentSetInfo(msgspec.Struct, frozen=True):
    """A set that can be asked for by name; `threshold` is what applies when a request names none."""

    name: str
    language: str
    description: str
    intents: tuple[IntentInfo, ...]
    threshold: float


class Catalog(msgspec.Struct, frozen=True):
    """What is deployed: what `GET /v1/models` lists and what requests are checked against."""

    engines: tuple[EngineInfo, ...]
    intent_sets: tuple[IntentSetInfo, ...]

    def engine(self, product: Product) -> EngineInfo:
        """The engine of a product; every product has exactly one."""
        return next(engine for engine in self.engines if engine.product == product)

    def intent_set(self, name: str) -> IntentSetInfo | None:
        """The set of that name, or None."""
        return next((known for known in self.intent_sets if known.name == name), None)

    def has_voice(self, voice: str) -> bool:
        """Whether the speech engine has this voice."""
        return voice in self.engine("tts").voices

    def recognises(self, language: str) -> bool:
        """Whether the recogniser knows this language; `en-US` counts as `en`."""
        return primary_language(language) in self.engine("asr").languages


def primary_language(tag: str) -> str:
    """The first part of a language tag (RFC 5646), in lower case: `en` of `en-US`."""
    return tag.replace("_", "-").partition("-")[0].lower()


def language_code(tag: str | None) -> str:
    """The code of a transcript's language: `und` (ISO 639-2) where it is not known."""
    return primary_language(tag or "und")


class Recogniser(Protocol):
    """Speech to text, for sounds of different requests together. Blocks."""

    @property
    def info(self) -> EngineInfo: ...

    def recognise(self, sounds: Sequence[Sound]) -> tuple[Recognised, ...]:
        """One answer per sound, in the order given; what is answered does not depend on the others.

        Raises:
            UnsupportedLanguageError: the engine does not know the language of one of them.
            UnsupportedTaskError: one of them asks for a translation, which the engine cannot make.
        """
        ...


class SentenceEncoder(Protocol):
    """Sentences to vectors of length 1. Blocks.

    `identity` is another for every encoder that gives other vectors: what was fitted to an encoder's vectors
    is of use with that encoder alone.
    """

    @property
    def identity(self) -> str: ...

    def encode(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """One row per text, in the order given."""
        ...


class IntentClassifier(Protocol):
    """Sentences to intents, over named sets. Blocks."""

    @property
    def info(self) -> EngineInfo: ...

    @property
    def intent_sets(self) -> tuple[IntentSetInfo, ...]: ...

    def classify(
        self, set_name: str, texts: Sequence[str], top_k: int | None, threshold: float | None
    ) -> tuple[IntentAnswer, ...]:
        """One answer per text, in the order given; None takes the set's own threshold, or all intents.

        Raises:
            UnknownIntentSetError: there is no set of that name.
        """
        ...


class Synthesiser(Protocol):
    """Text to speech, sentence by sentence. Blocks."""

    sample_rate_hz: int

    @property
    def info(self) -> EngineInfo: ...

    def speak(self, text: str, voice: str, speed: float) -> Iterator[Spoken]:
        """One piece per sentence or part of one.

        Raises:
            UnknownVoiceError: the engine has no such voice; raised before the first piece.
        """
        ...
