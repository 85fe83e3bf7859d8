"""Real models of no size, with weights drawn from a seed: what they say is noise, how they say it is not."""

import json
import math
from pathlib import Path

from serving.intents.sets import ready_made_sets

VITS_RATE_HZ = 16_000
VITS_LETTERS = "_abcdefghijklmnopqrstuvwxyz '"
ENCODER_DIMENSIONS = 32
_FRAMES_PER_TOKEN = 6


def make_vits(folder: Path, speakers: int = 1) -> Path:
    """A VITS that knows small letters, and says each in about 6 frames of 64 samples."""
    import torch
    from transformers import VitsConfig, VitsModel, VitsTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "letters.json"
    vocabulary.write_text(json.dumps({letter: index for index, letter in enumerate(VITS_LETTERS)}))
    VitsTokenizer(str(vocabulary), phonemize=False, pad_token="_", unk_token="_").save_pretrained(folder)
    vocabulary.unlink()
    torch.manual_seed(1)
    config = VitsConfig(
        vocab_size=len(VITS_LETTERS),
        hidden_size=16,
        num_hidden_layers=1,
        ffn_dim=16,
        flow_size=16,
        spectrogram_bins=9,
        num_speakers=speakers,
        speaker_embedding_size=8 if speakers > 1 else 0,
        upsample_initial_channel=16,
        upsample_rates=[8, 8],
        upsample_kernel_sizes=[16, 16],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1]],
        depth_separable_num_layers=1,
        duration_predictor_filter_channels=8,
        duration_predictor_num_flows=1,
        prior_encoder_num_flows=1,
        prior_encoder_num_wavenet_layers=1,
        posterior_encoder_num_wavenet_layers=1,
        sampling_rate=VITS_RATE_HZ,
    )
    model = VitsModel(config)
    model.duration_predictor.flows[0].translate.data.fill_(-math.log(_FRAMES_PER_TOKEN))
    model.save_pretrained(folder)
    return folder


def make_encoder(folder: Path, pooling: dict[str, object] | None = None) -> Path:
    """A BERT that knows the words of the ready-made sets; `pooling` is sentence-transformers' file."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder.mkdir(parents=True, exist_ok=True)
    texts = [text for known in ready_made_sets() for text in known.labelled()[0]]
    words = sorted({word.strip("?!.,'") for text in texts for word in text.lower().split()} - {""})
    vocabulary = {
        word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words])
    }
    BertTokenizer(vocab=vocabulary).save_pretrained(folder)
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=ENCODER_DIMENSIONS,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=ENCODER_DIMENSIONS,
        max_position_embeddings=66,
    )
    BertModel(config).save_pretrained(folder)
    if pooling is not None:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder
