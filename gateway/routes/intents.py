"""`POST /v1/intents`."""

from uuid import UUID

import msgspec
from litestar import post
from litestar.types import ASGIApp

from gateway.auth import Caller, admit, caller_of, trace_of
from gateway.bodies import AnyRequest, read_json
from gateway.errors import BodyError, MissingValueError, ModelNotFoundError, TextTooLongError
from gateway.metered import Rendered, Served, Work
from gateway.repeats import repeatable
from gateway.services import services_of
from infra.ids import format_call_id
from openapi.endpoint import CALL_ERRORS, Endpoint
from openapi.wire import (
    MAX_INTENT_CHARACTERS,
    IntentAnswerBody,
    IntentBody,
    IntentListBody,
    IntentResult,
    IntentUsage,
    RankedIntent,
)
from serving.contract import Catalog, IntentAnswer

_DECODER = msgspec.json.Decoder(IntentBody)
_ENCODER = msgspec.json.Encoder()
_MAX_BODY_BYTES = 2 * 1024 * 1024


ENDPOINT = Endpoint(
    operation_id="createIntent",
    tag="Intents",
    request={"application/json": IntentBody},
    answer={"application/json": (IntentAnswerBody, IntentListBody)},
    charged=True,
    errors=CALL_ERRORS,
    examples={
        "curl": """curl $OPENAI_BASE_URL/intents \\
  -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \\
  -d '{"model": "retail-en", "text": "where is my parcel?"}'""",
        "python": """import os, httpx

answer = httpx.post(
    os.environ["OPENAI_BASE_URL"] + "/intents",
    headers={"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]},
    json={"model": "retail-zh-TW", "text": "我的包裹到哪裡了？"},
)
print(answer.json()["intent"])""",
    },
)


@post(
    "/v1/intents",
    before_request=admit("intent"),
    status_code=200,
    request_max_body_size=_MAX_BODY_BYTES,
    opt={"endpoint": ENDPOINT},
)
async def create_intent(request: AnyRequest) -> ASGIApp:
    """Find what a customer wants.

    Charged by the text: `texts` of five are five units of one call.
    """
    services, caller = services_of(request), caller_of(request)
    body = await read_json(request, _DECODER)
    texts = _check(services.serving.catalog, caller, body)

    async def serve() -> "Served[tuple[IntentAnswer, ...]]":
        answered = await services.serving.classify(
            body.model,
            texts,
            top_k=body.top_k,
            threshold=body.threshold,
            placement=caller.placement,
            timeout_s=services.settings.intent_timeout_s,
            carrier=services.telemetry.carrier(),
        )
        return Served(answered.value, len(texts), answered.engine, answered.model)

    def render(served: "Served[tuple[IntentAnswer, ...]]", call_id: UUID) -> Rendered:
        return Rendered(_ENCODER.encode(_answer(body, served, call_id)), "application/json")

    work = Work(
        caller=caller,
        product="intent",
        trace=trace_of(request),
        timeout_s=services.settings.intent_timeout_s,
        repeatable=repeatable(caller, request, lambda: [_ENCODER.encode(body)]),
        units_ahead=len(texts),
        serve=serve,
    )
    return await services.metered.run(work, render)


def _check(catalog: Catalog, caller: Caller, body: IntentBody) -> list[str]:
    """The texts to classify.

    Raises:
        BodyError, MissingValueError, TextTooLongError, ModelNotFoundError: names the field.
    """
    if body.text is not None and body.texts is not None:
        raise BodyError("Give `text` or `texts`, not both.", "texts")
    if caller.placement != "remote" and catalog.intent_set(body.model) is None:
        names = [intent_set.name for intent_set in catalog.intent_sets]
        raise ModelNotFoundError(f"There is no such intent set. Use one of: {', '.join(names)}.", "model")
    param = "text" if body.text is not None else "texts"
    texts = [body.text] if body.text is not None else body.texts
    if texts is None:
        raise MissingValueError("`text` is required (or `texts`, for several at once).", "text")
    for text in texts:
        if not text.strip():
            raise BodyError(f"`{param}` holds an empty text.", param)
        if len(text) > MAX_INTENT_CHARACTERS:
            raise TextTooLongError(f"A text may have at most {MAX_INTENT_CHARACTERS} characters.", param)
    return texts


def _answer(
    body: IntentBody, served: Served[tuple[IntentAnswer, ...]], call_id: UUID
) -> IntentAnswerBody | IntentListBody:
    shown_id, usage = format_call_id(call_id), IntentUsage(served.units)
    if body.texts is not None:
        return IntentListBody(shown_id, body.model, [_result(answer) for answer in served.value], usage)
    only = _result(served.value[0])
    return IntentAnswerBody(
        shown_id, body.model, only.intent, only.score, only.out_of_scope, only.ranking, usage
    )


def _result(answer: IntentAnswer) -> IntentResult:
    intent = None if answer.out_of_scope else answer.intent
    ranking = [RankedIntent(ranked.name, ranked.score) for ranked in answer.ranking]
    return IntentResult(intent, answer.score, answer.out_of_scope, ranking)
