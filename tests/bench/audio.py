"""What speech through the gateway costs: `python -m tests.bench.audio [--size tiny] [--rounds N]`.

Seconds of sound transcribed in a second, for 64 files of 10 to 60 s that are asked for at once: through the
gateway, by the deployment alone, and by openai-whisper itself in a plain loop in one process, 30 s by 30 s
(`whisper.decode`: the least that it can do). The three take turns, over one model, on one machine; each
figure is the median over the rounds. The model has a published size and writes one text, whatever is said:
see `tests.bench.scripted_whisper`. Then the time to the first byte of streamed speech, beside that of the
engine's own first sentence, for every format.
"""

import argparse
import asyncio
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from infra.settings import Settings
from infra.telemetry import Telemetry
from serving.client import ServingClient
from serving.contract import MEDIA_TYPES, RecognitionRequest
from serving.engines.espeak import EspeakSynthesiser
from serving.ray_environment import session_folder
from tests.bench.scripted_whisper import SIZES, TEXT, write
from tests.engines.tiny_whisper import ENGLISH, RATE_HZ, silence, speech
from tests.stack import Stack

REQUESTS = 64
SHORTEST_S, LONGEST_S = 10, 60
FORM_TYPE = "multipart/form-data; boundary=bench"
BYTES_PER_S = 2 * RATE_HZ
WINDOW_SAMPLES = 30 * RATE_HZ
TIMEOUT_S = 600.0
SPEECHES = 15
SPOKEN = "Good morning. Your parcel will arrive tomorrow between nine and twelve."


def files() -> list[bytes]:
    """Sentences with short pauses, as wav, each file of another length."""
    rng = np.random.default_rng(0)
    sentences = [speech(text) + silence(0.4) for text in ENGLISH]
    made: list[bytes] = []
    for number in range(REQUESTS):
        length_s = SHORTEST_S + (LONGEST_S - SHORTEST_S) * number / (REQUESTS - 1)
        sound = b""
        while len(sound) < length_s * BYTES_PER_S:
            sound += sentences[rng.integers(len(sentences))]
        made.append(_wav(sound[: int(length_s * RATE_HZ) * 2]))
    return made


