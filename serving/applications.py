"""The applications as the settings want them: engines, replicas, and what each of them reserves."""

from pathlib import Path
from typing import Any

from ray import serve

from infra.scale import Scale
from infra.settings import Settings
from serving.deployments import AsrReplica, IntentReplica, MediaReplica, TtsReplica, WhisperReplica

_RECOGNISER_GPU = 0.5
_SMALL_GPU = 0.25  # of an encoder, and of VITS: with Whisper's, all three fit into one GPU


def applications(
    settings: Settings, cores: int, *, local: bool, has_gpu: bool
) -> dict[str, serve.Application]:
    """Every application by name, in the order in which they are worth starting: the slowest first.

    Each drains: a replica that is to go finishes what it has in hand, for as long as a call may take.

    Args:
        cores: how many of its machine's cores a replica may count on.
        local: whether they run on this machine alone.
        has_gpu: whether Ray has a GPU, of which replicas with a large model reserve their usual part. What
            the settings reserve is reserved in any case.
    """
    threads = min(cores, max(2, cores // 2))
    intent_model = _found(settings.intent_model)
    tts_model = _found(settings.tts_model) if settings.tts_engine == "vits" else None
    intent_gpu = _gpu(settings.intent_scale, _SMALL_GPU, has_gpu and intent_model is not None)
    tts_gpu = _gpu(settings.tts_scale, _SMALL_GPU, has_gpu and tts_model is not None)
    intent: Any = _scaled(
        IntentReplica, settings.intent_scale, settings.intent_timeout_s, 0.3, intent_gpu, 16
    )
    tts: Any = _scaled(TtsReplica, settings.tts_scale, settings.tts_timeout_s, 0.2, tts_gpu, 4)
    media: Any = _scaled(MediaReplica, settings.media_scale, settings.asr_timeout_s, 0.1, 0, 4)
    return {
        "intent": intent.bind(local, intent_model, threads, settings.intent_timeout_s),
        "asr": _recogniser(settings, threads, local, has_gpu),
        "tts": tts.bind(local, tts_model, threads, settings.tts_timeout_s),
        "media": media.bind(local),
    }


def _recogniser(settings: Settings, threads: int, local: bool, has_gpu: bool) -> serve.Application:
    scale, longest_s = settings.asr_scale, settings.asr_timeout_s
    if settings.asr_engine == "pocketsphinx":
        small: Any = _scaled(AsrReplica, scale, longest_s, 0.3, _gpu(scale, 0, False), 1.5)
        return small.bind(local, longest_s)
    batch, gpu = settings.asr_max_batch, _gpu(scale, _RECOGNISER_GPU, has_gpu)
    whisper: Any = _scaled(WhisperReplica, scale, longest_s, 0.3, gpu, batch)
    # One batch in hand, the next one gathering.
    bounded = whisper.options(max_ongoing_requests=2 * batch, max_queued_requests=4 * batch)
    return bounded.bind(local, _found(settings.asr_model), threads, longest_s, batch, gpu)


def _gpu(scale: Scale, usual: float, has_use: bool) -> float:
    """Ray shows a replica no GPU that it did not reserve."""
    if scale.gpu is not None:
        return scale.gpu
    return usual if has_use else 0


def _scaled(
    replica: Any, scale: Scale, longest_s: float, usual_cpus: float, gpu: float, usual_in_flight: float
) -> Any:
    """A deployment with its replicas.

    Args:
        longest_s: how long a call may take.
        usual_cpus: a reservation, and not a limit: all of them together are less than one core, so that they
            are placed on the smallest machine.
    """
    options: dict[str, Any] = {
        "graceful_shutdown_timeout_s": longest_s,
        "ray_actor_options": {"num_cpus": scale.cpus or usual_cpus, "num_gpus": gpu},
    }
    if scale.max_replicas is None or scale.max_replicas == scale.min_replicas:
        return replica.options(num_replicas=scale.min_replicas, **options)
    autoscaling = {
        "min_replicas": scale.min_replicas,
        "max_replicas": scale.max_replicas,
        "target_ongoing_requests": scale.in_flight or usual_in_flight,
    }
    return replica.options(autoscaling_config=autoscaling, **options)


def _found(model: str | None) -> str | None:
    """A model's path made absolute where it is one here: replicas work in a folder of their own."""
    if model is None or not (path := Path(model).expanduser()).exists():
        return model
    return str(path.absolute())
