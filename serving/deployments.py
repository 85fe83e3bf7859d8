"""The Ray Serve deployments: `media`, `asr`, `intent` and `tts`, each an application of its own.

A replica's event loop does no work: engines run in its threads (pocketsphinx, which would hold the
interpreter, and decoders, which crafted files may crash, in processes), so health checks and refusals are
answered while they do. It is ready when its engine worked once, and healthy as long as that answers; see
`serving.watched`.

Queues are bounded: `max_ongoing_requests` per replica are in hand, and each gateway worker holds up to
`max_queued_requests` back; what is more is refused at once. So N workers and R replicas have at most
R * max_ongoing_requests + N * max_queued_requests calls between them.
"""

import asyncio
import importlib
import math
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from ray import serve

from infra.telemetry import Telemetry
from serving.batches import Batches
from serving.contract import (
    RECOGNITION_RATE_HZ,
    SPEECH_RATE_HZ,
    Channels,
    EngineInfo,
    IntentAnswer,
    IntentSetInfo,
    Recognised,
    RecognitionRequest,
    Sound,
    SpeechPiece,
    SpeechRequest,
    Synthesiser,
    Window,
)
from serving.watched import PROOF_S, QUIET_S, WatchedThreads

Carrier = Mapping[str, str]
Piece = TypeVar("Piece")

_RECOGNISERS = 2
_BATCH_WAIT_S = 0.02
_UPLOADS = 16
_SPEECH_THREADS = 2
_PROOF = "Hello."
_QUIET = bytes(RECOGNITION_RATE_HZ)  # half a second

_SHARED: dict[str, Any] = {
    "health_check_period_s": 5,
    "health_check_timeout_s": 30,
    "graceful_shutdown_wait_loop_s": 0.2,
}


@serve.deployment(
    name="media",
    # Each request holds an upload of up to 25 MB, in a queue as in hand, for as long as it is recognised.
    max_ongoing_requests=_UPLOADS,
    max_queued_requests=64,
    **_SHARED,
)
class MediaReplica:
    """Decodes uploads, each in a process of its own; a crafted file may break that, and nothing else."""

    def __init__(self, local: bool) -> None:
        from serving.media.encode import speech_encoder
        from serving.media.isolated import Decoders

        _prepare_replica(local)
        self._telemetry = Telemetry.from_environ("aiaas-media", os.environ)
        self._decoders = Decoders(2 * _UPLOADS)  # one that is measured is decoded twice
        encoder = speech_encoder("wav", SPEECH_RATE_HZ)
        self._sample = encoder.feed(bytes(SPEECH_RATE_HZ)) + encoder.finish()
        self._decoded_at = -math.inf

    async def windows(
        self, upload: bytes, channels: Channels, carrier: Carrier
    ) -> AsyncGenerator[Window, None]:
        """See `serving.media.isolated.Decoders.windows`.

        Serve's transport holds a generator back whose caller is slow: a few windows wait in it, never a file.
        """
        with self._telemetry.span("serve.media", carrier):
            async with aclosing(self._decoders.windows(upload, channels)) as decoded:
                async for window in decoded:
                    self._decoded_at = time.monotonic()
                    yield window

    async def measured_windows(
        self, upload: bytes, channels: Channels, carrier: Carrier
    ) -> AsyncIterator[Window | int]:
        """As `windows`, with the length of all of them in ms after the first one.

        A file of more than one is decoded twice: once to the end for its length, while the first window is
        recognised.
        """
        async with aclosing(self.windows(upload, channels, carrier)) as windows:
            first, second = await anext(windows, None), await anext(windows, None)
            if first is None:
                return
            yield first
            if second is None:
                yield first.duration_ms
                return
            yield sum([window.duration_ms async for window in self.windows(upload, channels, carrier)])
            yield second
            async for window in windows:
                yield window

    def describe(self) -> None:
        """Nothing to say; answers when the replica is up."""

    async def check_health(self) -> None:
        """Raises where nothing is decoded any more."""
        if time.monotonic() - self._decoded_at < QUIET_S:
            return
        async with asyncio.timeout(PROOF_S):
            async for _ in self.windows(self._sample, "mix", {}):
                pass


