"""What can go wrong with a call in this room.

DomainError
  MediaError                 the upload is at fault: nothing was recognised
    EmptyAudioError            empty_audio
    UndecodableAudioError      undecodable_audio
    NoAudioStreamError         no_audio_stream
    AudioTooLongError          audio_too_long
    TooManyChannelsError       too_many_channels
  UnsupportedLanguageError   unsupported_language
  UnsupportedTaskError       unsupported_task
  UnknownVoiceError          unknown_voice
  UnknownIntentSetError      unknown_intent_set
  NothingToSpeakError        nothing_to_speak
  DeadlineExceededError      deadline_exceeded
  UnavailableError
    OverloadedError            overloaded
    EngineUnavailableError     engine_unavailable

All of them pickle, so they cross Ray as they are. No message holds anything that a customer sent.
"""

from typing import ClassVar

from infra.errors import DomainError, NotFoundError, UnavailableError


class MediaError(DomainError):
    """The uploaded file cannot be used."""

    code: ClassVar[str] = "undecodable_audio"


class EmptyAudioError(MediaError):
    code = "empty_audio"

    def __init__(self, message: str = "The file holds no sound.", param: str | None = "file") -> None:
        super().__init__(message, param)


class UndecodableAudioError(MediaError):
    code = "undecodable_audio"

    def __init__(
        self,
        message: str = (
            "The file could not be decoded. Send a complete wav, flac, mp3, ogg, opus, m4a, mp4 or webm file."
        ),
        param: str | None = "file",
    ) -> None:
        super().__init__(message, param)


class NoAudioStreamError(MediaError):
    code = "no_audio_stream"

    def __init__(
        self,
        message: str = "The file has no audio track. Send a file with sound in it.",
        param: str | None = "file",
    ) -> None:
        super().__init__(message, param)


class AudioTooLongError(MediaError):
    code = "audio_too_long"

    def __init__(
        self,
        message: str = "The file's sound is longer than 4 hours. Send it in shorter pieces.",
        param: str | None = "file",
    ) -> None:
        super().__init__(message, param)


class TooManyChannelsError(MediaError):
    code = "too_many_channels"

    def __init__(
        self,
        message: str = "The file has more than 8 channels. Send it with 8 at most, such as mono or stereo.",
        param: str | None = "file",
    ) -> None:
        super().__init__(message, param)


class UnsupportedLanguageError(DomainError):
    code = "unsupported_language"

    def __init__(self, message: str, param: str | None = "language") -> None:
        super().__init__(message, param)


class UnsupportedTaskError(DomainError):
    code = "unsupported_task"

    def __init__(
        self,
        message: str = (
            "The speech recogniser deployed here cannot translate. Send the file to "
            "/v1/audio/transcriptions, which answers in the language spoken."
        ),
        param: str | None = "model",
    ) -> None:
        super().__init__(message, param)


class UnknownVoiceError(DomainError):
    code = "unknown_voice"

    def __init__(
        self,
        message: str = "There is no such voice. GET /v1/models lists the voices of each speech model.",
        param: str | None = "voice",
    ) -> None:
        super().__init__(message, param)


class UnknownIntentSetError(NotFoundError):
    code = "unknown_intent_set"

    def __init__(
        self,
        message: str = "There is no such intent set. GET /v1/models lists them.",
        param: str | None = "model",
    ) -> None:
        super().__init__(message, param)


class NothingToSpeakError(DomainError):
    code = "nothing_to_speak"

    def __init__(
        self,
        message: str = "The input holds nothing that can be spoken.",
        param: str | None = "input",
    ) -> None:
        super().__init__(message, param)


class DeadlineExceededError(DomainError):
    code = "deadline_exceeded"

    def __init__(
        self,
        message: str = "The answer took too long and was given up. Try again, or send less at once.",
        param: str | None = None,
    ) -> None:
        super().__init__(message, param)


class OverloadedError(UnavailableError):
    code = "overloaded"

    def __init__(
        self,
        message: str = "All engines are busy and the queue is full. Try again after the time given.",
        param: str | None = None,
        retry_after_s: int = 1,
    ) -> None:
        super().__init__(message, param, retry_after_s)


class EngineUnavailableError(UnavailableError):
    code = "engine_unavailable"

    def __init__(
        self,
        message: str = "The engine is away for the moment. Try again after the time given.",
        param: str | None = None,
        retry_after_s: int = 2,
    ) -> None:
        super().__init__(message, param, retry_after_s)
