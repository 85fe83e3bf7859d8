"""`POST /v1/audio/translations`."""

from litestar import post
from litestar.types import ASGIApp

from gateway.audio_form import ANSWERS, COMMON_FIELDS, MAX_FORM_BYTES, answer_form
from gateway.auth import admit
from gateway.bodies import AnyRequest
from openapi.endpoint import CALL_ERRORS, Endpoint

FORM_SCHEMA = {"type": "object", "required": ["file", "model"], "properties": COMMON_FIELDS}
ENDPOINT = Endpoint(
    operation_id="createTranslation",
    tag="Audio",
    request={"multipart/form-data": FORM_SCHEMA},
    answer=ANSWERS,
    charged=True,
    errors=CALL_ERRORS,
    examples={
        "curl": """curl $OPENAI_BASE_URL/audio/translations \\
  -H "Authorization: Bearer $OPENAI_API_KEY" \\
  -F model=whisper-1 -F file=@nihao.wav""",
        "python": """from openai import OpenAI

with open("nihao.wav", "rb") as sound:
    print(OpenAI().audio.translations.create(model="whisper-1", file=sound).text)""",
    },
)


@post(
    "/v1/audio/translations",
    before_request=admit("asr"),
    status_code=200,
    request_max_body_size=MAX_FORM_BYTES,
    opt={"endpoint": ENDPOINT},
)
async def create_translation(request: AnyRequest) -> ASGIApp:
    """Turn speech of any language into English text.

    Charged by the sound's duration in milliseconds; with `channels=split`, once for each channel.
    A recogniser that cannot translate, such as the bundled one, answers 400.
    """
    return await answer_form(request, "translate")
