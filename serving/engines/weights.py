"""Models by name or path: where their files are, and how they are loaded and named."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from infra.errors import StartupError

_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")  # the first that a model has
_OTHER_FILES = ("*.json", "*.txt", "*.model")
_DIGEST_LETTERS = 12


def model_folder(model: str, setting: str) -> Path:
    """The folder that holds a model's files.

    That is `model` itself where it is a folder. Otherwise it is a name on the Hugging Face Hub: its files are
    taken from the local cache where they are in it, else downloaded.

    Args:
        setting: the variable that names the model, for the message.

    Raises:
        StartupError: they cannot be had; the message says which, from where, and how to do without a network.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder.absolute()
    if folder.is_absolute() or model.startswith(("~", ".")):
        raise StartupError(f"{setting}={model}: there is no such folder on this machine.")
    from huggingface_hub import constants

    for from_cache in (True, False):
        for weights in _WEIGHTS:
            snapshot = _snapshot(model, weights, from_cache)
            if snapshot is not None and any(snapshot.glob(weights)):
                return snapshot
    raise StartupError(
        f"{setting}={model}: the model's files are neither in the cache {constants.HF_HUB_CACHE} nor to be "
        f"had from {constants.ENDPOINT}. Without a network, copy them to this machine (config.json, the "
        f"weights and the tokenizer's files, in one folder) and set {setting} to that folder's path."
    )


def load(kind: Any, folder: Path, setting: str) -> Any:
    """`kind.from_pretrained` over a folder's files, and nothing else.

    Raises:
        StartupError: files are missing, or are not of this kind.
    """
    try:
        return kind.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise _unusable(kind, folder, setting, _reason(error)) from None


def load_model(kind: Any, folder: Path, setting: str, unused: Iterable[str] = ()) -> Any:
    """A model with the weights in a folder, on the GPU where there is one.

    Args:
        unused: what may be missing among the weights, by the beginnings of their names.

    Raises:
        StartupError: weights are missing, or belong to another kind of model.
    """
    import torch

    try:
        model, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    except Exception as error:
        raise _unusable(kind, folder, setting, _reason(error)) from None
    # Missing weights would be drawn at random.
    missing = [name for name in report["missing_keys"] if not name.startswith(tuple(unused))]
    if missing:
        raise _unusable(kind, folder, setting, f"{len(missing)} of its weights are not there")
    return model.eval().to("cuda" if torch.cuda.is_available() else "cpu")


def model_name(model: str) -> str:
    """What callers see: the last part of the name or path."""
    return Path(model).expanduser().absolute().name


def weights_digest(folder: Path) -> str:
    """The beginning of the SHA-256 of a folder's weights: the model's version."""
    digest = hashlib.sha256()
    for pattern in _WEIGHTS:
        for file in sorted(folder.glob(pattern)):
            with file.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()[:_DIGEST_LETTERS]


def _snapshot(model: str, weights: str, from_cache: bool) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        files = [*_OTHER_FILES, weights]
        return Path(snapshot_download(model, allow_patterns=files, local_files_only=from_cache))
    except (OSError, ValueError):  # what the hub's client raises: not there, not a name, no network
        return None


def _unusable(kind: Any, folder: Path, setting: str, reason: str) -> StartupError:
    return StartupError(
        f"{setting}: the files in {folder} cannot be used as a {kind.__name__}: {reason}. "
        "Set it to a model of that kind, with all of its files."
    )


def _reason(error: Exception) -> str:
    """In one line; where a file is missing, transformers raises OSError with a message, or what it may."""
    if isinstance(error, OSError) and (line := str(error).strip().partition("\n")[0]):
        return line.rstrip(".")
    return f"files are missing, or of another kind ({type(error).__name__})"
