"""`POST /v1/audio/speech`."""

from collections.abc import AsyncGenerator

import msgspec
from litestar import post
from litestar.types import ASGIApp

from gateway.auth import Caller, admit, caller_of, trace_of
from gateway.bodies import AnyRequest, read_json
from gateway.catalog import require_engine
from gateway.errors import BodyError, TextTooLongError
from gateway.metered import Served, Work
from gateway.repeats import repeatable
from gateway.services import Services, services_of
from openapi.endpoint import BINARY, CALL_ERRORS, Endpoint
from openapi.wire import MAX_SPEECH_CHARACTERS, SpeechBody
from serving.contract import MEDIA_TYPES, SpeechPiece, SpeechRequest

_DECODER = msgspec.json.Decoder(SpeechBody)
_MAX_BODY_BYTES = 256 * 1024
_GENERATED = (b"x-aiaas-generated", b"ai")


ENDPOINT = Endpoint(
    operation_id="createSpeech",
    tag="Audio",
    request={"application/json": SpeechBody},
    answer=dict.fromkeys(MEDIA_TYPES.values(), BINARY),
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

    The sound is streamed as it is spoken. Charged by the text's characters. It is marked as made by a
    machine, as rules on generated media ask: by the header `x-aiaas-generated`, and in the metadata of mp3,
    opus, flac and wav, as the file's comment; what a remote endpoint spoke has the metadata that it gave it.
    """
    services, caller = services_of(request), caller_of(request)
    body = await read_json(request, _DECODER)
    _check(services, caller, body)

    async def serve() -> "Served[AsyncGenerator[SpeechPiece, None]]":
        spoken = await services.serving.speak(
            SpeechRequest(body.input, body.voice, body.speed, body.response_format),
            placement=caller.placement,
            timeout_s=services.settings.tts_timeout_s,
            carrier=services.telemetry.carrier(),
        )
        return Served(spoken.value, len(body.input), spoken.engine, spoken.model)

    work = Work(
        caller=caller,
        product="tts",
        trace=trace_of(request),
        timeout_s=services.settings.tts_timeout_s,
        repeatable=repeatable(caller, request, lambda: [msgspec.json.encode(body)]),
        units_ahead=len(body.input),
        serve=serve,
    )
    return await services.metered.run_stream(work, MEDIA_TYPES[body.response_format], [_GENERATED])


def _check(services: Services, caller: Caller, body: SpeechBody) -> None:
    if not body.input.strip():
        raise BodyError("`input` is empty: there is nothing to say.", "input")
    if len(body.input) > MAX_SPEECH_CHARACTERS:
        raise TextTooLongError(f"`input` may have at most {MAX_SPEECH_CHARACTERS} characters.", "input")
    if body.stream_format == "sse":
        raise BodyError("`stream_format` is `audio`: this model does not stream events.", "stream_format")
    engine = require_engine(services.serving.catalog, "tts", body.model)
    if caller.placement != "remote" and body.voice not in engine.voices:
        raise BodyError("There is no such voice. `GET /v1/models` lists them under `voices`.", "voice")
