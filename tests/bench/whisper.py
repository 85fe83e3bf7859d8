"""How Whisper's batches scale: `python -m tests.bench.whisper [--size turbo] [--rounds N]`.

Windows of 30 s through the engine, 1 to 16 at a time, on the GPU where torch has one: seconds of sound in a
second, the real-time factor, and how many times faster than one by one. The model has a published size and
writes one text of 30 s: see `tests.bench.scripted_whisper`.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from serving.contract import RecognitionRequest, Sound
from serving.engines.whisper import WhisperRecogniser
from tests.bench.scripted_whisper import SIZES, TEXT, write
from tests.engines.tiny_whisper import ENGLISH, RATE_HZ, silence, speech

BATCHES = (1, 2, 4, 8, 16)
WINDOW_S = 30


def window() -> Sound:
    """30 s in which somebody speaks."""
    said = b"".join(speech(text) + silence(0.4) for text in ENGLISH * 3)
    return Sound(said[: WINDOW_S * RATE_HZ * 2], RecognitionRequest(wants_words=False))


def measure(recogniser: WhisperRecogniser, rounds: int) -> dict[int, float]:
    """Seconds of sound in a second, by the size of the batch; the sizes take turns."""
    sound = window()
    took_s: dict[int, list[float]] = {batch: [] for batch in BATCHES}
    for _ in range(rounds):
        for batch in BATCHES:
            began_s = time.perf_counter()
            heard = recogniser.recognise([sound] * batch)
            took_s[batch].append(time.perf_counter() - began_s)
            assert all(one.segments[0].text == TEXT for one in heard)
    return {batch: batch * WINDOW_S / statistics.median(took) for batch, took in took_s.items()}


def main(size: str, rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="aiaas-bench-") as folder:
        checkpoint = Path(folder) / f"{size}.pt"
        write(checkpoint, size)
        recogniser = WhisperRecogniser(str(checkpoint), os.cpu_count() or 1)
        recogniser.warm_up()
        audio_s_per_s = measure(recogniser, rounds)
    one = audio_s_per_s[1]
    report = {
        "model": size,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores",
        "batches": {
            batch: {
                "audio_s_per_s": round(rate, 1),
                "real_time_factor": round(1 / rate, 4),
                "times_one_by_one": round(rate / one, 2),
            }
            for batch, rate in audio_s_per_s.items()
        },
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    main(given.size, given.rounds)
