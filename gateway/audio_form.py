"""What both endpoints that turn speech into text share: their form, and the call behind it."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any, TypeVar, cast, get_args
from uuid import UUID

import msgspec
from litestar.datastructures import UploadFile
from litestar.types import ASGIApp

from gateway.answer import Piece, hung_up
from gateway.auth import Caller, caller_of, trace_of
from gateway.bodies import AnyRequest, read_form
from gateway.catalog import require_engine
from gateway.errors import BodyError, MissingValueError
from gateway.events import EVENT_STREAM, TranscriptEvents, event_stream, transcript_pieces
from gateway.metered import Rendered, Served, Work
from gateway.repeats import repeatable
from gateway.services import Services, services_of
from gateway.transcripts import TranscriptFormat, render
from openapi.endpoint import BINARY, TEXT, Media
from openapi.wire import (
    MAX_UPLOAD_BYTES,
    ErrorBody,
    TranscriptDeltaEvent,
    TranscriptDoneEvent,
    TranscriptSegmentEvent,
    VerboseTranscriptionBody,
)
from serving.contract import Channels, RecognitionRequest, Task, Transcript
from serving.errors import UnsupportedTaskError

T = TypeVar("T")

MAX_FORM_BYTES = MAX_UPLOAD_BYTES + 64 * 1024
_MAX_PROMPT_CHARACTERS = 2000
_GRANULARITIES = frozenset({"word", "segment"})
_STREAMED_FORMATS = ("json", "verbose_json")

COMMON_FIELDS: dict[str, Any] = {
    "file": BINARY | {"description": "wav, flac, mp3, ogg/opus, m4a or webm; up to 25 MB."},
    "model": TEXT | {"description": "`whisper-1`, or a model of `GET /v1/models`."},
    "prompt": TEXT
    | {
        "maxLength": _MAX_PROMPT_CHARACTERS,
        "description": "Names and terms that may come, in the text's language, up to 2,000 characters. "
        "Whisper spells by its last 220 tokens; the bundled recogniser makes no use of it.",
    },
    "temperature": {
        "type": "number",
        "minimum": 0,
        "maximum": 1,
        "default": 0,
        "description": "How freely Whisper draws its words; from 0 it rises by itself where the text is not "
        "plausible. The bundled recogniser makes no use of it.",
    },
    "response_format": {"type": "string", "enum": list(get_args(TranscriptFormat)), "default": "json"},
    "channels": {
        "type": "string",
        "enum": list(get_args(Channels)),
        "default": "mix",
        "description": "`mix` makes one of up to 8 channels. `split` recognises each of one or two by "
        "itself, such as the two sides of a telephone call: `verbose_json` names the `channel` of each "
        "segment, `vtt` and `srt` that of each cue, and the duration is charged once for each channel.",
    },
    "stream": {
        "type": "boolean",
        "default": False,
        "description": "Answer with events as the text becomes known: a delta for each segment, and the "
        "whole text at the end. With `json` or `verbose_json`, which adds each segment with its times.",
    },
}
ANSWERS: Media = {
    "application/json": VerboseTranscriptionBody,
    "text/plain": TEXT,
    "text/vtt": TEXT,
    EVENT_STREAM: (TranscriptDeltaEvent, TranscriptSegmentEvent, TranscriptDoneEvent, ErrorBody),
}


class AudioForm(msgspec.Struct, frozen=True):
    """The form's fields, checked."""

    upload: UploadFile
    model: str
    asked: RecognitionRequest
    response_format: TranscriptFormat
    granularities: frozenset[str]
    is_streamed: bool

    def fingerprint(self) -> bytes:
        """All that the form asks for, but for the sound; a multipart body differs each time it is sent."""
        format_of_answer = (self.response_format, sorted(self.granularities), self.is_streamed)
        asked = (self.model, self.asked, *format_of_answer)
        return msgspec.json.encode(asked)


async def answer_form(request: AnyRequest, task: Task) -> ASGIApp:
    """Run the call that a form asks for.

    Raises:
        DomainError: the form is not acceptable, or the call was refused or failed.
    """
    services, caller = services_of(request), caller_of(request)
    form = _check(await read_form(request), task)
    _require_known(services, caller, form)
    upload = await form.upload.read()

    async def serve() -> "Served[Transcript]":
        transcript = await services.serving.transcribe(
            upload,
            form.asked,
            placement=caller.placement,
            timeout_s=services.settings.asr_timeout_s,
            carrier=services.telemetry.carrier(),
        )
        return Served(transcript, transcript.audio_ms, transcript.engine, transcript.model)

    async def listen() -> "Served[AsyncGenerator[Piece, None]]":
        listening = await services.serving.listen(
            upload,
            form.asked,
            placement=caller.placement,
            timeout_s=services.settings.asr_timeout_s,
            carrier=services.telemetry.carrier(),
        )
        events = TranscriptEvents(
            task,
            is_verbose=form.response_format == "verbose_json",
            wants_words=form.asked.wants_words,
        )
        pieces = transcript_pieces(listening, events)
        return Served(pieces, listening.audio_ms, listening.engine, listening.model)

    def rendered(served: "Served[Transcript]", _: UUID) -> Rendered:
        return Rendered(*render(served.value, form.response_format, form.granularities, task))

    def work(serve: Callable[[], Awaitable[Served[T]]]) -> Work[T]:
        return Work(
            caller=caller,
            product="asr",
            trace=trace_of(request),
            timeout_s=services.settings.asr_timeout_s,
            repeatable=repeatable(caller, request, lambda: [form.fingerprint(), upload]),
            units_ahead=1,  # a sound that lasts; how long is known when it is decoded
            serve=serve,
            left=partial(hung_up, request.receive),
        )

    if form.is_streamed:
        return await services.metered.run_stream(work(listen), event_stream())
    return await services.metered.run(work(serve), rendered)


