"""Events say what a transcript and a file of speech say, in OpenAI's words."""

import base64
import json
import threading
from collections.abc import AsyncGenerator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from gateway.events import TranscriptEvents, error_event, speech_pieces, transcript_pieces
from serving.contract import Segment, SpeechPiece, Word
from serving.errors import OverloadedError
from serving.joining import gap, join
from serving.listening import Listening
from serving.transcription import Heard


def data_of(events: bytes) -> list[dict[str, Any]]:
    """Read back line by line, as a client does."""
    return [json.loads(line[6:]) for line in events.decode().split("\n") if line.startswith("data: ")]


def segment(text: str, start_ms: int = 0) -> Segment:
    return Segment(text, start_ms, start_ms + 500, (Word(text, start_ms, start_ms + 500),))


def events_of(windows: list[list[str]], *, is_verbose: bool = False) -> list[dict[str, Any]]:
    events = TranscriptEvents("transcribe", is_verbose=is_verbose, wants_words=False)
    heard = b"".join(events.heard(Heard(tuple(map(segment, texts)), 1, "en")) for texts in windows)
    return data_of(heard + events.done(1500, 1500))


spoken = st.sampled_from(["hello", "thank you", "您好。", "訂單", "", "3,", "ありがとう", "네"])


@given(st.lists(st.lists(spoken)), st.booleans())
def test_all_deltas_together_are_the_text(windows: list[list[str]], is_verbose: bool) -> None:
    *events, done = events_of(windows, is_verbose=is_verbose)
    assert "".join(event.get("delta", "") for event in events) == done["text"]
    assert done["text"] == join(text for window in windows for text in window)


@given(st.lists(st.text(max_size=4)))
def test_a_text_is_joined_by_the_gaps_between_its_pieces(pieces: list[str]) -> None:
    joined = ""
    for piece in pieces:
        joined += gap(joined, piece) + piece
    assert joined == join(pieces)


def test_plain_events_are_deltas_and_an_end_that_says_what_is_charged() -> None:
    assert events_of([["hello"], [], ["您好。"]]) == [
        {"delta": "hello", "type": "transcript.text.delta"},
        {"delta": "您好。", "type": "transcript.text.delta"},
        {
            "text": "hello您好。",
            "usage": {"seconds": 1.5, "type": "duration"},
            "type": "transcript.text.done",
        },
    ]


def test_verbose_events_have_segments_with_what_was_asked_for() -> None:
    events = TranscriptEvents("translate", is_verbose=True, wants_words=True)
    delta, told = data_of(events.heard(Heard((segment("hello", 30_250),), 31_000, "zh")))
    assert (delta["delta"], delta["segment_id"]) == ("hello", "seg_0")
    assert told == {
        "id": "seg_0",
        "start": 30.25,
        "end": 30.75,
        "text": "hello",
        "speaker": "",
        "words": [{"word": "hello", "start": 30.25, "end": 30.75}],
        "type": "transcript.text.segment",
    }
    (done,) = data_of(events.done(62_000, 31_000))
    assert (done["language"], done["duration"]) == ("english", 31.0), "a translation is English"


def test_a_failure_has_the_name_and_the_body_of_an_error() -> None:
    event = error_event(OverloadedError())
    assert event.startswith(b"event: error\ndata: {")
    (data,) = data_of(event)
    assert set(data["error"]) == {"message", "type", "code", "param"}
    assert (data["error"]["code"], data["error"]["type"]) == ("overloaded", "rate_limit_error")


async def test_a_transcript_is_whole_with_its_last_event_alone() -> None:
    async def windows() -> AsyncGenerator[Heard, None]:
        yield Heard((segment("hello"),), 30_000, "en")
        yield Heard((), 41_234, "en")

    listening = Listening(41_234, windows(), "engine", "model")
    events = TranscriptEvents("transcribe", is_verbose=False, wants_words=False)
    pieces = [piece async for piece in transcript_pieces(listening, events)]
    assert [piece.units for piece in pieces] == [30_000, 41_233, 41_234]
    assert [bool(piece.body) for piece in pieces] == [True, False, True]


async def test_each_channel_is_delivered_and_charged_and_the_file_is_as_long_as_one() -> None:
    async def windows() -> AsyncGenerator[Heard, None]:
        yield Heard((structs.replace(segment("hello"), channel=0),), 20_000, "en", 0)
        yield Heard((structs.replace(segment("yes?"), channel=1),), 20_000, "en", 1)

    events = TranscriptEvents("transcribe", is_verbose=True, wants_words=False)
    pieces = [piece async for piece in transcript_pieces(Listening(40_000, windows(), "e", "m"), events)]
    assert [piece.units for piece in pieces] == [20_000, 39_999, 40_000]
    said = data_of(b"".join(piece.body for piece in pieces))
    assert [event["channel"] for event in said if event["type"] == "transcript.text.segment"] == [0, 1]
    assert (said[-1]["duration"], said[-1]["usage"]["seconds"]) == (20.0, 40.0)


@pytest.mark.parametrize("last", [b"", b"rest"])
async def test_pieces_of_speech_are_the_file_and_the_last_has_the_end(last: bytes) -> None:
    async def sound() -> AsyncGenerator[SpeechPiece, None]:
        yield SpeechPiece(b"\xff\xfb", 0)
        yield SpeechPiece(b"more", 7)
        yield SpeechPiece(last, 12)

    pieces = [piece async for piece in speech_pieces(sound(), 12)]
    assert [piece.units for piece in pieces] == [0, 7, 12]
    *deltas, done = data_of(b"".join(piece.body for piece in pieces))
    assert b"".join(base64.b64decode(delta["audio"]) for delta in deltas) == b"\xff\xfbmore" + last
    assert (done["type"], done["usage"]["characters"]) == ("speech.audio.done", 12)


class _Broken(BaseHTTPRequestHandler):
    """Answers with a transcript that breaks off."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        events = TranscriptEvents("transcribe", is_verbose=False, wants_words=False)
        body = events.heard(Heard((segment("hello"),), 1, "en")) + error_event(OverloadedError())
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def test_the_official_client_raises_an_error_where_a_stream_breaks_off() -> None:
    with HTTPServer(("127.0.0.1", 0), _Broken) as server:
        threading.Thread(target=server.handle_request).start()
        client = openai.OpenAI(
            base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key="key", max_retries=0, timeout=10
        )
        stream = client.audio.transcriptions.create(model="whisper-1", file=("a.wav", b"x"), stream=True)
        first = next(stream)
        assert (first.type, first.delta) == ("transcript.text.delta", "hello")  # type: ignore[union-attr]
        with pytest.raises(openai.APIError) as broken:
            next(stream)
    assert (broken.value.code, broken.value.message) == ("overloaded", OverloadedError().message)
