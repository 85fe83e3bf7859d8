"""`POST /v1/audio/speech`."""

from collections.abc import AsyncGenerator
from functools import partial

import msgspec
from litestar import post
from litestar.types import ASGIApp

from gateway.answer import Piece, StreamKind, hung_up
from gateway.auth import Caller, admit, caller_of, trace_of
from gateway.bodies import AnyRequest, read_json
from gateway.catalog import require_engine
from gateway.errors import BodyError, TextTooLongError
from gateway.events import EVENT_STREAM, event_stream, sound_pieces, speech_pieces
from gateway.metered import Served, Work
from gateway.repeats import repeatable
from gateway.services import Services, services_of
from openapi.endpoint import BINARY, CALL_ERRORS, Endpoint
from openapi.wire import (
    MAX_SPEECH_CHARACTERS,
    ErrorBody,
    SpeechBody,
    SpeechDeltaEvent,
    SpeechDoneEvent,
)
from serving.contract import MEDIA_TYPES, SpeechRequest

_DECODER = msgspec.json.Decoder(SpeechBody)
_MAX_BODY_BYTES = 256 * 1024
_GENERATED = (b"x-aiaas-generated", b"ai")
_EVENTS = (SpeechDeltaEvent, SpeechDoneEvent, ErrorBody)


ENDPOINT = Endpoint(
    operation_id="createSpeech",
    tag="Audio",
    request={"application/json": SpeechBody},
    answer={**dict.fromkeys(MEDIA_TYPES.values(), BINARY), EVENT_STREAM: _EVENTS},
    charged=True,
    answer_headers={"x-aiaas-generated": "Always `ai`: the sound was made by a machine."},
    errors=CALL_ERRORS,
    examples={
        "curl": """curl $OPENAI_BASE_URL/audio/speech \\
  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \\
  -d '{"model": "tts-1", "voice": "alloy", "input": "Good morning.", "response_format": "wav"}' \\
  -o hello.wav""",
        "python": """from openai import OpenAI

speech = OpenAI().audio.speech.create(
    model="tts-1", voice="alloy", input="Good morning.", response_format="wav"
)
speech.write_to_file("hello.wav")""",
    },
)


@post(
    "/v1/audio/speech",
    before_request=admit("tts"),
    status_code=200,
    request_max_body_size=_MAX_BODY_BYTES,
    opt={"endpoint": ENDPOINT},
)
async def create_speech(request: AnyRequest) -> ASGIApp:
    """Turn text into speech.

    The sound is streamed as it is spoken: as a file, or with `stream_format=sse` as events whose data are
    pieces of that file. Charged by the text's characters; when the stream breaks off, what was not delivered
    is taken back, and of events the last one is an error. It is marked as made by a
    machine, as rules on generated media ask: by the header `x-aiaas-generated`, and in the metadata of mp3,
    opus, flac and wav, as the file's comment; what a remote endpoint spoke has the metadata that it gave it.
    """
    services, caller = services_of(request), caller_of(request)
    body = await read_json(request, _DECODER)
    _check(services, caller, body)
    is_events = body.stream_format == "sse"

    async def serve() -> "Served[AsyncGenerator[Piece, None]]":
        spoken = await services.serving.speak(
            SpeechRequest(body.input, body.voice, body.speed, body.response_format),
            placement=caller.placement,
            timeout_s=services.settings.tts_timeout_s,
            carrier=services.telemetry.carrier(),
        )
        characters = len(body.input)
        pieces = speech_pieces(spoken.value, characters) if is_events else sound_pieces(spoken.value)
        return Served(pieces, characters, spoken.engine, spoken.model)

    work = Work(
        caller=caller,
        product="tts",
        trace=trace_of(request),
        timeout_s=services.settings.tts_timeout_s,
        repeatable=repeatable(caller, request, lambda: [msgspec.json.encode(body)]),
        units_ahead=len(body.input),
        serve=serve,
        left=partial(hung_up, request.receive),
    )
    sound = StreamKind(MEDIA_TYPES[body.response_format], (_GENERATED,))
    return await services.metered.run_stream(work, event_stream((_GENERATED,)) if is_events else sound)


def _check(services: Services, caller: Caller, body: SpeechBody) -> None:
    if not body.input.strip():
        raise BodyError("`input` is empty: there is nothing to say.", "input")
    if len(body.input) > MAX_SPEECH_CHARACTERS:
        raise TextTooLongError(f"`input` may have at most {MAX_SPEECH_CHARACTERS} characters.", "input")
    engine = require_engine(services.serving.catalog, "tts", body.model)
    if caller.placement != "remote" and body.voice not in engine.voices:
        raise BodyError("There is no such voice. `GET /v1/models` lists them under `voices`.", "voice")
