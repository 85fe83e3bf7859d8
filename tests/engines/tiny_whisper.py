"""A very small Whisper that knows a dozen sentences, trained where the tests run.

It is a real one: OpenAI's architecture (two layers of width 64), the multilingual tokenizer, a checkpoint as
`whisper.load_model` takes it. Two things make its training a matter of seconds. The encoder keeps its random
weights, scaled so that sound outweighs position, so each spectrogram is encoded once and the decoder learns.
And it learns over the few tokens that occur; afterwards all others get rows of the embedding that point away
from whatever the decoder says, so that they are never likely.
"""

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import whisper
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional, init
from whisper.audio import N_SAMPLES
from whisper.model import ModelDimensions, TextDecoder, Whisper
from whisper.tokenizer import get_tokenizer

from serving.engines.espeak import EspeakSynthesiser
from serving.media.decode import windows
from serving.media.encode import speech_encoder

ENGLISH = (
    "Where is my money?",
    "Please call me tomorrow morning.",
    "I would like to cancel my order.",
    "The parcel has not arrived yet.",
    "How much does it cost?",
    "My invoice is wrong.",
    "Can you help me?",
    "Thank you very much.",
    "We open at nine.",
)
CIRCLING = "Seventeen purple elephants."
"""What the model hears as one word over and over: a text that goes round in circles."""
CHINESE = ("您的訂單明天會送達。", "請問需要什麼協助？", "我要取消訂單。")
PAIRS = ((0, 5), (6, 7), (1, 8))
"""Sentences of `ENGLISH` that are known to follow each other after 1.2 s, as two segments of one text."""

RATE_HZ = 16_000
PAIR_GAP_SAMPLES = int(1.2 * RATE_HZ)
_WIDTH = 64
_LAYERS = 2
_VOCABULARY = 51_865
_LEADS = (0, 4320, 4640, 4960, 5280)
_SAMPLES_PER_TIMESTAMP = 320
_GRID = 20  # timestamps are rounded to 0.4 s: there are few to learn
_BATCH = 24
_MOST_STEPS = 1500
_LEARNING_RATE = 0.003
_ENOUGH = 0.01
_UNLIKELY = -0.5


class Example(NamedTuple):
    samples: NDArray[np.float32]
    tokens: list[int]


def speech(text: str) -> bytes:
    """A sentence in eSpeak's voice: mono s16le at 16 kHz."""
    synthesiser = EspeakSynthesiser()
    encoder = speech_encoder("wav", synthesiser.sample_rate_hz)
    voice = "cmn" if text in CHINESE else "alloy"
    file = encoder.feed(b"".join(spoken.pcm for spoken in synthesiser.speak(text, voice, 1.0)))
    return b"".join(window.pcm for window in windows(file + encoder.finish()))


def silence(seconds: float) -> bytes:
    return bytes(int(seconds * RATE_HZ) * 2)


def train(checkpoint: Path) -> None:
    """Train until every sentence is known, and write the checkpoint."""
    torch.manual_seed(0)
    dims = ModelDimensions(
        80, 1500, _WIDTH, _WIDTH // 32, _LAYERS, _VOCABULARY, 448, _WIDTH, _WIDTH // 32, _LAYERS
    )
    model = Whisper(dims)
    examples = _examples()
    mels = torch.stack([whisper.log_mel_spectrogram(example.samples) for example in examples])
    _let_sound_outweigh_position(model, mels[:1])
    with torch.no_grad():
        features = torch.cat([model.encoder(mel[None]) for mel in mels])
    model.decoder.load_state_dict(_learn(features, [example.tokens for example in examples]))
    torch.save({"dims": asdict(dims), "model_state_dict": model.state_dict()}, checkpoint)


def _examples() -> list[Example]:
    """Each sentence at its window's start and a little later, alone and with another long after it."""
    rng = np.random.default_rng(0)
    sounds = [np.frombuffer(speech(text), "<i2") for text in ENGLISH + CHINESE]
    found: list[Example] = []
    for text, sound in zip(ENGLISH + CHINESE, sounds, strict=True):
        found += [_example([(lead, text, sound)]) for lead in _LEADS]
        for lead in (0, 4800):
            later = lead + len(sound) + int(rng.integers(5 * RATE_HZ, 18 * RATE_HZ))
            distraction = sounds[rng.integers(len(sounds))]
            found.append(_example([(lead, text, sound)], (later, distraction)))
    circling = np.frombuffer(speech(CIRCLING), "<i2")
    found.append(_example([(0, "no " * 23 + "no", circling)]))
    for first, second in PAIRS:
        for lead in (0, 4800):
            later = lead + len(sounds[first]) + PAIR_GAP_SAMPLES
            said = [(lead, ENGLISH[first], sounds[first]), (later, ENGLISH[second], sounds[second])]
            found.append(_example(said))
    return found


