"""Whisper deployed on Ray Serve by the settings alone."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.processes import end_left_behind
from infra.telemetry import Telemetry
from serving.client import ServingClient
from serving.contract import RecognitionRequest
from serving.media.encode import speech_encoder
from tests.engines.tiny_whisper import CHINESE, ENGLISH, RATE_HZ, silence, speech
from tests.integration.test_serving_host import Host


def file_of(pcm: bytes) -> bytes:
    encoder = speech_encoder("wav", RATE_HZ)
    return encoder.feed(pcm) + encoder.finish()


@pytest.fixture
def host(tiny_whisper: Path, tmp_path: Path) -> Iterator[Host]:
    started = Host(tmp_path / ".aiaas", ASR_ENGINE="whisper", ASR_MODEL=str(tiny_whisper))
    try:
        yield started
        started.process.terminate()
        assert started.process.wait(30) == 0
    finally:
        started.process.kill()
        end_left_behind(started.home)


async def test_whisper_answers_many_requests_at_once_when_the_settings_name_it(host: Host) -> None:
    engines = {line["part"]: (line.get("engine"), line.get("model")) for line in host.progress}
    assert engines["asr"] == ("whisper", "tiny-test")
    client = await ServingClient.connect(host.address, host.settings, Telemetry.from_environ("test", {}))
    try:
        long = file_of(silence(12) + speech(ENGLISH[1]) + silence(15) + speech(ENGLISH[3]) + silence(1))
        uploads = [*(file_of(speech(text)) for text in ENGLISH), long]
        asked = RecognitionRequest(wants_words=False)
        heard = await asyncio.gather(*(client.transcribe(one, asked, timeout_s=60) for one in uploads))
        assert [one.text for one in heard[:-1]] == list(ENGLISH)
        assert heard[-1].text == f"{ENGLISH[1]} {ENGLISH[3]}"
        assert heard[-1].segments[1].start_ms == pytest.approx(28_860, abs=500)
        assert {(one.language, one.engine, one.model) for one in heard} == {("en", "whisper", "tiny-test")}
        chinese = await client.transcribe(
            file_of(speech(CHINESE[0])), RecognitionRequest(language="zh-CN"), timeout_s=60
        )
        assert (chinese.text, chinese.language) == ("您的订单明天会送达。", "zh")
        nothing = await client.transcribe(file_of(silence(1)), asked, timeout_s=60)
        assert (nothing.text, nothing.language) == ("", "und")
    finally:
        client.close()


def test_a_checkpoint_that_is_not_there_stops_the_start_with_the_way_to_provide_it(tmp_path: Path) -> None:
    started = Host(tmp_path / ".aiaas", ASR_ENGINE="whisper", ASR_MODEL="/nowhere/large.pt")
    try:
        assert started.progress[-1]["part"] == "asr"
        assert "There is no Whisper checkpoint at /nowhere/large.pt" in started.progress[-1]["error"]
        assert started.process.wait(30) == 1
    finally:
        started.process.kill()
        end_left_behind(started.home)
