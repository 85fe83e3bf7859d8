"""Events as the official client reads them, and callers that leave; over the running stack."""

import base64
import http.client
import json
import time
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from openai.types.audio import TranscriptionTextDeltaEvent, TranscriptionTextSegmentEvent

from infra.ids import parse_call_id
from tests.contract.conftest import TenantOfTest
from tests.stack import Stack, wait_until

SENTENCE = "Please call me tomorrow."
_METER = "asr.audio_ms"


@pytest.fixture(scope="module")
def long_speech(stack: Stack) -> bytes:
    """A wav of some 65 s: three windows."""
    return (
        stack.openai()
        .audio.speech.create(model="tts-1", voice="alloy", input=f"{SENTENCE} " * 32, response_format="wav")
        .content
    )


def events_of(answer: httpx.Response) -> list[dict[str, object]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]


def audio_units(stack: Stack, tenant: TenantOfTest) -> dict[str, int]:
    return stack.cli("usage", "--tenant", tenant.tenant_id)["meters"][_METER]


def test_a_streamed_transcript_is_charged_before_its_first_event_and_comes_as_it_is_heard(
    stack: Stack, tenant: TenantOfTest, long_speech: bytes
) -> None:
    arrived: list[tuple[float, Any]] = []
    with (
        stack.database() as database,
        stack.openai(tenant.key).audio.transcriptions.create(
            model="whisper-1",
            file=("speech.wav", long_speech),
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
            stream=True,
        ) as stream,
    ):
        call_id = parse_call_id(stream.response.headers["x-aiaas-call-id"])
        charged = database.execute(
            "SELECT units FROM billing.usage_row WHERE call_id = %s", [call_id]
        ).fetchall()
        arrived.extend((time.monotonic(), event) for event in stream)
    assert arrived[-1][0] - arrived[0][0] > 0.1, "the first came while the last was recognised"
    events = [event for _, event in arrived]
    done = events[-1]
    assert done.type == "transcript.text.done"
    deltas = [event for event in events if event.type == "transcript.text.delta"]
    assert "".join(delta.delta for delta in deltas) == done.text
    assert done.text.count("tomorrow") >= 25
    check_segments([event for event in events if event.type == "transcript.text.segment"], deltas)
    told = done.to_dict()
    seconds = told["usage"]["seconds"]  # type: ignore[index]
    assert told["usage"] == {"type": "duration", "seconds": seconds}
    assert (told["language"], told["duration"]) == ("english", seconds)
    assert charged == [(round(seconds * 1000),)]  # type: ignore[arg-type]
    assert audio_units(stack, tenant) == {"units": charged[0][0], "calls": 1}


def check_segments(
    segments: list[TranscriptionTextSegmentEvent], deltas: list[TranscriptionTextDeltaEvent]
) -> None:
    """Each has its delta, its place in the file and its words; nobody is named as its speaker."""
    assert [segment.id for segment in segments] == [f"seg_{number}" for number in range(len(segments))]
    assert [segment.id for segment in segments] == [delta.segment_id for delta in deltas]
    assert [segment.text for segment in segments] == [delta.delta.strip() for delta in deltas]
    assert segments[-1].end > 40, "times count from the file's beginning"
    assert {segment.speaker for segment in segments} == {""}
    for segment in segments:
        words: Any = segment.to_dict()["words"]
        assert " ".join(word["word"] for word in words) == segment.text
        assert segment.start <= words[0]["start"] <= words[-1]["end"] <= segment.end


def test_speech_as_events_is_the_same_file_and_says_what_is_charged(
    stack: Stack, tenant: TenantOfTest
) -> None:
    body = {"model": "tts-1", "voice": "alloy", "input": f"{SENTENCE} " * 3, "response_format": "wav"}
    with stack.http(tenant.key) as client:
        answer = client.post("/v1/audio/speech", json={**body, "stream_format": "sse"})
        whole = client.post("/v1/audio/speech", json=body)
    assert answer.headers["x-aiaas-generated"] == "ai"
    *deltas, done = events_of(answer)
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    sound = b"".join(base64.b64decode(str(delta["audio"])) for delta in deltas)
    assert len(sound) == len(whole.content)
    assert sound[:4] == b"RIFF"
    characters = len(body["input"])
    assert int(answer.headers["x-aiaas-units"]) == characters
    assert done["type"] == "speech.audio.done"
    assert done["usage"] == {
        "type": "characters",
        "characters": characters,
        "input_tokens": 0,
        "output_tokens": 0,
        "total_tokens": 0,
    }


def test_a_streamed_transcript_with_a_key_is_charged_once_and_streamed_again(
    stack: Stack, tenant: TenantOfTest
) -> None:
    sound = stack.openai().audio.speech.create(
        model="tts-1", voice="alloy", input=SENTENCE, response_format="wav"
    )

    def ask(**fields: str) -> httpx.Response:
        with stack.http(tenant.key) as client:
            return client.post(
                "/v1/audio/transcriptions",
                data={"model": "whisper-1", **fields},
                files={"file": ("speech.wav", sound.content)},
                headers={"idempotency-key": "one"},
            )

    answers = [ask(stream="true"), ask(stream="true")]
    assert answers[0].text == answers[1].text
    assert len({answer.headers["x-aiaas-call-id"] for answer in answers}) == 1
    assert answers[1].headers["idempotent-replayed"] == "true"
    assert audio_units(stack, tenant)["calls"] == 1
    assert ask().status_code == 422, "another answer is asked for under the same key"


def hang_up_after(stack: Stack, key: str, sound: bytes, after_s: float, **fields: str) -> None:
    """Send a transcription, and close the connection without waiting for the answer."""
    address = urlsplit(stack.url)
    request = httpx.Request(
        "POST",
        f"{stack.url}/v1/audio/transcriptions",
        data={"model": "whisper-1", **fields},
        files={"file": ("speech.wav", sound)},
        headers={"authorization": f"Bearer {key}"},
    )
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    connection.request("POST", request.url.path, request.read(), dict(request.headers))
    time.sleep(after_s)
    connection.close()


def abandoned(stack: Stack) -> int:
    lines = [json.loads(line) for line in stack.log().splitlines() if "call_abandoned" in line]
    assert {line["code"] for line in lines} <= {"client_closed_request"}
    return len(lines)


@pytest.mark.parametrize("fields", [{}, {"stream": "true"}], ids=["whole", "streamed"])
def test_a_caller_that_leaves_before_the_charge_pays_nothing_and_frees_its_place(
    stack: Stack, tenant: TenantOfTest, long_speech: bytes, fields: dict[str, str]
) -> None:
    before = abandoned(stack)
    hang_up_after(stack, tenant.key, long_speech, 0.3, **fields)
    assert wait_until(lambda: abandoned(stack) == before + 1, 3.0)
    assert audio_units(stack, tenant) == {"units": 0, "calls": 0}
