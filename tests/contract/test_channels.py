"""A telephone call of two channels: mixed, or each side recognised and charged by itself."""

import io
from typing import Any

import av
import httpx
import numpy as np
import pytest
from av.audio.resampler import AudioResampler

from tests.contract.conftest import TenantOfTest
from tests.media_files import sound_file
from tests.stack import Stack

RATE_HZ = 8_000
LINE_NOISE = 20
CUSTOMER, AGENT = "We are going to the market tomorrow.", "Please call me tomorrow morning."


def said(stack: Stack, text: str) -> Any:
    """Samples as a telephone carries them."""
    file = stack.openai().audio.speech.create(
        model="tts-1", voice="alloy", input=text, response_format="flac"
    )
    resampler = AudioResampler("s16", "mono", RATE_HZ)
    with av.open(io.BytesIO(file.content), "r") as container:
        frames = [piece for frame in container.decode(audio=0) for piece in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in [*frames, *resampler.resample(None)]])


def call(stack: Stack) -> tuple[Any, int]:
    """The customer on the second channel, a second's pause, the agent on the first; and the sample at which
    the agent begins."""
    customer, agent = said(stack, CUSTOMER), said(stack, AGENT)
    agent_starts = len(customer) + RATE_HZ
    sides = np.random.default_rng(0).normal(0, LINE_NOISE, (agent_starts + len(agent), 2)).astype(np.int16)
    sides[: len(customer), 1] += customer
    sides[agent_starts:, 0] += agent
    return sides, agent_starts


def transcribed(stack: Stack, tenant: TenantOfTest, file: bytes, **fields: str) -> httpx.Response:
    with stack.http(tenant.key) as http:
        return http.post(
            "/v1/audio/transcriptions",
            data={"model": "whisper-1", "language": "en", **fields},
            files={"file": ("call.wav", file)},
        )


def are_words_of_customer(text: str) -> bool:
    """Some of them: the small recogniser is used to sound of twice the rate, and guesses the rest."""
    return len(set(text.split()) & set(CUSTOMER.lower().strip(".").split())) >= 2


@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw"])
def test_each_side_of_a_call_has_its_words_its_times_and_its_charge(
    stack: Stack, tenant: TenantOfTest, codec: str
) -> None:
    sides, agent_starts = call(stack)
    length_ms = len(sides) * 1000 // RATE_HZ
    file = sound_file("wav", codec, RATE_HZ, sides)
    answer = transcribed(stack, tenant, file, channels="split", response_format="verbose_json")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert [segment["channel"] for segment in body["segments"]] == [1, 0]
    customer, agent = body["segments"]
    assert are_words_of_customer(customer["text"])
    assert agent["text"]
    assert agent["start"] == pytest.approx(agent_starts / RATE_HZ, abs=0.5)
    assert body["text"] == f"{customer['text']} {agent['text']}"
    assert body["duration"] == length_ms / 1000
    assert body["usage"]["seconds"] == 2 * length_ms / 1000
    assert int(answer.headers["x-aiaas-units"]) == 2 * length_ms
    usage = stack.cli("usage", "--tenant", tenant.tenant_id)["meters"]
    assert usage["asr.audio_ms"] == {"units": 2 * length_ms, "calls": 1}


def test_a_mixed_call_is_one_transcript_and_one_charge(stack: Stack, tenant: TenantOfTest) -> None:
    sides, _ = call(stack)
    file = sound_file("wav", "pcm_mulaw", RATE_HZ, sides)
    answer = transcribed(stack, tenant, file, response_format="verbose_json")
    assert are_words_of_customer(answer.json()["text"])
    assert all("channel" not in segment for segment in answer.json()["segments"])
    assert int(answer.headers["x-aiaas-units"]) == len(sides) * 1000 // RATE_HZ


@pytest.mark.parametrize(
    ("count", "channels", "code", "param"),
    [
        (10, "mix", "too_many_channels", "file"),
        (3, "split", "too_many_channels", "channels"),
        (1, "both", "invalid_value", "channels"),
    ],
)
def test_channels_that_cannot_be_used_are_named(
    stack: Stack, tenant: TenantOfTest, count: int, channels: str, code: str, param: str
) -> None:
    file = sound_file("wav", "pcm_s16le", RATE_HZ, np.zeros((RATE_HZ, count), np.int16))
    answer = transcribed(stack, tenant, file, channels=channels)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
