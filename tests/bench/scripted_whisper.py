"""A Whisper of any size that always writes the same text: all of the computing, none of the weights.

What the decoder says depends on the position alone: its blocks compute and their results are multiplied by
nothing, and the position's own vector points at the next token of the script. So a benchmark knows what is
written, at the true dimensions of a published model, without a download.
"""

from dataclasses import asdict
from pathlib import Path

import torch
from whisper.model import ModelDimensions, Whisper
from whisper.tokenizer import get_tokenizer

SIZES = {  # mels, vocabulary, width, layers of the encoder and of the decoder, as published
    "tiny": (80, 51_865, 384, 4, 4),
    "base": (80, 51_865, 512, 6, 6),
    "small": (80, 51_865, 768, 12, 12),
    "turbo": (128, 51_866, 1280, 32, 4),
}
TEXT = (
    "Good morning, you are speaking with the customer service of the parcel company. I see that your order "
    "left our warehouse on Tuesday, and that the driver could not find anybody at the address you gave us. "
    "Shall I send it again tomorrow between nine and twelve, or would you rather fetch it at the post office?"
)
_WIDTH_OF_HEAD = 64
_LOUDNESS = 10.0  # of the position beside the token that was written
_SPREAD = 0.05


def write(checkpoint: Path, size: str) -> None:
    """Write a checkpoint as `whisper.load_model` takes it, with a text of 30 s."""
    torch.manual_seed(0)
    mels, vocabulary, width, encoder_layers, decoder_layers = SIZES[size]
    heads = width // _WIDTH_OF_HEAD
    dims = ModelDimensions(
        mels, 1500, width, heads, encoder_layers, vocabulary, 448, width, heads, decoder_layers
    )
    model = Whisper(dims)
    tokenizer = get_tokenizer(True, num_languages=vocabulary - 51_766, language="en", task="transcribe")
    first, last = tokenizer.timestamp_begin, tokenizer.timestamp_begin + 1500
    script = [*tokenizer.sot_sequence, first, *tokenizer.encode(f" {TEXT}"), last, tokenizer.eot]
    decoder = model.decoder
    with torch.no_grad():
        for block in decoder.blocks:
            for last_layer in (block.attn.out, block.cross_attn.out, block.mlp[-1]):
                last_layer.weight.zero_()
                last_layer.bias.zero_()
        decoder.token_embedding.weight.normal_(std=_SPREAD)
        decoder.positional_embedding.zero_()
        decoder.positional_embedding[: len(script) - 1] = (
            _LOUDNESS * decoder.token_embedding.weight[script[1:]]
        )
    torch.save({"dims": asdict(dims), "model_state_dict": model.state_dict()}, checkpoint)
