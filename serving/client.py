"""The one way into this room: what a gateway worker holds.

Nothing of Ray leaves here: calls take and give the structs of `serving.contract` and raise the errors of
`serving.errors`. Ray is imported when `connect` is called, after its environment was prepared.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from functools import partial
from typing import Any, cast

from msgspec import structs

from infra.settings import Settings
from infra.telemetry import Telemetry
from serving.calls import Calls, begun, deadline, domain_errors
from serving.contract import (
    Answered,
    Catalog,
    EngineInfo,
    IntentAnswer,
    IntentSetInfo,
    Product,
    Recognised,
    RecognitionRequest,
    SpeechPiece,
    SpeechRequest,
    Transcript,
    Window,
    language_code,
)
from serving.errors import (
    EngineUnavailableError,
    UnknownIntentSetError,
    UnknownVoiceError,
    UnsupportedLanguageError,
    UnsupportedTaskError,
)
from serving.joining import join
from serving.listening import Listening, listen
from serving.placement import PlacedRecogniser, Placement, placed
from serving.ray_environment import prepare_ray_environment
from serving.raylet import connect_to_raylet
from serving.remote.engines import RemoteEngines
from serving.transcription import Heard, in_order

_APPLICATIONS = ("media", "asr", "intent", "tts")
_PRODUCTS: dict[Product, tuple[str, ...]] = {"asr": ("media", "asr"), "intent": ("intent",), "tts": ("tts",)}
_CONNECT_S = 60.0
_CHECK_S = 3.0
_CHECKED_S = 1.0


class ServingClient:
    """Handles to the deployments, taken once; use it on the event loop it was made on.

    Every call takes `timeout_s`, and `carrier`: W3C trace context for the spans of the replicas. A call that
    is cancelled, or whose iterator is closed, cancels the work. And it takes `placement`, which says whether
    what is sent may leave for the remote endpoint: see `serving.placement`.

    Args:
        remote: another endpoint, where one is set; the caller closes it.

    Raises, in every call:
        DeadlineExceededError: `timeout_s` passed.
        OverloadedError: the queue is full; at once, with the time after which to try again.
        EngineUnavailableError: a replica died, and so did the next, or none came; see `serving.calls`.
    """

    def __init__(
        self,
        handles: Mapping[str, Any],
        catalog: Catalog,
        telemetry: Telemetry,
        remote: RemoteEngines | None = None,
    ) -> None:
        self._media = handles["media"].measured_windows.options(stream=True)
        self._asr = handles["asr"].recognise
        self._intent = handles["intent"].classify
        self._tts = handles["tts"].speak.options(stream=True)
        self._telemetry = telemetry
        self._remote = remote
        self._checks = ThreadPoolExecutor(1, "serving-check")
        self._check: asyncio.Future[dict[str, str]] | None = None
        self._up: dict[Product, bool] = {}
        self._up_until_s = 0.0
        self.catalog = catalog

    @classmethod
    async def connect(
        cls, address: str, settings: Settings, telemetry: Telemetry, remote: RemoteEngines | None = None
    ) -> "ServingClient":
        """Join Ray at `host:port` as a driver, and ask every engine what it is.

        Raises:
            EngineUnavailableError: nobody is there, the token is not theirs, or a deployment is missing.
        """
        prepare_ray_environment(settings, os.environ)
        import ray
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        with _handlers_kept(), domain_errors():
            try:
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise EngineUnavailableError(f"Ray at {address} cannot be joined.") from error
        async with deadline(_CONNECT_S):
            handles = {name: serve.get_app_handle(name) for name in _APPLICATIONS}
            described = await asyncio.gather(*(handle.describe.remote() for handle in handles.values()))
        facts = dict(zip(_APPLICATIONS, described, strict=True))
        intent, intent_sets = cast(tuple[EngineInfo, tuple[IntentSetInfo, ...]], facts["intent"])
        return cls(handles, Catalog((facts["asr"], intent, facts["tts"]), intent_sets), telemetry, remote)

    async def transcribe(
        self,
        upload: bytes,
        asked: RecognitionRequest,
        *,
        placement: Placement = "local_only",
        timeout_s: float,
        carrier: Mapping[str, str] | None = None,
    ) -> Transcript:
        """Transcribe a file of any known kind: all that `listen` gives, in order of time.

        Raises: as `listen` does.
        """
        listening = await self.listen(
            upload, asked, placement=placement, timeout_s=timeout_s, carrier=carrier
        )
        heard = await _all_of(listening.windows)
        segments = in_order(segment for window in heard for segment in window.segments)
        return Transcript(
            text=join(segment.text for segment in segments),
            language=language_code(heard[-1].language),
            audio_ms=listening.audio_ms,
            segments=segments,
            engine=listening.engine,
            model=listening.model,
            channels=len({window.channel for window in heard}),
        )

    async def listen(
        self,
        upload: bytes,
        asked: RecognitionRequest,
        *,
        placement: Placement = "local_only",
        timeout_s: float,
        carrier: Mapping[str, str] | None = None,
    ) -> Listening:
        """Transcribe a file of any known kind, and give each window as soon as it is heard.

        Returns when the first window is heard and the whole file measured, at the same time, so that nothing
        is recognised of a file that is no good, but that window. `timeout_s` bounds all of it. The windows
        come as a stream from the media deployment, here in any case, and all of them are recognised in one
        place; see `serving.transcription.hear`. `audio_ms` is the decoded length, exactly, of each channel
        that is recognised by itself: see `serving.media.decode.windows`.

        Raises, here and between windows:
            UnsupportedLanguageError, UnsupportedTaskError: before anything is decoded.
            MediaError: the file is empty, cannot be decoded, has no sound, or too much of it.
        """
        asked = asked if placement == "remote" else self._settled(asked)
        trace = self._carrier(carrier)
        calls = Calls()
        recognise = self._recogniser(placement, calls, trace)
        stream = calls.stream(self._media, upload, asked.channels, trace, resumes=True)
        audio_ms, heard = await listen(stream, asked, recognise, timeout_s, calls.within)
        engine, model = self._answered(recognise)  # known by the first window
        return Listening(audio_ms, heard, engine, model)

    async def speak(
        self,
        request: SpeechRequest,
        *,
        placement: Placement = "local_only",
        timeout_s: float,
        carrier: Mapping[str, str] | None = None,
    ) -> Answered[AsyncGenerator[SpeechPiece, None]]:
        """The encoded file in pieces, when the first is there; `timeout_s` bounds the wait for each of them.

        Raises:
            UnknownVoiceError, NothingToSpeakError: what is spoken here is known to be spoken.
        """
        calls = Calls()

        async def local() -> Answered[AsyncGenerator[SpeechPiece, None]]:
            if not self.catalog.has_voice(request.voice):
                raise UnknownVoiceError
            engine = self.catalog.engine("tts")
            pieces = self._spoken(calls, request, self._carrier(carrier))
            began = await begun(pieces, partial(calls.within, timeout_s))
            return Answered(began, engine.engine, engine.model)

        async def remote(there: RemoteEngines) -> Answered[AsyncGenerator[SpeechPiece, None]]:
            began = await begun(there.speak(request), partial(deadline, timeout_s))
            return Answered(began, there.engine, there.tts_model)

        return await placed(
            placement, local, self._remote and partial(remote, self._remote), partial(self._is_up, "tts")
        )

    async def classify(
        self,
        set_name: str,
        texts: Sequence[str],
        *,
        top_k: int | None,
        threshold: float | None,
        placement: Placement = "local_only",
        timeout_s: float,
        carrier: Mapping[str, str] | None = None,
    ) -> Answered[tuple[IntentAnswer, ...]]:
        """One answer per text, in the order given; None takes all intents, or the set's own threshold.

        Raises:
            UnknownIntentSetError: there is no set of that name.
        """
        calls = Calls()

        async def local() -> Answered[tuple[IntentAnswer, ...]]:
            if self.catalog.intent_set(set_name) is None:
                raise UnknownIntentSetError
            asked = (set_name, tuple(texts), top_k, threshold, self._carrier(carrier))
            answers = await calls.answer(self._intent, *asked)
            return Answered(answers, self.catalog.engine("intent").engine, set_name)

        async def remote(there: RemoteEngines) -> Answered[tuple[IntentAnswer, ...]]:
            return Answered(await there.classify(set_name, texts, top_k, threshold), there.engine, set_name)

        async with calls.within(timeout_s):
            return await placed(
                placement,
                local,
                self._remote and partial(remote, self._remote),
                partial(self._is_up, "intent"),
            )

    async def check(self) -> dict[Product, bool]:
        """Which products can answer now, by the word of Serve's controller; all False when it is silent.

        It takes 3 s at most. One question is out at a time: who asks meanwhile shares its answer.
        """
        if self._check is None or self._check.done():
            self._check = asyncio.get_running_loop().run_in_executor(self._checks, _running_applications)
            self._check.add_done_callback(lambda check: check.cancelled() or check.exception())
        try:
            async with asyncio.timeout(_CHECK_S):
                running = await asyncio.shield(self._check)
        except Exception:  # whatever it is, there is no answer
            running = {}
        return {
            product: all(running.get(name) == "RUNNING" for name in needed)
            for product, needed in _PRODUCTS.items()
        }

    async def _is_up(self, product: Product) -> bool:
        """What `check` says, a second old at most."""
        if time.monotonic() >= self._up_until_s:
            self._up = await self.check()
            self._up_until_s = time.monotonic() + _CHECKED_S
        return self._up[product]

    async def until_lost(self) -> None:
        """Wait for as long as the raylet lives through which this process joined the cluster."""
        with suppress(OSError), connect_to_raylet() as raylet:
            raylet.setblocking(False)
            await asyncio.get_running_loop().sock_recv(raylet, 1)

    def close(self) -> None:
        """Leave Ray. No call may follow."""
        import ray

        self._checks.shutdown(wait=False, cancel_futures=True)
        ray.shutdown()

    def _recogniser(self, placement: Placement, calls: Calls, trace: Mapping[str, str]) -> PlacedRecogniser:
        remote = None if self._remote is None else self._remote.recognise
        local = partial(self._recognise, calls, trace)
        return PlacedRecogniser(placement, local, remote, partial(self._is_up, "asr"))

    def _answered(self, recogniser: PlacedRecogniser) -> tuple[str, str]:
        """The engine and its model, when a file was recognised."""
        if recogniser.place == "remote" and self._remote is not None:
            return self._remote.engine, self._remote.asr_model
        engine = self.catalog.engine("asr")
        return engine.engine, engine.model

    async def _spoken(
        self, calls: Calls, request: SpeechRequest, trace: Mapping[str, str]
    ) -> AsyncGenerator[SpeechPiece, None]:
        pieces = calls.stream(self._tts, request, trace, resumes=False)
        try:
            async for piece in pieces:
                yield piece
        finally:
            pieces.cancel()

    async def _recognise(
        self, calls: Calls, carrier: Mapping[str, str], window: Window, asked: RecognitionRequest
    ) -> Recognised:
        with domain_errors():
            return await calls.answer(self._asr, window, asked, carrier)

    def _settled(self, asked: RecognitionRequest) -> RecognitionRequest:
        """What is asked, checked; an engine of one language has none to find out."""
        engine = self.catalog.engine("asr")
        if asked.task == "translate" and not engine.translates:
            raise UnsupportedTaskError
        if asked.language is None:
            return (
                structs.replace(asked, language=engine.languages[0]) if len(engine.languages) == 1 else asked
            )
        if not self.catalog.recognises(asked.language):
            known = ", ".join(engine.languages)
            raise UnsupportedLanguageError(f"The model does not know this language. It knows: {known}.")
        return asked

    def _carrier(self, carrier: Mapping[str, str] | None) -> Mapping[str, str]:
        return self._telemetry.carrier() if carrier is None else carrier


async def _all_of(windows: AsyncGenerator[Heard, None]) -> list[Heard]:
    async with aclosing(windows):
        return [window async for window in windows]


def _running_applications() -> dict[str, str]:
    from ray import serve

    try:
        applications = serve.status().applications
    except SystemExit:  # Ray's way to say that it was shut down meanwhile
        return {}
    return {name: str(application.status.value) for name, application in applications.items()}


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """`ray.init` puts its own handler in place of SIGTERM's, and a draining server would drop its calls."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
