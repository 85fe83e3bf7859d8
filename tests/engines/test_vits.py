"""VITS by name or path: voices, speed, sentences, and what start-up says when a model cannot be used."""

import io
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import av
import numpy as np
import pytest

from infra.errors import StartupError
from infra.settings import Settings
from serving.contract import SPEECH_RATE_HZ, SpeechFormat, SpeechPiece, SpeechRequest, Spoken
from serving.engines.vits import VitsSynthesiser
from serving.errors import NothingToSpeakError, UnknownVoiceError
from tests.engines.tiny_models import VITS_RATE_HZ, make_encoder, make_vits

SENTENCE = "Your order will be delivered on monday."
TEXT = f"{SENTENCE} 12! Thank you for calling."
PADDING_S = 0.1
SPEAKERS = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_vits(tmp_path_factory.mktemp("models") / "tiny-vits", SPEAKERS)


@pytest.fixture(scope="module")
def synthesiser(folder: Path) -> VitsSynthesiser:
    return VitsSynthesiser(str(folder), threads=2)


@pytest.fixture(scope="module")
def replica(folder: Path) -> Any:
    """The deployment as settings make it, in this process."""
    from ray import serve

    from serving.applications import applications

    settings = Settings(tts_engine="vits", tts_model=str(folder))
    return serve.run(
        applications(settings, 2, local=True, has_gpu=False)["tts"], name="tts", _local_testing_mode=True
    )


async def pieces_of(replica: Any, text: str, response_format: SpeechFormat = "wav") -> list[SpeechPiece]:
    request = SpeechRequest(text, "alloy", 1.0, response_format)
    return [piece async for piece in replica.speak.options(stream=True).remote(request, {})]


def pcm_of(spoken: Iterator[Spoken]) -> bytes:
    return b"".join(piece.pcm for piece in spoken)


def test_it_says_which_model_speaks_and_with_whose_voices(synthesiser: VitsSynthesiser) -> None:
    info = synthesiser.info
    assert (info.product, info.engine, info.model) == ("tts", "vits", "tiny-vits")
    assert len(info.version) == 12  # of the weights' digest
    assert {"alloy", "shimmer", "speaker-0", "speaker-2"} <= set(info.voices)
    assert "speaker-3" not in info.voices
    assert synthesiser.sample_rate_hz == VITS_RATE_HZ


def test_openai_names_take_the_speakers_in_turn(synthesiser: VitsSynthesiser) -> None:
    own = [pcm_of(synthesiser.speak("hello", f"speaker-{index}", 1.0)) for index in range(SPEAKERS)]
    assert len(set(own)) == SPEAKERS
    for index, name in enumerate(["alloy", "ash", "ballad", "cedar", "coral"]):
        assert pcm_of(synthesiser.speak("hello", name, 1.0)) == own[index % SPEAKERS], name


def test_a_model_of_one_speaker_speaks_under_every_name(tmp_path: Path) -> None:
    single = VitsSynthesiser(str(make_vits(tmp_path / "single")), threads=2)
    sounds = {pcm_of(single.speak("hello", voice, 1.0)) for voice in ("alloy", "verse", "speaker-0")}
    assert len(sounds) == 1


def test_an_unknown_voice_is_refused_before_anything_is_spoken(synthesiser: VitsSynthesiser) -> None:
    with pytest.raises(UnknownVoiceError):
        synthesiser.speak("Hello.", "speaker-9", 1.0)


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
def test_speed_divides_the_length(synthesiser: VitsSynthesiser, speed: float) -> None:
    usual, other = (len(pcm_of(synthesiser.speak(SENTENCE, "alloy", pace))) for pace in (1.0, speed))
    assert usual / other == pytest.approx(speed, rel=0.2)


def test_the_same_text_sounds_the_same_whatever_was_said_before(synthesiser: VitsSynthesiser) -> None:
    first = pcm_of(synthesiser.speak(TEXT, "alloy", 1.0))
    pcm_of(synthesiser.speak("Something else.", "ash", 2.0))
    assert pcm_of(synthesiser.speak(TEXT, "alloy", 1.0)) == first
    assert np.abs(np.frombuffer(first, "<i2")).max() > 3000


def test_characters_are_counted_with_those_that_are_not_heard(synthesiser: VitsSynthesiser) -> None:
    counted = [piece.characters for piece in synthesiser.speak(TEXT, "alloy", 1.0)]
    assert counted == [len(SENTENCE), len(TEXT)]


