"""Text to speech by VITS (Kim, Kong and Son, 2021), through transformers: any checkpoint of that kind."""

import importlib.util
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np

from infra.errors import StartupError
from serving.contract import EngineInfo, Spoken
from serving.engines.voices import OPENAI_VOICES, sentences
from serving.engines.weights import load, load_model, model_folder, model_name, weights_digest
from serving.errors import UnknownVoiceError
from serving.media.tempo import change_tempo

_SETTING = "TTS_MODEL"
_SEED = 1
# A token lasts one frame at least, so at higher rates the model would leave the tempo nearly as it is.
_FASTEST_RATE = 2.0
_LOUDEST = 32_767
_WARM_UP_TOKENS = 16


class VitsSynthesiser:
    """Speaks with the model's own speakers: `speaker-0`, `speaker-1` and so on, as many as it has.

    OpenAI's voice names are accepted for them: the names in alphabetical order take the speakers in turn,
    beginning anew when there are fewer (`alloy` is `speaker-0`, `ash` is `speaker-1`, ...). With a model of
    one speaker every name is that speaker.

    A sentence sounds the same each time: what a model draws at random is drawn from the same seed. On a GPU
    where there is one.

    Characters that a model has no symbol for are not heard; for many models those are digits.

    Args:
        model: a folder, or a name on the Hugging Face Hub.
        threads: how many cores torch may use.

    Raises:
        StartupError: the model cannot be had or used, or needs a package that is not installed.
    """

    def __init__(self, model: str, threads: int) -> None:
        import torch
        from transformers import VitsModel, VitsTokenizer

        self._torch = torch
        torch.set_num_threads(threads)  # Ray sets OMP_NUM_THREADS=1, and this overrides it
        folder = model_folder(model, _SETTING)
        self._tokenizer: Any = load(VitsTokenizer, folder, _SETTING)
        _require_packages(self._tokenizer)
        self._model: Any = load_model(VitsModel, folder, _SETTING)
        self._lock = threading.Lock()  # for the seed and the rate, which are the process's and the model's
        config = self._model.config
        self._usual_rate = float(config.speaking_rate)
        self.sample_rate_hz: int = config.sampling_rate
        self._speakers = _speakers(config.num_speakers)
        self.info = EngineInfo(
            product="tts",
            engine="vits",
            model=model_name(model),
            version=weights_digest(folder),
            voices=tuple(self._speakers),
        )
        self._compute([0] * _WARM_UP_TOKENS, 0, 1.0)

    def speak(self, text: str, voice: str, speed: float) -> Iterator[Spoken]:
        """One piece per sentence, computed when it is asked for.

        `speed` is the model's speaking rate up to 2; what is faster than that is played faster.

        Raises:
            UnknownVoiceError: raised here, before the first piece is asked for.
        """
        if voice not in self._speakers:
            raise UnknownVoiceError
        return self._pieces(text, self._speakers[voice], speed)

    def _pieces(self, text: str, speaker: int, speed: float) -> Iterator[Spoken]:
        characters = 0
        for sentence in sentences(text):
            characters += len(sentence)
            if tokens := self._tokens(sentence):
                yield Spoken(self._synthesise(tokens, speaker, speed), characters)

    def _tokens(self, sentence: str) -> list[int]:
        """What the model is given for a sentence: nothing where no letter or digit of it has a symbol."""
        tokens: list[int] = self._tokenizer(sentence)["input_ids"]
        heard = tokens[1::2] if self._tokenizer.add_blank else tokens
        symbols: list[str] = self._tokenizer.convert_ids_to_tokens(heard)
        if not any(symbol.isalnum() for symbol in symbols):
            return []
        return [token for token in tokens if token < self._model.config.vocab_size]

    def _synthesise(self, tokens: list[int], speaker: int, speed: float) -> bytes:
        rate = min(speed, _FASTEST_RATE)
        pcm = self._compute(tokens, speaker, rate)
        return pcm if speed == rate else change_tempo(pcm, self.sample_rate_hz, speed / rate)

    def _compute(self, tokens: list[int], speaker: int, rate: float) -> bytes:
        given = self._torch.tensor([tokens], device=self._model.device)
        with self._lock, self._torch.inference_mode():
            self._torch.manual_seed(_SEED)
            self._model.speaking_rate = self._usual_rate * rate
            waveform = self._model(input_ids=given, speaker_id=speaker).waveform[0]
        samples = waveform.float().clamp(-1, 1).cpu().numpy() * _LOUDEST
        return samples.astype(np.dtype("<i2")).tobytes()


def _speakers(count: int) -> dict[str, int]:
    """Every voice's speaker."""
    aliases = {name: index % count for index, name in enumerate(sorted(OPENAI_VOICES))}
    return aliases | {f"speaker-{index}": index for index in range(count)}


def _require_packages(tokenizer: Any) -> None:
    """Refuse to start where a text could not be read as the model was taught to read."""
    needed = {"phonemizer": tokenizer.phonemize, "uroman": tokenizer.is_uroman}
    for package, is_needed in needed.items():
        if is_needed and importlib.util.find_spec(package) is None:
            raise StartupError(
                f"{_SETTING}: this model reads text through the package {package}. Install it "
                f"(pip install {package}), or choose a model that needs none."
            )