def _example(
    said: list[tuple[int, str, NDArray[np.int16]]],
    distraction: tuple[int, NDArray[np.int16]] | None = None,
) -> Example:
    """Sentences at samples of a window, padded as inference pads it, and what the decoder is to write."""
    samples = np.zeros(N_SAMPLES, np.float32)
    language = "zh" if said[0][1] in CHINESE else "en"
    tokenizer = get_tokenizer(True, num_languages=99, language=language, task="transcribe")
    tokens = list(tokenizer.sot_sequence)
    for start, text, sound in said:
        samples[start : start + len(sound)] = sound / 32768
        written = text if language == "zh" else f" {text}"
        tokens += [
            tokenizer.timestamp_begin + _timestamp(start),
            *tokenizer.encode(written),
            tokenizer.timestamp_begin + _timestamp(start + len(sound)),
        ]
    if distraction is not None:
        start, sound = distraction
        samples[start : start + len(sound)] = sound / 32768
    return Example(samples, [*tokens, tokenizer.eot])


def _timestamp(sample: int) -> int:
    return round(sample / _SAMPLES_PER_TIMESTAMP / _GRID) * _GRID


def _let_sound_outweigh_position(model: Whisper, mel: Tensor) -> None:
    with torch.no_grad():
        for convolution in (model.encoder.conv1, model.encoder.conv2):
            heard = convolution(mel)
            convolution.weight *= 2 / heard[..., :50].std()
            convolution.bias.zero_()
            mel = functional.gelu(convolution(mel))


def _learn(features: Tensor, texts: list[list[int]]) -> dict[str, Tensor]:
    """The state of a decoder that writes each text for its features."""
    vocabulary = sorted({token for text in texts for token in text})
    decoder = TextDecoder(len(vocabulary), 448, _WIDTH, _WIDTH // 32, _LAYERS)
    init.normal_(decoder.positional_embedding, std=0.02)
    init.normal_(decoder.token_embedding.weight, std=0.05)
    init.ones_(decoder.ln.bias)  # whatever is said points this way, and unknown tokens away from it
    given, wanted = _padded([[vocabulary.index(token) for token in text] for text in texts])
    optimiser = torch.optim.AdamW(decoder.parameters(), _LEARNING_RATE, weight_decay=0.0)
    for step in range(_MOST_STEPS):
        chosen = torch.randperm(len(texts))[:_BATCH]
        logits = decoder(given[chosen], features[chosen])
        loss = functional.cross_entropy(logits.flatten(0, 1), wanted[chosen].flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimiser.step()
        if step % 25 == 0 and _worst(decoder, features, given, wanted) < _ENOUGH:
            break
    else:
        raise AssertionError("the small Whisper has not learned its sentences")
    state = decoder.state_dict()
    rows = torch.full((_VOCABULARY, _WIDTH), _UNLIKELY)
    rows[vocabulary] = state["token_embedding.weight"]
    return state | {"token_embedding.weight": rows}


def _padded(texts: list[list[int]]) -> tuple[Tensor, Tensor]:
    """What the decoder is given and what it is to say next, for texts of different lengths."""
    longest = max(map(len, texts))
    given = torch.zeros(len(texts), longest - 1, dtype=torch.long)
    wanted = torch.full((len(texts), longest - 1), -100)
    for number, text in enumerate(texts):
        given[number, : len(text) - 1] = torch.tensor(text[:-1])
        wanted[number, : len(text) - 1] = torch.tensor(text[1:])
    return given, wanted


def _worst(decoder: TextDecoder, features: Tensor, given: Tensor, wanted: Tensor) -> float:
    """The mean loss of the text that is known least."""
    with torch.no_grad():
        losses = functional.cross_entropy(
            decoder(given, features).transpose(1, 2), wanted, reduction="none", ignore_index=-100
        )
        return float((losses.sum(1) / (wanted >= 0).sum(1)).max())
