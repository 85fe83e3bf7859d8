"""The third implementation of each product: what the engines here do, asked of another endpoint."""

import asyncio
import io
import wave
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec
from msgspec import structs

from infra.settings import Settings
from serving.contract import (
    RECOGNITION_RATE_HZ,
    IntentAnswer,
    IntentScore,
    Recognised,
    RecognitionRequest,
    Segment,
    SpeechPiece,
    SpeechRequest,
    Window,
    Word,
    primary_language,
)
from serving.engines.chinese import ChineseScripts
from serving.languages import LANGUAGE_NAMES
from serving.placement import remote_engine
from serving.remote.endpoint import Endpoint
from serving.remote.refusals import INTENTS_PATH, unusable
from serving.remote.wire import IntentListBody, ResultBody, TranscriptionBody

Body = TypeVar("Body")
_CHINESE = frozenset({"zh", "yue"})
_CODES = {name: code for code, name in LANGUAGE_NAMES.items()}
_MOST_JSON_BYTES = 4 * 1024 * 1024
_MOST_SOUND_BYTES = 256 * 1024 * 1024  # 4,096 characters at a quarter of the pace, as wav: some 60 MB
_MOST_RANKED = 500


class RemoteEngines:
    """Asks another OpenAI-compatible endpoint. `engine` is what its calls are charged under.

    Raises, in every call, beside what it names: OverloadedError, EngineUnavailableError, and what the other
    side did not accept. The caller bounds the time.
    """

    def __init__(self, endpoint: Endpoint, asr_model: str, tts_model: str) -> None:
        self._endpoint = endpoint
        self.asr_model = asr_model
        self.tts_model = tts_model
        self.engine = remote_engine(endpoint.host)
        self._scripts: ChineseScripts | None = None

    async def recognise(self, window: Window, asked: RecognitionRequest) -> Recognised:
        """What is said in one window, with times from its beginning and never past its end."""
        translates = asked.task == "translate"
        fields: dict[str, str | list[str]] = {"model": self.asr_model, "response_format": "verbose_json"}
        if asked.prompt:
            fields["prompt"] = asked.prompt
        if asked.temperature > 0:
            fields["temperature"] = str(asked.temperature)
        if asked.language is not None and not translates:
            fields["language"] = primary_language(asked.language)  # all that OpenAI takes
        if asked.wants_words and not translates:
            fields["timestamp_granularities[]"] = ["segment", "word"]
        answer = await self._endpoint.post(
            "/audio/translations" if translates else "/audio/transcriptions",
            _MOST_JSON_BYTES,
            data=fields,
            files={"file": ("window.wav", _wav(window.pcm), "audio/wav")},
        )
        recognised = _recognised(_decoded(answer, TranscriptionBody), window.duration_ms, asked)
        return recognised if translates else await self._in_script(recognised, asked.language)

    async def speak(self, request: SpeechRequest) -> AsyncGenerator[SpeechPiece, None]:
        """The file as it comes, encoded there, with whatever metadata it got there.

        How far the text is spoken is known at the end alone, which is a piece of its own: a stream that
        breaks off has delivered no characters.
        """
        asked = {
            "model": self.tts_model,
            "input": request.text,
            "voice": request.voice,
            "response_format": request.response_format,
        }
        sound = self._endpoint.stream(
            "/audio/speech",
            _MOST_SOUND_BYTES,
            "audio/",
            json=asked if request.speed == 1.0 else {**asked, "speed": request.speed},
        )
        is_silent = True
        try:
            async for piece in sound:
                is_silent = False
                yield SpeechPiece(piece, 0)
        finally:
            await sound.aclose()
        if is_silent:
            raise unusable("no sound")
        yield SpeechPiece(b"", len(request.text))

    async def classify(
        self, set_name: str, texts: Sequence[str], top_k: int | None, threshold: float | None
    ) -> tuple[IntentAnswer, ...]:
        """One answer per text, by the set of the same name there; a ranking has at most 500 intents.

        Raises:
            UnknownIntentSetError: there is none of that name there.
        """
        asked = {"model": set_name, "texts": list(texts), "top_k": top_k or _MOST_RANKED}
        answer = await self._endpoint.post(
            INTENTS_PATH,
            _MOST_JSON_BYTES,
            json=asked if threshold is None else {**asked, "threshold": threshold},
        )
        results = _decoded(answer, IntentListBody).results
        if len(results) != len(texts):
            raise unusable("number of results")
        return tuple(_intent(result) for result in results)

    async def _in_script(self, recognised: Recognised, tag: str | None) -> Recognised:
        """Chinese in the script that the tag asks for: the other side was not told of it."""
        if tag is None or primary_language(tag) not in _CHINESE:
            return recognised
        if self._scripts is None:
            self._scripts = await asyncio.to_thread(ChineseScripts)  # it reads its dictionaries
        scripts = self._scripts
        return structs.replace(
            recognised, segments=tuple(_converted(segment, tag, scripts) for segment in recognised.segments)
        )


@asynccontextmanager
async def open_remote(settings: Settings) -> AsyncIterator[RemoteEngines | None]:
    """The remote endpoint of the settings, hung up at the end; None where there is none."""
    if settings.remote_base_url is None:
        yield None
        return
    endpoint = Endpoint(settings.remote_base_url, settings.remote_api_key, settings.remote_max_calls)
    try:
        yield RemoteEngines(endpoint, settings.remote_asr_model, settings.remote_tts_model)
    finally:
        await endpoint.close()


def _wav(pcm: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(RECOGNITION_RATE_HZ)
        writer.writeframes(pcm)
    return file.getvalue()


def _decoded(answer: bytes, kind: type[Body]) -> Body:
    try:
        return msgspec.json.decode(answer, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise unusable(kind.__name__) from None


def _recognised(body: TranscriptionBody, duration_ms: int, asked: RecognitionRequest) -> Recognised:
    def at_ms(seconds: float) -> int:
        return min(duration_ms, round(seconds * 1000))

    pieces = [
        (piece.text.strip(), at_ms(piece.start), at_ms(piece.end))
        for piece in body.segments or []
        if piece.text.strip()
    ]
    if not pieces and body.text.strip():  # an endpoint without segments
        pieces = [(body.text.strip(), 0, duration_ms)]
    pieces.sort(key=lambda piece: piece[1])
    words: list[list[Word]] = [[] for _ in pieces]
    starts = [start_ms for _, start_ms, _ in pieces]
    for word in body.words or []:
        start_ms, end_ms = at_ms(word.start), at_ms(word.end)
        if (
            pieces and word.word.strip()
        ):  # it belongs to the last segment that has begun when half of it is said
            place = max(0, bisect_right(starts, (start_ms + end_ms) // 2) - 1)
            words[place].append(Word(word.word.strip(), start_ms, max(start_ms, end_ms)))
    segments = tuple(
        Segment(text, start_ms, max(start_ms, end_ms), tuple(of_piece))
        for (text, start_ms, end_ms), of_piece in zip(pieces, words, strict=True)
    )
    return Recognised(segments, asked.language or (_code(body.language) if segments else None))


def _converted(segment: Segment, tag: str, scripts: ChineseScripts) -> Segment:
    texts = scripts.convert_words([word.text for word in segment.words], tag)
    words = tuple(structs.replace(word, text=text) for word, text in zip(segment.words, texts, strict=True))
    return structs.replace(segment, text=scripts.convert(segment.text, tag), words=words)


def _code(language: str | None) -> str | None:
    """The code of a language that is given by Whisper's name or by its code."""
    name = (language or "").lower()
    return _CODES.get(name) or (name if name in LANGUAGE_NAMES else None)


def _intent(result: ResultBody) -> IntentAnswer:
    ranking = tuple(IntentScore(ranked.intent, ranked.score) for ranked in result.ranking)
    return IntentAnswer(ranking[0].name, result.score, ranking, result.out_of_scope)
