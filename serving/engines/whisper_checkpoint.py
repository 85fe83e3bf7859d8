"""Whisper's weights: by name, from where OpenAI keeps them, or from a file."""

import os
import pickle
import socket
from pathlib import Path

import whisper
from torch import nn
from whisper.model import ModelDimensions, Whisper

from infra.errors import StartupError

_DOWNLOAD_STALLS_S = 60.0
_TURBO_LAYERS = (32, 4)
_RESERVE_BYTES = 1 << 30  # CUDA's own, and what does not grow with the batch
_BYTES = 2  # of a number in fp16


def load_checkpoint(model: str) -> Whisper:
    """The model, ready to decode: on the GPU in fp16 where there is one, else on the CPU in fp32.

    Args:
        model: one of `whisper.available_models()`, downloaded on first use to `~/.cache/whisper`, or the path
            of a checkpoint as `whisper.load_model` takes it.

    Raises:
        StartupError: the file is not there, cannot be fetched, or is no checkpoint; says how to provide it.
    """
    is_named = model in whisper.available_models()
    file = _cached_file(model) if is_named else Path(model).expanduser()
    if not is_named and not file.is_file():
        names = ", ".join(whisper.available_models())
        raise StartupError(
            f"There is no Whisper checkpoint at {file}. Set ASR_MODEL to the path of one (a .pt file), "
            f"or to a name: {names}."
        )
    stalls_s = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_STALLS_S)
    try:
        loaded = whisper.load_model(model if is_named else str(file))
    except (
        OSError,
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        reason = type(error).__name__
        if is_named and not file.is_file():
            raise StartupError(_absent(model, file, reason)) from error
        raise StartupError(
            f"{file} is no Whisper checkpoint that can be loaded ({reason}). Put the whole file there, as "
            "whisper.load_model takes it."
        ) from error
    finally:
        socket.setdefaulttimeout(stalls_s)
    loaded.eval().requires_grad_(False)
    return _halved(loaded) if loaded.device.type == "cuda" else loaded


def model_name(model: str) -> str:
    """How a model is called in the API: by its name, or by its file's name without ending."""
    return model if model in whisper.available_models() else Path(model).stem


def translates(model: Whisper) -> bool:
    """Whether the model was trained to translate: the English ones were not, and turbo was not.

    Turbo is known by its layers (large-v3's encoder, a decoder of 4), so by whatever path it comes.
    """
    is_turbo = (model.dims.n_audio_layer, model.dims.n_text_layer) == _TURBO_LAYERS
    return model.is_multilingual and not is_turbo


def windows_in(memory_bytes: int, dims: ModelDimensions) -> int:
    """How many windows may be decoded at once, 1 at least: what the weights leave, by what a window takes.

    A window takes keys and values over its sound and over its text in each layer of the decoder, the latter
    twice while they grow, and, at its most, one layer of the encoder: its attention and four times its width.
    """
    weights = 12 * (dims.n_audio_layer * dims.n_audio_state**2) + 16 * (
        dims.n_text_layer * dims.n_text_state**2
    )
    weights += dims.n_vocab * dims.n_text_state
    decoder = 2 * dims.n_text_layer * dims.n_text_state * (dims.n_audio_ctx + 2 * dims.n_text_ctx)
    encoder = dims.n_audio_head * dims.n_audio_ctx**2 + 8 * dims.n_audio_ctx * dims.n_audio_state
    room_bytes = memory_bytes - _RESERVE_BYTES - _BYTES * weights
    return max(1, room_bytes // (_BYTES * (decoder + encoder)))


def _halved(model: Whisper) -> Whisper:
    """Weights in fp16 once for all; the library would turn them over in each call. Its norms want fp32."""
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Embedding):
            module.half()
    return model


def _absent(model: str, file: Path, reason: str) -> str:
    return (
        f"Whisper's model {model} could not be fetched from {_address(model)} ({reason}). Without a network, "
        f"put that file at {file}, or set ASR_MODEL to the path where it is."
    )


def _address(model: str) -> str:
    return whisper._MODELS[model]  # the library tells it in no other way


def _cached_file(model: str) -> Path:
    """Where `whisper.load_model` keeps what it fetched."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "whisper" / _address(model).rpartition("/")[2]
