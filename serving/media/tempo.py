"""Slower speech at the same pitch."""

import numpy as np
from av.audio.frame import AudioFrame
from av.error import BlockingIOError as NotYetError
from av.error import EOFError as EndOfSound
from av.filter import Graph


def change_tempo(pcm: bytes, sample_rate_hz: int, factor: float) -> bytes:
    """Play mono s16le at `factor` times its tempo (0.5 to 2.0), by FFmpeg's `atempo` filter (WSOLA)."""
    graph = Graph()
    source = graph.add_abuffer(sample_rate=sample_rate_hz, format="s16", layout="mono")
    tempo = graph.add("atempo", f"{factor:.6f}")
    sink = graph.add("abuffersink")
    source.link_to(tempo)
    tempo.link_to(sink)
    graph.configure()
    frame = AudioFrame.from_ndarray(np.frombuffer(pcm, "<i2").reshape(1, -1), format="s16", layout="mono")
    frame.sample_rate = sample_rate_hz
    source.push(frame)
    source.push(None)
    stretched = bytearray()
    while True:
        try:
            piece = sink.pull()
        except (EndOfSound, NotYetError):
            return bytes(stretched)
        if isinstance(piece, AudioFrame):
            stretched += bytes(piece.planes[0])[: piece.samples * 2]
