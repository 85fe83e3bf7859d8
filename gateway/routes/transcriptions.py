"""`POST /v1/audio/transcriptions`."""

from typing import Any, cast, get_args
from uuid import UUID

import msgspec
from litestar import post
from litestar.datastructures import UploadFile
from litestar.types import ASGIApp

from gateway.auth import admit, caller_of, trace_of
from gateway.bodies import AnyRequest, read_form
from gateway.catalog import require_engine
from gateway.errors import BodyError, MissingValueError
from gateway.metered import Rendered, Served, Work
from gateway.repeats import repeatable
from gateway.services import Services, services_of
from gateway.transcripts import TranscriptFormat, render
from openapi.endpoint import BINARY, CALL_ERRORS, TEXT, Endpoint
from openapi.wire import MAX_UPLOAD_BYTES, VerboseTranscriptionBody
from serving.contract import Transcript

_FORM_OVERHEAD_BYTES = 64 * 1024
_GRANULARITIES = frozenset({"word", "segment"})


class TranscriptionForm(msgspec.Struct, frozen=True):
    """The form's fields, checked. `prompt` and `temperature` have no effect on the bundled engine."""

    upload: UploadFile
    model: str
    language: str | None
    response_format: TranscriptFormat
    granularities: frozenset[str]

    def fingerprint(self) -> bytes:
        """All that the form asks for, but for the sound; a multipart body differs each time it is sent."""
        asked = (self.model, self.language, self.response_format, sorted(self.granularities))
        return msgspec.json.encode(asked)


FORM_SCHEMA = {
    "type": "object",
    "required": ["file", "model"],
    "properties": {
        "file": BINARY | {"description": "wav, flac, mp3, ogg/opus, m4a or webm; up to 25 MB."},
        "model": TEXT | {"description": "`whisper-1`, or a model of `GET /v1/models`."},
        "language": TEXT | {"description": "The language spoken, such as `en`."},
        "prompt": TEXT | {"description": "Accepted; the bundled recogniser makes no use of it."},
        "temperature": {
            "type": "number",
            "description": "Accepted; the bundled recogniser makes no use of it.",
        },
        "response_format": {"type": "string", "enum": list(get_args(TranscriptFormat)), "default": "json"},
        "timestamp_granularities[]": {
            "type": "array",
            "items": {"type": "string", "enum": ["segment", "word"]},
            "description": "With `verbose_json`: which timestamps to give. Segments by default.",
        },
    },
}
ENDPOINT = Endpoint(
    operation_id="createTranscription",
    tag="Audio",
    request={"multipart/form-data": FORM_SCHEMA},
    answer={"application/json": VerboseTranscriptionBody, "text/plain": TEXT, "text/vtt": TEXT},
    charged=True,
    errors=CALL_ERRORS,
    examples={
        "curl": """curl $OPENAI_BASE_URL/audio/transcriptions \\
  -H "Authorization: Bearer $OPENAI_API_KEY" \\
  -F model=whisper-1 -F file=@hello.wav""",
        "python": """from openai import OpenAI

with open("hello.wav", "rb") as sound:
    print(OpenAI().audio.transcriptions.create(model="whisper-1", file=sound).text)""",
    },
)


@post(
    "/v1/audio/transcriptions",
    before_request=admit("asr"),
    status_code=200,
    request_max_body_size=MAX_UPLOAD_BYTES + _FORM_OVERHEAD_BYTES,
    opt={"endpoint": ENDPOINT},
)
async def create_transcription(request: AnyRequest) -> ASGIApp:
    """Turn speech into text.

    Charged by the sound's duration in milliseconds.
    """
    services, caller = services_of(request), caller_of(request)
    form = _check(await read_form(request))
    _require_known(services, form)
    upload = await form.upload.read()

    async def serve() -> "Served[Transcript]":
        transcript = await services.serving.transcribe(
            upload,
            language=form.language,
            timeout_s=services.settings.asr_timeout_s,
            carrier=services.telemetry.carrier(),
        )
        return Served(transcript, transcript.audio_ms, transcript.engine, transcript.model)

    def rendered(served: "Served[Transcript]", _: UUID) -> Rendered:
        return Rendered(*render(served.value, form.response_format, form.granularities))

    work = Work(
        caller=caller,
        product="asr",
        trace=trace_of(request),
        timeout_s=services.settings.asr_timeout_s,
        repeatable=repeatable(caller, request, lambda: [form.fingerprint(), upload]),
        units_ahead=1,  # a sound that lasts; how long is known when it is decoded
        serve=serve,
    )
    return await services.metered.run(work, rendered)


def _check(fields: dict[str, list[Any]]) -> TranscriptionForm:
    """Check the form's own fields.

    Raises:
        MissingValueError, BodyError: names the field.
    """
    form = _text(fields, "response_format") or "json"
    if form not in get_args(TranscriptFormat):
        raise BodyError(
            f"`response_format` is one of: {', '.join(get_args(TranscriptFormat))}.", "response_format"
        )
    if (_text(fields, "stream") or "false").lower() == "true":
        raise BodyError("This model does not stream transcriptions. Leave `stream` out.", "stream")
    return TranscriptionForm(
        upload=_upload(fields),
        model=_required_text(fields, "model"),
        language=_text(fields, "language") or None,
        response_format=cast(TranscriptFormat, form),
        granularities=_granularities(fields, form),
    )


def _require_known(services: Services, form: TranscriptionForm) -> None:
    engine = require_engine(services.serving.catalog, "asr", form.model)
    if form.language is not None and not services.serving.catalog.recognises(form.language):
        raise BodyError(f"`language` is one of: {', '.join(engine.languages)}.", "language")


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