def _wav(pcm: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((1, 2, RATE_HZ, 0, "NONE", ""))
        writer.writeframes(pcm)
    return file.getvalue()


def plain_loop(model: str, folder: str) -> None:
    """In a process of its own: transcribe a folder's files one by one as often as a line comes in."""
    import whisper

    loaded = whisper.load_model(model)
    options = whisper.DecodingOptions(fp16=loaded.device.type == "cuda")
    sounds = [_samples(path) for path in sorted(Path(folder).glob("*.wav"))]

    def transcribe(sound: "np.ndarray[Any, Any]") -> None:
        for start in range(0, len(sound), WINDOW_SAMPLES):
            samples = whisper.pad_or_trim(sound[start : start + WINDOW_SAMPLES])
            mel = whisper.log_mel_spectrogram(samples, loaded.dims.n_mels, device=loaded.device)
            assert whisper.decode(loaded, mel, options).text == TEXT  # type: ignore[union-attr]

    transcribe(sounds[0])
    print("ready", flush=True)
    for _ in sys.stdin:
        began_s = time.perf_counter()
        for sound in sounds:
            transcribe(sound)
        print(time.perf_counter() - began_s, flush=True)


def _samples(path: Path) -> "np.ndarray[Any, Any]":
    with wave.open(str(path)) as reader:
        return np.frombuffer(reader.readframes(reader.getnframes()), "<i2").astype(np.float32) / 32768


class Loop:
    """The plain loop's process."""

    def __init__(self, model: Path, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "--loop", str(model), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def run(self) -> float:
        """How long all files take, in seconds."""
        assert self._process.stdin
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(TIMEOUT_S)

    def _line(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()


async def all_at_once(transcribe: Callable[[bytes], Awaitable[Any]], uploads: list[bytes]) -> float:
    """How long it takes until all are answered, in seconds."""
    began_s = time.perf_counter()
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.gather(*(transcribe(upload) for upload in uploads))
    return time.perf_counter() - began_s


async def transcription(stack: Stack, model: Path, rounds: int) -> dict[str, Any]:
    uploads = files()
    audio_s = sum(len(upload) for upload in uploads) / BYTES_PER_S
    folder = stack.home.parent / "files"
    folder.mkdir()
    for number, upload in enumerate(uploads):
        (folder / f"{number:02}.wav").write_bytes(upload)
    settings = Settings(aiaas_home=stack.home)
    address = (session_folder(settings) / "ray_current_cluster").read_text().strip()
    deployment = await ServingClient.connect(address, settings, Telemetry.from_environ("bench", {}))
    loop = Loop(model, folder)
    try:
        took_s = await _in_turns(stack, deployment, loop, uploads, rounds)
    finally:
        loop.close()
        deployment.close()
    return _compared(took_s, audio_s)


async def _in_turns(
    stack: Stack, deployment: ServingClient, loop: Loop, uploads: list[bytes], rounds: int
) -> dict[str, list[float]]:
    """How long each way took for all files, round by round."""
    asked = RecognitionRequest(wants_words=False)
    forms = {upload: _form(upload) for upload in uploads}  # made ahead: making them is the clients' work
    headers = {"authorization": f"Bearer {stack.key}"}
    limits = httpx.Limits(max_connections=REQUESTS)
    async with httpx.AsyncClient(
        base_url=stack.url, headers=headers, timeout=TIMEOUT_S, limits=limits
    ) as http:

        async def alone(upload: bytes) -> None:
            heard = await deployment.transcribe(upload, asked, timeout_s=TIMEOUT_S)
            assert heard.text.startswith(TEXT)

        async def through_gateway(upload: bytes) -> None:
            answer = await http.post(
                "/v1/audio/transcriptions", content=forms[upload], headers={"content-type": FORM_TYPE}
            )
            answer.raise_for_status()
            assert answer.json()["text"].startswith(TEXT)

        took_s: dict[str, list[float]] = {"plain loop": [], "deployment": [], "gateway": []}
        await all_at_once(through_gateway, uploads[:8])
        for _ in range(rounds):
            took_s["plain loop"].append(await asyncio.to_thread(loop.run))
            took_s["deployment"].append(await all_at_once(alone, uploads))
            took_s["gateway"].append(await all_at_once(through_gateway, uploads))
    return took_s


def _form(upload: bytes) -> bytes:
    form = httpx.Request(
        "POST",
        "http://gateway",
        data={"model": "whisper-1"},
        files={"file": ("a.wav", upload)},
        headers={"content-type": FORM_TYPE},
    )
    return form.read()


def _compared(took_s: dict[str, list[float]], audio_s: float) -> dict[str, Any]:
    def ratio(one: str, other: str) -> float:
        """How many times as fast, in the same round."""
        pairs = zip(took_s[one], took_s[other], strict=True)
        return round(statistics.median(slow / fast for fast, slow in pairs), 2)

    return {
        "audio_s_per_s": {mode: round(audio_s / statistics.median(took), 1) for mode, took in took_s.items()},
        "gateway_to_plain_loop": ratio("gateway", "plain loop"),
        "deployment_to_plain_loop": ratio("deployment", "plain loop"),
        "gateway_to_deployment": ratio("gateway", "deployment"),
    }


def first_bytes(stack: Stack) -> dict[str, Any]:
    """Milliseconds to the first byte of speech, and how much that is more than the engine's own."""
    engine = EspeakSynthesiser()
    took_ms: dict[str, list[float]] = {name: [] for name in ("engine", *MEDIA_TYPES)}
    with stack.http() as http:
        for _ in range(SPEECHES):
            began_s = time.perf_counter()
            next(iter(engine.speak(SPOKEN, "alloy", 1.0)))
            took_ms["engine"].append((time.perf_counter() - began_s) * 1000)
            for name in MEDIA_TYPES:
                took_ms[name].append(_first_byte_ms(http, name))
    own_ms = statistics.median(took_ms["engine"])
    return {
        "engine_ms": round(own_ms, 1),
        "more_ms": {name: round(statistics.median(took_ms[name]) - own_ms, 1) for name in MEDIA_TYPES},
    }


def _first_byte_ms(http: httpx.Client, response_format: str) -> float:
    body = {"model": "tts-1", "voice": "alloy", "input": SPOKEN, "response_format": response_format}
    began_s = time.perf_counter()
    with http.stream("POST", "/v1/audio/speech", json=body) as answer:
        answer.raise_for_status()
        pieces = answer.iter_raw()
        next(pieces)
        took_ms = (time.perf_counter() - began_s) * 1000
        for _ in pieces:
            pass
    return took_ms


async def main(size: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="aiaas-bench-") as folder:
        model = Path(folder) / f"{size}.pt"
        write(model, size)
        environ = {"ASR_ENGINE": "whisper", "ASR_MODEL": str(model)}
        stack = Stack(Path(folder) / ".aiaas", environ=environ)
        stack.start()
        try:
            measured = {
                "cores": os.cpu_count(),
                "model": size,
                "transcription": await transcription(stack, model, rounds),
                "first_byte_of_speech": first_bytes(stack),
            }
        finally:
            stack.stop()
    print(json.dumps(measured, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--loop", nargs=2, metavar=("MODEL", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.loop:
        plain_loop(*given.loop)
    else:
        asyncio.run(main(given.size, given.rounds))
