"""The Ray Serve deployments: `media`, `asr`, `intent` and `tts`, each an application of its own.

A replica's event loop does no work: engines run in its threads (pocketsphinx, which would hold the
interpreter, in processes), so health checks and refusals are answered while they do. Queues are bounded by
`max_queued_requests` for each gateway worker; what does not fit is refused at once.
"""

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from ray import serve

from infra.settings import Settings
from infra.telemetry import Telemetry
from serving.batches import Batches
from serving.contract import (
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

Carrier = Mapping[str, str]
Piece = TypeVar("Piece")

_RECOGNISERS = 2
_LARGEST_BATCH = 16  # windows of 30 s; Whisper's largest model needs some 8 GB for them
_BATCH_WAIT_S = 0.02
_GPU_SHARE = 0.5
_MEDIA_THREADS = 2
_SPEECH_THREADS = 2
_SMALL_GPU_SHARE = 0.25  # of an encoder, and of VITS: half of a GPU is left

# Reservations, not limits: together less than one core, so that all of it is placed on the smallest machine.
_SHARED: dict[str, Any] = {
    "health_check_period_s": 5,
    "health_check_timeout_s": 30,
    "graceful_shutdown_timeout_s": 2,
    "graceful_shutdown_wait_loop_s": 0.2,
}


@serve.deployment(
    name="media",
    # Each request holds an upload of up to 25 MB, in a queue as in hand.
    max_ongoing_requests=8,
    max_queued_requests=16,
    ray_actor_options={"num_cpus": 0.1},
    **_SHARED,
)
class MediaReplica:
    """Decodes uploads; a crafted file may break this process, and nothing else."""

    def __init__(self, local: bool) -> None:
        _prepare_replica(local)
        self._telemetry = Telemetry.from_environ("aiaas-media", os.environ)
        self._threads = ThreadPoolExecutor(_MEDIA_THREADS, "decode")

    async def windows(self, upload: bytes, carrier: Carrier) -> AsyncIterator[Window]:
        """See `serving.media.decode.windows`."""
        from serving.media.decode import windows

        with self._telemetry.span("serve.media", carrier):
            async for window in _in_thread(windows(upload), self._threads):
                yield window

    async def measured_windows(self, upload: bytes, carrier: Carrier) -> AsyncIterator[Window | int]:
        """As `windows`, with the whole file's length in ms ahead of the second window.

        The file is decoded twice: once to the end for its length, while the first window is recognised.
        """
        is_measured = False
        async for window in self.windows(upload, carrier):
            yield window
            if not is_measured:
                yield await self._length_ms(upload, carrier)
                is_measured = True

    async def _length_ms(self, upload: bytes, carrier: Carrier) -> int:
        from serving.media.measure import lengths_ms

        length_ms = 0
        with self._telemetry.span("serve.measure", carrier):
            # A step for each window: others have their turn between, and whoever leaves ends it.
            async for so_far_ms in _in_thread(lengths_ms(upload), self._threads):
                length_ms = so_far_ms
        return length_ms

    def describe(self) -> None:
        """Nothing to say; answers when the replica is up."""


@serve.deployment(
    name="asr",
    max_ongoing_requests=_RECOGNISERS,
    max_queued_requests=32,
    ray_actor_options={"num_cpus": 0.3},
    **_SHARED,
)
class AsrReplica:
    """Recognises windows by pocketsphinx, as many at a time as it has processes."""

    def __init__(self, local: bool) -> None:
        from serving.engines.isolated import IsolatedRecogniser

        _prepare_replica(local)
        self._telemetry = Telemetry.from_environ("aiaas-asr", os.environ)
        self._threads = ThreadPoolExecutor(_RECOGNISERS, "recognise")
        self._recognisers = [IsolatedRecogniser() for _ in range(_RECOGNISERS)]
        self._idle = asyncio.Queue[IsolatedRecogniser]()
        for recogniser in self._recognisers:
            self._idle.put_nowait(recogniser)
        self._recognisers[0].warm_up()

    async def recognise(self, window: Window, asked: RecognitionRequest, carrier: Carrier) -> Recognised:
        """What is said in one window, with times from the window's beginning.

        When the caller goes away, the work is stopped in the middle.
        """
        with self._telemetry.span("serve.asr", carrier):
            recogniser = await self._idle.get()
            loop = asyncio.get_running_loop()
            try:
                (recognised,) = await loop.run_in_executor(
                    self._threads, recogniser.recognise, [Sound(window.pcm, asked)]
                )
            except asyncio.CancelledError:
                recogniser.stop()
                raise
            finally:
                self._idle.put_nowait(recogniser)
            return recognised

    def describe(self) -> EngineInfo:
        """Which engine answers."""
        return self._recognisers[0].info

    def check_health(self) -> None:
        """Start again what has ended. Raises OSError where that fails."""
        for recogniser in self._recognisers:
            recogniser.ensure_started()


@serve.deployment(
    name="asr",
    max_ongoing_requests=2 * _LARGEST_BATCH,  # one batch in hand, the next one gathering
    max_queued_requests=4 * _LARGEST_BATCH,
    ray_actor_options={"num_cpus": 0.3},
    **_SHARED,
)
class WhisperReplica:
    """Recognises windows by Whisper, those of different requests in one batch."""

    def __init__(self, local: bool, model: str, torch_threads: int, longest_batch_s: float) -> None:
        from serving.engines.whisper import WhisperRecogniser

        _prepare_replica(local)
        self._telemetry = Telemetry.from_environ("aiaas-asr", os.environ)
        self._recogniser = WhisperRecogniser(model, torch_threads)
        self._recogniser.warm_up()
        self._batches = Batches(self._recogniser.recognise, _LARGEST_BATCH, _BATCH_WAIT_S)
        self._longest_batch_s = longest_batch_s

    async def recognise(self, window: Window, asked: RecognitionRequest, carrier: Carrier) -> Recognised:
        """What is said in one window, with times from the window's beginning."""
        with self._telemetry.span("serve.asr", carrier):
            return await self._batches.submit(Sound(window.pcm, asked))

    def describe(self) -> EngineInfo:
        """Which engine answers."""
        return self._recogniser.info

    def check_health(self) -> None:
        """Raises TimeoutError where a batch hangs; nobody waits for it any more."""
        if self._batches.busy_s > self._longest_batch_s:
            raise TimeoutError


@serve.deployment(
    name="intent",
    max_ongoing_requests=32,
    max_queued_requests=256,
    ray_actor_options={"num_cpus": 0.3},
    **_SHARED,
)
class IntentReplica:
    """Classifies texts; one thread, because torch spreads each batch over its own.

    Args:
        model: the encoder's name or path; None is the bundled one.
    """

    def __init__(self, local: bool, model: str | None, torch_threads: int) -> None:
        from serving.engines.encoder import TransformersEncoder
        from serving.intents.classifier import LinearIntentClassifier
        from serving.intents.sets import ready_made_sets

        _prepare_replica(local)
        self._telemetry = Telemetry.from_environ("aiaas-intent", os.environ)
        self._threads = ThreadPoolExecutor(1, "classify")
        encoder = TransformersEncoder(model, torch_threads)
        self._classifier = LinearIntentClassifier(encoder, encoder.info, ready_made_sets())

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
            return await asyncio.get_running_loop().run_in_executor(
                self._threads, self._classifier.classify, set_name, texts, top_k, threshold
            )

    def describe(self) -> tuple[EngineInfo, tuple[IntentSetInfo, ...]]:
        """Which engine answers, and for which sets."""
        return self._classifier.info, self._classifier.intent_sets


@serve.deployment(
    name="tts",
    max_ongoing_requests=16,
    max_queued_requests=64,
    ray_actor_options={"num_cpus": 0.2},
    **_SHARED,
)
class TtsReplica:
    """Speaks, and encodes what it speaks.

    Args:
        vits_model: the name or path of a VITS model; None speaks with eSpeak NG.
    """

    def __init__(self, local: bool, vits_model: str | None, torch_threads: int) -> None:
        _prepare_replica(local)
        self._telemetry = Telemetry.from_environ("aiaas-tts", os.environ)
        self._threads = ThreadPoolExecutor(_SPEECH_THREADS, "speak")
        self._synthesiser = _synthesiser(vits_model, torch_threads)

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


def _synthesiser(vits_model: str | None, torch_threads: int) -> Synthesiser:
    if vits_model is not None:
        from serving.engines.vits import VitsSynthesiser

        return VitsSynthesiser(vits_model, torch_threads)
    from serving.engines.espeak import EspeakSynthesiser

    return EspeakSynthesiser()


async def _in_thread(pieces: Iterator[Piece], threads: ThreadPoolExecutor) -> AsyncIterator[Piece]:
    """Step through a blocking iterator off the event loop."""
    loop = asyncio.get_running_loop()
    step: Callable[[], Piece | None] = lambda: next(pieces, None)  # noqa: E731
    while (piece := await loop.run_in_executor(threads, step)) is not None:
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


def applications(
    settings: Settings, cores: int, *, local: bool, has_gpu: bool
) -> dict[str, serve.Application]:
    """Every application by name, in the order in which they are worth starting: the slowest first.

    Args:
        cores: how many of its machine's cores a replica may count on.
        local: whether they run on this machine alone.
        has_gpu: whether Ray has a GPU of which replicas with a large model reserve a share.
    """
    torch_threads = min(cores, max(2, cores // 2))

    def large(replica: Any, num_cpus: float, gpu_share: float) -> Any:
        """Ray shows a replica no GPU that it did not reserve."""
        if not has_gpu:
            return replica
        return replica.options(ray_actor_options={"num_cpus": num_cpus, "num_gpus": gpu_share})

    intent: Any = large(IntentReplica, 0.3, _SMALL_GPU_SHARE) if settings.intent_model else IntentReplica
    asr, tts = AsrReplica.bind(local), TtsReplica.bind(local, None, torch_threads)
    if settings.asr_engine == "whisper":
        asr = large(WhisperReplica, 0.3, _GPU_SHARE).bind(
            local, _found(settings.asr_model), torch_threads, settings.asr_timeout_s
        )
    if settings.tts_engine == "vits":
        tts = large(TtsReplica, 0.2, _SMALL_GPU_SHARE).bind(local, _found(settings.tts_model), torch_threads)
    return {
        "intent": intent.bind(local, _found(settings.intent_model), torch_threads),
        "asr": asr,
        "tts": tts,
        "media": MediaReplica.bind(local),
    }


def _found(model: str | None) -> str | None:
    """A model's path made absolute where it is one here: replicas work in a folder of their own."""
    if model is None or not (path := Path(model).expanduser()).exists():
        return model
    return str(path.absolute())