@serve.deployment(
    name="asr",
    max_ongoing_requests=_RECOGNISERS,
    max_queued_requests=32,
    **_SHARED,
)
class AsrReplica:
    """Recognises windows by pocketsphinx, as many at a time as it has processes."""

    def __init__(self, local: bool, longest_s: float) -> None:
        from serving.engines.isolated import IsolatedRecogniser

        _prepare_replica(local)
        self._telemetry = Telemetry.from_environ("aiaas-asr", os.environ)
        self._threads = WatchedThreads(_RECOGNISERS, "recognise", longest_s)
        self._longest_s = longest_s
        self._recognisers = [IsolatedRecogniser() for _ in range(_RECOGNISERS)]
        self._idle = asyncio.Queue[IsolatedRecogniser]()
        for recogniser in self._recognisers:
            self._idle.put_nowait(recogniser)
        self._threads.warm_up(self._recognisers[0].warm_up)

    async def recognise(self, window: Window, asked: RecognitionRequest, carrier: Carrier) -> Recognised:
        """What is said in one window, with times from the window's beginning.

        When the caller goes away, the work is stopped in the middle.
        """
        with self._telemetry.span("serve.asr", carrier):
            return await self._recognise(Sound(window.pcm, asked), self._longest_s)

    async def _recognise(self, sound: Sound, within_s: float) -> Recognised:
        async with asyncio.timeout(within_s):
            recogniser = await self._idle.get()
            try:
                (recognised,) = await self._threads.run(recogniser.recognise, [sound])
            except asyncio.CancelledError:  # also where the time is over
                recogniser.stop()
                raise
            finally:
                self._idle.put_nowait(recogniser)
            return recognised

    def describe(self) -> EngineInfo:
        """Which engine answers."""
        return self._recognisers[0].info

    async def check_health(self) -> None:
        """Start again what has ended. Raises OSError where that fails, or where nothing is recognised."""
        for recogniser in self._recognisers:
            recogniser.ensure_started()
        await self._threads.check(partial(self._recognise, Sound(_QUIET, RecognitionRequest())))


@serve.deployment(
    name="asr",
    **_SHARED,
)
class WhisperReplica:
    """Recognises windows by Whisper, those of different requests in one batch.

    Args:
        most_windows: in a batch; fewer where this replica's part of a GPU, `gpu`, has no room for them.
    """

    def __init__(
        self, local: bool, model: str, torch_threads: int, longest_s: float, most_windows: int, gpu: float
    ) -> None:
        from serving.engines.whisper import WhisperRecogniser

        _prepare_replica(local)
        self._telemetry = Telemetry.from_environ("aiaas-asr", os.environ)
        self._recogniser = WhisperRecogniser(model, torch_threads)
        self._threads = WatchedThreads(1, "recognise", longest_s)
        self._threads.warm_up(self._recogniser.warm_up)
        largest = min(most_windows, self._recogniser.room_for(gpu))
        self._batches = Batches(self._recogniser.recognise, self._threads, largest, _BATCH_WAIT_S)
        self._longest_s = longest_s

    async def recognise(self, window: Window, asked: RecognitionRequest, carrier: Carrier) -> Recognised:
        """What is said in one window, with times from the window's beginning."""
        with self._telemetry.span("serve.asr", carrier):
            async with asyncio.timeout(self._longest_s):
                return await self._batches.submit(Sound(window.pcm, asked))

    def describe(self) -> EngineInfo:
        """Which engine answers."""
        return self._recogniser.info

    async def check_health(self) -> None:
        """Raises where a batch hangs, or nothing is recognised any more."""
        await self._threads.check(partial(self._threads.run, self._recogniser.warm_up))


