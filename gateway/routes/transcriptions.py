"""`POST /v1/audio/transcriptions`."""

from litestar import post
from litestar.types import ASGIApp

from gateway.audio_form import ANSWERS, COMMON_FIELDS, MAX_FORM_BYTES, answer_form
from gateway.auth import admit
from gateway.bodies import AnyRequest
from openapi.endpoint import CALL_ERRORS, TEXT, Endpoint

FORM_SCHEMA = {
    "type": "object",
    "required": ["file", "model"],
    "properties": COMMON_FIELDS
    | {
        "language": TEXT
        | {
            "description": "The language spoken, such as `en`. `zh-TW` and `zh-CN` also name the script that "
            "Chinese is written in."
        },
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
    answer=ANSWERS,
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
    request_max_body_size=MAX_FORM_BYTES,
    opt={"endpoint": ENDPOINT},
)
async def create_transcription(request: AnyRequest) -> ASGIApp:
    """Turn speech into text.

    Charged by the sound's duration in milliseconds; with `channels=split`, once for each channel. With
    `stream` the text comes as events, as soon as it is known; when the stream breaks off, the last event is
    an error, and what was not delivered is taken back. A caller that hangs up before the charge is not
    charged.
    """
    return await answer_form(request, "transcribe")
