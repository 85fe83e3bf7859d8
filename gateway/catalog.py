"""Which name means which engine: the aliases that OpenAI's clients send, and the list of models."""

from gateway.errors import ModelNotFoundError
from openapi.wire import ModelList, ModelObject
from serving.contract import Catalog, EngineInfo, Product

ALIASES = {"asr": ("whisper-1",), "tts": ("tts-1", "tts-1-hd")}


def require_engine(catalog: Catalog, product: Product, model: str) -> EngineInfo:
    """The engine that answers to a model's name or alias.

    Raises:
        ModelNotFoundError: nothing of this product answers to it; names what does.
    """
    engine = catalog.engine(product)
    names = (model_id(engine), *ALIASES.get(product, ()))
    if model not in names:
        raise ModelNotFoundError(f"There is no such model here. Use one of: {', '.join(names)}.", "model")
    return engine


def model_id(engine: EngineInfo) -> str:
    """An engine's name in the API, such as `pocketsphinx-en-us`."""
    return f"{engine.engine}-{engine.model}"


def list_models(catalog: Catalog) -> ModelList:
    """Every model a caller may name: one for speech, one for voices, one an intent set."""
    return ModelList(
        [_engine_model(catalog.engine("asr")), _engine_model(catalog.engine("tts")), *_intent_models(catalog)]
    )


def _engine_model(engine: EngineInfo) -> ModelObject:
    return ModelObject(
        id=model_id(engine),
        owned_by=engine.engine,
        product=engine.product,
        engine=engine.engine,
        languages=list(engine.languages),
        voices=list(engine.voices),
        intents=[],
        aliases=list(ALIASES[engine.product]),
    )


def _intent_models(catalog: Catalog) -> list[ModelObject]:
    engine = catalog.engine("intent")
    return [
        ModelObject(
            id=intent_set.name,
            owned_by="aiaas",
            product="intent",
            engine=model_id(engine),
            languages=[intent_set.language],
            voices=[],
            intents=[intent.name for intent in intent_set.intents],
            aliases=[],
        )
        for intent_set in catalog.intent_sets
    ]
