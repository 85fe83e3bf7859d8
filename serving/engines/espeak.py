"""Text to speech by eSpeak NG, through the C interface of its `speak_lib.h`."""

import ctypes
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from infra.errors import StartupError
from serving.contract import EngineInfo, Spoken
from serving.engines.voices import MANDARIN, OPENAI_VOICES, runs, sentences
from serving.errors import UnknownVoiceError
from serving.media.tempo import change_tempo

_NORMAL_WORDS_PER_MINUTE = 160
_SLOWEST_WORDS_PER_MINUTE = 80
_AUDIO_OUTPUT_SYNCHRONOUS = 2
_INITIALIZE_DONT_EXIT = 0x8000
_CHARS_UTF8 = 1
_PARAMETER_RATE = 1

# Listed, but left out of some builds: without its dictionary such a voice cannot read.
_OPTIONAL = ("fo", "kaa", "xex")

# eSpeak NG has one state per process, whoever holds the library: one lock per process guards it.
_PROCESS_LOCK = threading.Lock()

_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)


class _Voice(ctypes.Structure):
    """`espeak_VOICE`; `languages` is a priority byte and then a zero-terminated language tag."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        ("languages", ctypes.c_void_p),
        ("identifier", ctypes.c_char_p),
        ("gender", ctypes.c_ubyte),
        ("age", ctypes.c_ubyte),
        ("variant", ctypes.c_ubyte),
        ("reserved", ctypes.c_ubyte),
        ("score", ctypes.c_int),
        ("spare", ctypes.c_void_p),
    )


class EspeakSynthesiser:
    """Speaks with OpenAI's voice names and with eSpeak NG's own (`cmn`, `yue`, `en-gb`, `de`, ...).

    With an OpenAI name, Chinese is spoken in Mandarin with the same variant of voice, and a mixed text
    changes language in mid-sentence. With a name of eSpeak NG, that voice speaks all of it.
    """

    def __init__(self) -> None:
        import espeakng_loader

        library = Path(espeakng_loader.get_library_path())
        data = Path(espeakng_loader.get_data_path())
        try:
            self._library = ctypes.CDLL(str(library))
        except OSError as error:
            raise StartupError(f"eSpeak NG's library cannot be loaded: {error}. Reinstall it.") from None
        self._heard = bytearray()
        self._callback = _Callback(self._hear)
        with _PROCESS_LOCK:
            self.sample_rate_hz: int = self._library.espeak_Initialize(
                _AUDIO_OUTPUT_SYNCHRONOUS, 0, str(data).encode(), _INITIALIZE_DONT_EXIT
            )
            if self.sample_rate_hz <= 0:
                raise StartupError(f"eSpeak NG cannot read its data in {data}. Reinstall it.")
            self._files = self._list_voices(data)
        self.info = EngineInfo(
            product="tts",
            engine="espeak-ng",
            model="espeak-ng",
            version=version("espeakng-loader"),
            voices=(*OPENAI_VOICES, *sorted(self._files)),
        )

    def speak(self, text: str, voice: str, speed: float) -> Iterator[Spoken]:
        """One piece per sentence and language.

        `speed` scales 160 words a minute. eSpeak NG goes down to 80; what is slower is stretched.

        Raises:
            UnknownVoiceError: raised here, before the first piece is asked for.
        """
        if voice not in OPENAI_VOICES and voice not in self._files:
            raise UnknownVoiceError
        return self._pieces(text.replace("\0", " "), voice, speed)

    def _pieces(self, text: str, voice: str, speed: float) -> Iterator[Spoken]:
        characters = 0
        for sentence in sentences(text):
            for voice_file, part in self._parts(sentence, voice):
                characters += len(part)
                if pcm := self._synthesise(part, voice_file, speed):
                    yield Spoken(pcm, characters)

    def _parts(self, sentence: str, voice: str) -> Iterator[tuple[str, str]]:
        if voice in self._files:
            yield self._files[voice], sentence
            return
        language, variant = OPENAI_VOICES[voice]
        for chinese, part in runs(sentence):
            yield f"{MANDARIN if chinese else language}+{variant}", part

    def _synthesise(self, text: str, voice_file: str, speed: float) -> bytes:
        if not text.strip():
            return b""
        words_per_minute = round(_NORMAL_WORDS_PER_MINUTE * speed)
        encoded = text.encode() + b"\0"
        with _PROCESS_LOCK:
            if self._library.espeak_SetVoiceByName(voice_file.encode()) != 0:
                raise UnknownVoiceError
            self._library.espeak_SetParameter(
                _PARAMETER_RATE, max(words_per_minute, _SLOWEST_WORDS_PER_MINUTE), 0
            )
            self._library.espeak_SetSynthCallback(self._callback)
            self._heard.clear()
            self._library.espeak_Synth(encoded, len(encoded), 0, 0, 0, _CHARS_UTF8, None, None)
            pcm = bytes(self._heard)
        if pcm and words_per_minute < _SLOWEST_WORDS_PER_MINUTE:
            return change_tempo(pcm, self.sample_rate_hz, words_per_minute / _SLOWEST_WORDS_PER_MINUTE)
        return pcm

    def _hear(self, samples: "ctypes._Pointer[ctypes.c_short]", count: int, _events: int | None) -> int:
        if samples and count > 0:
            self._heard += ctypes.string_at(samples, count * 2)
        return 0

    def _list_voices(self, data: Path) -> dict[str, str]:
        """eSpeak NG's voices: language tag -> the file that `espeak_SetVoiceByName` wants."""
        undefined = {voice for voice in _OPTIONAL if not (data / f"{voice}_dict").exists()}
        list_voices = self._library.espeak_ListVoices
        list_voices.restype = ctypes.POINTER(ctypes.POINTER(_Voice))
        found = list_voices(None)
        files: dict[str, str] = {}
        index = 0
        while found[index]:
            voice = found[index].contents
            file = voice.identifier.decode().rpartition("/")[2]
            tag = ctypes.string_at(voice.languages + 1).decode().lower()
            if file not in undefined:
                files.setdefault(tag, file)
                files.setdefault(file.lower(), file)
            index += 1
        return files