@serve.deployment(
    name="intent",
    max_ongoing_requests=32,
    max_queued_requests=256,
    **_SHARED,
)
class IntentReplica:
    """Classifies texts; one thread, because torch spreads each batch over its own.

    Args:
        model: the encoder's name or path; None is the bundled one.
    """

    def __init__(self, local: bool, model: str | None, torch_threads: int, longest_s: float) -> None:
        from serving.engines.encoder import TransformersEncoder
        from serving.intents.classifier import LinearIntentClassifier
        from serving.intents.sets import ready_made_sets

        _prepare_replica(local)
        self._telemetry = Telemetry.from_environ("aiaas-intent", os.environ)
        self._threads = WatchedThreads(1, "classify", longest_s)
        self._encoder = TransformersEncoder(model, torch_threads)
        self._classifier = LinearIntentClassifier(self._encoder, self._encoder.info, ready_made_sets())
        self._threads.warm_up(self._encode)

    async def classify(
        self,
        set_name: str,
        texts: Sequence[str],
        top_k: int | None,
        threshold: float | None,
        carrier: Carrier,
    ) -> tuple[IntentAnswer, ...]:
        """See `IntentClassifier.classify`."""
        with self._telemetry.span("serve.intent", carrier):
            return await self._threads.run(self._classifier.classify, set_name, texts, top_k, threshold)

    def describe(self) -> tuple[EngineInfo, tuple[IntentSetInfo, ...]]:
        """Which engine answers, and for which sets."""
        return self._classifier.info, self._classifier.intent_sets

    async def check_health(self) -> None:
        """Raises where nothing is classified any more."""
        await self._threads.check(partial(self._threads.run, self._encode))

    def _encode(self) -> None:
        self._encoder.encode([_PROOF])


@serve.deployment(
    name="tts",
    max_ongoing_requests=16,
    max_queued_requests=64,
    **_SHARED,
)
class TtsReplica:
    """Speaks, and encodes what it speaks.

    Args:
        vits_model: the name or path of a VITS model; None speaks with eSpeak NG.
    """

    def __init__(self, local: bool, vits_model: str | None, torch_threads: int, longest_s: float) -> None:
        _prepare_replica(local)
        self._telemetry = Telemetry.from_environ("aiaas-tts", os.environ)
        self._threads = WatchedThreads(_SPEECH_THREADS, "speak", longest_s)
        self._synthesiser = _synthesiser(vits_model, torch_threads)
        self._threads.warm_up(self._say)

    async def speak(self, request: SpeechRequest, carrier: Carrier) -> AsyncIterator[SpeechPiece]:
        """An encoded file in pieces, the first after the first sentence.

        Raises:
            UnknownVoiceError, NothingToSpeakError: both before the first piece.
        """
        with self._telemetry.span("serve.tts", carrier):
            async for piece in _in_thread(self._file(request), self._threads):
                yield piece

    def _file(self, request: SpeechRequest) -> Iterator[SpeechPiece]:
        from serving.media.speech_file import speech_file

        spoken = self._synthesiser.speak(request.text, request.voice, request.speed)
        return speech_file(spoken, request, self._synthesiser.sample_rate_hz)

    def describe(self) -> EngineInfo:
        """Which engine answers."""
        return self._synthesiser.info

    async def check_health(self) -> None:
        """Raises where nothing is spoken any more."""
        await self._threads.check(partial(self._threads.run, self._say))

    def _say(self) -> None:
        next(self._synthesiser.speak(_PROOF, self._synthesiser.info.voices[0], 1.0))


def _synthesiser(vits_model: str | None, torch_threads: int) -> Synthesiser:
    if vits_model is not None:
        from serving.engines.vits import VitsSynthesiser

        return VitsSynthesiser(vits_model, torch_threads)
    from serving.engines.espeak import EspeakSynthesiser

    return EspeakSynthesiser()


async def _in_thread(pieces: Iterator[Piece], threads: WatchedThreads) -> AsyncIterator[Piece]:
    """Step through a blocking iterator off the event loop; each step is bounded in time."""
    step: Callable[[], Piece | None] = lambda: next(pieces, None)  # noqa: E731
    while (piece := await threads.run(step)) is not None:
        yield piece


def _prepare_replica(local: bool) -> None:
    """Called first in every replica.

    A replica's gRPC server listens on all addresses, whatever address its node has, and Ray has no setting
    for it. On one machine it has no business there, token or not.
    """
    if local:
        replica: Any = importlib.import_module("ray.serve._private.replica")
        add_port = getattr(replica, "add_port_to_grpc_server", None)
        if add_port is not None:
            replica.add_port_to_grpc_server = lambda server, _address: add_port(server, "127.0.0.1:0")