def _check(fields: dict[str, list[Any]], task: Task) -> AudioForm:
    """Check the form's own fields.

    Raises:
        MissingValueError, BodyError: names the field.
    """
    form = _text(fields, "response_format") or "json"
    if form not in get_args(TranscriptFormat):
        raise BodyError(
            f"`response_format` is one of: {', '.join(get_args(TranscriptFormat))}.", "response_format"
        )
    is_streamed = _is_streamed(fields)
    if is_streamed and form not in _STREAMED_FORMATS:
        raise BodyError(
            f"`response_format` is one of: {', '.join(_STREAMED_FORMATS)}, where `stream` is true.",
            "response_format",
        )
    granularities = _granularities(fields, form)
    return AudioForm(
        upload=_upload(fields),
        model=_required_text(fields, "model"),
        asked=RecognitionRequest(
            language=(_text(fields, "language") or None) if task == "transcribe" else None,
            task=task,
            prompt=_prompt(fields),
            temperature=_temperature(fields),
            wants_words="word" in granularities,
            channels=_channels(fields),
        ),
        response_format=cast(TranscriptFormat, form),
        granularities=granularities,
        is_streamed=is_streamed,
    )


def _is_streamed(fields: dict[str, list[Any]]) -> bool:
    told = (_text(fields, "stream") or "false").lower()
    if told not in ("true", "false"):
        raise BodyError("`stream` is `true` or `false`.", "stream")
    return told == "true"


def _require_known(services: Services, caller: Caller, form: AudioForm) -> None:
    engine = require_engine(services.serving.catalog, "asr", form.model)
    if caller.placement == "remote":
        return  # which languages are known is not known here
    language = form.asked.language
    if language is not None and not services.serving.catalog.recognises(language):
        raise BodyError(f"`language` is one of: {', '.join(engine.languages)}.", "language")
    if form.asked.task == "translate" and not engine.translates:
        raise UnsupportedTaskError


def _prompt(fields: dict[str, list[Any]]) -> str:
    prompt = _text(fields, "prompt") or ""
    if len(prompt) > _MAX_PROMPT_CHARACTERS:
        raise BodyError(f"`prompt` takes {_MAX_PROMPT_CHARACTERS:,} characters at most.", "prompt")
    return prompt


def _temperature(fields: dict[str, list[Any]]) -> float:
    try:
        temperature = float(_text(fields, "temperature") or 0.0)
    except ValueError:
        temperature = -1.0
    if not 0.0 <= temperature <= 1.0:
        raise BodyError("`temperature` is a number from 0 to 1.", "temperature")
    return temperature


def _channels(fields: dict[str, list[Any]]) -> Channels:
    channels = _text(fields, "channels") or "mix"
    if channels not in get_args(Channels):
        raise BodyError("`channels` is `mix` or `split`.", "channels")
    return cast(Channels, channels)


def _granularities(fields: dict[str, list[Any]], form: str) -> frozenset[str]:
    given = frozenset(map(str, fields.get("timestamp_granularities[]", [])))
    if not given <= _GRANULARITIES:
        raise BodyError("`timestamp_granularities[]` takes `word` and `segment`.", "timestamp_granularities")
    if given and form != "verbose_json":
        raise BodyError(
            "`timestamp_granularities[]` needs `response_format=verbose_json`.", "timestamp_granularities"
        )
    return given or frozenset({"segment"})


def _upload(fields: dict[str, list[Any]]) -> UploadFile:
    file = fields.get("file", [None])[0]
    if file is None:
        raise MissingValueError("`file` is required: the sound to transcribe.", "file")
    if not isinstance(file, UploadFile):
        raise BodyError("`file` must be an uploaded file with a file name.", "file")
    return file


def _required_text(fields: dict[str, list[Any]], name: str) -> str:
    text = _text(fields, name)
    if not text:
        raise MissingValueError(f"`{name}` is required.", name)
    return text


def _text(fields: dict[str, list[Any]], name: str) -> str | None:
    value = fields.get(name, [None])[0]
    if isinstance(value, UploadFile):
        raise BodyError(f"`{name}` is a text field, not a file.", name)
    return value