def test_the_first_sentence_is_there_before_the_second_is_computed(folder: Path) -> None:
    synthesiser = VitsSynthesiser(str(folder), threads=2)
    computed: list[int] = []
    synthesiser._model.register_forward_hook(lambda *_: computed.append(1))
    pieces = synthesiser.speak("Hello there. Good bye. And again.", "alloy", 1.0)
    assert computed == []
    for sentence in (1, 2, 3):
        assert next(pieces).pcm
        assert len(computed) == sentence


@pytest.mark.parametrize("response_format", get_args(SpeechFormat))
async def test_the_replica_that_settings_choose_speaks_every_format(
    replica: Any, synthesiser: VitsSynthesiser, response_format: SpeechFormat
) -> None:
    pieces = await pieces_of(replica, TEXT, response_format)
    assert len(pieces) >= 2
    assert [piece.characters for piece in pieces] == sorted(piece.characters for piece in pieces)
    assert pieces[-1].characters == len(TEXT)
    file = b"".join(piece.sound for piece in pieces)
    expected_s = len(pcm_of(synthesiser.speak(TEXT, "alloy", 1.0))) / 2 / VITS_RATE_HZ
    assert expected_s <= length_s(file, response_format) + 0.001 <= expected_s + PADDING_S


async def test_the_replica_says_that_vits_answers(replica: Any) -> None:
    assert (await replica.describe.remote()).engine == "vits"


@pytest.mark.parametrize("text", ["...", "12", " \n ", "!?\0", "您好。", "' ''"])
async def test_a_text_without_a_symbol_of_the_model_has_nothing_to_speak(replica: Any, text: str) -> None:
    with pytest.raises(NothingToSpeakError):
        await pieces_of(replica, text)


def length_s(file: bytes, response_format: SpeechFormat) -> float:
    if response_format == "pcm":
        return len(file) / 2 / SPEECH_RATE_HZ
    with av.open(io.BytesIO(file)) as container:
        stream = container.streams.audio[0]
        return sum(frame.samples for frame in container.decode(stream)) / stream.rate


class TestStartUpSaysWhatIsWrong:
    def test_of_a_folder_that_is_not_there(self) -> None:
        with pytest.raises(StartupError, match=r"TTS_MODEL=/no/such/model: there is no such folder"):
            VitsSynthesiser("/no/such/model", threads=1)

    def test_of_a_name_that_cannot_be_fetched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        with pytest.raises(StartupError) as refused:
            VitsSynthesiser("someone/some-voice", threads=1)
        message = str(refused.value)
        for part in ("someone/some-voice", constants.ENDPOINT, str(tmp_path), "set TTS_MODEL to that folder"):
            assert part in message
        assert "\n" not in message

    def test_of_a_model_of_another_kind(self, tmp_path: Path, folder: Path) -> None:
        mixed = make_encoder(tmp_path / "mixed")
        for file in ("vocab.json", "tokenizer_config.json"):
            shutil.copy(folder / file, mixed / file)
        with pytest.raises(StartupError, match=r"cannot be used as a VitsModel: \d+ of its weights"):
            VitsSynthesiser(str(mixed), threads=1)

    def test_of_weights_that_are_missing(self, tmp_path: Path, folder: Path) -> None:
        cut = Path(shutil.copytree(folder, tmp_path / "cut"))
        (cut / "model.safetensors").unlink()
        with pytest.raises(StartupError, match=r"cannot be used as a VitsModel: .*model\.safetensors"):
            VitsSynthesiser(str(cut), threads=1)

    def test_of_a_tokenizer_that_is_missing(self, tmp_path: Path, folder: Path) -> None:
        cut = Path(shutil.copytree(folder, tmp_path / "cut"))
        (cut / "vocab.json").unlink()
        with pytest.raises(StartupError, match="cannot be used as a VitsTokenizer: files are missing"):
            VitsSynthesiser(str(cut), threads=1)

    @pytest.mark.parametrize(("option", "package"), [("phonemize", "phonemizer"), ("is_uroman", "uroman")])
    def test_of_a_package_that_the_model_reads_text_through(
        self, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, option: str, package: str
    ) -> None:
        other = Path(shutil.copytree(folder, tmp_path / "other"))
        file = other / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {option: True}))
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
        with pytest.raises(StartupError, match=rf"reads text through the package {package}\."):
            VitsSynthesiser(str(other), threads=1)


def test_a_name_is_served_from_the_hubs_cache_without_a_network(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    cached = tmp_path / "models--someone--some-voice"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, cached / "snapshots" / ("0" * 40))
    assert VitsSynthesiser("someone/some-voice", threads=2).info.model == "some-voice"
