"""`python -m serving.host` for real, and everything that a gateway worker asks of it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import psutil
import pytest
import pytest_asyncio

from infra.errors import DomainError
from infra.processes import HOME_MARK, end_left_behind, left_behind
from infra.settings import Settings, load_settings
from infra.telemetry import Telemetry
from serving.calls import Calls, deadline
from serving.client import ServingClient
from serving.contract import RecognitionRequest, SpeechFormat, SpeechRequest
from serving.errors import (
    AudioTooLongError,
    DeadlineExceededError,
    EmptyAudioError,
    EngineUnavailableError,
    NothingToSpeakError,
    OverloadedError,
    UndecodableAudioError,
    UnknownIntentSetError,
    UnknownVoiceError,
    UnsupportedLanguageError,
)
from serving.media.decode import windows
from serving.placement import Placement
from serving.ray_environment import clear_short_folder
from serving.remote.engines import open_remote
from tests.elsewhere import Elsewhere
from tests.elsewhere import spoken as elsewhere_speech
from tests.media_files import endless_silence

START_TIMEOUT_S = 120.0
SENTENCE = "Where is my money?"
PARTS = {"ray", "media", "asr", "intent", "tts"}

pytestmark = pytest.mark.asyncio(loop_scope="module")


class Host:
    """The process, and what it said when it started."""

    def __init__(self, home: Path, **environ: str) -> None:
        self.home = home
        self.process = subprocess.Popen(
            [sys.executable, "-m", "serving.host"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "AIAAS_HOME": str(home), HOME_MARK: str(home), "RAY_ADDRESS": "", **environ},
        )
        assert self.process.stdout
        self.progress: list[dict[str, Any]] = []
        for line in self.process.stdout:
            told = json.loads(line)
            if told["state"] == "starting":
                continue
            self.progress.append(told)
            if self.progress[-1]["state"] == "failed" or len(self.progress) == len(PARTS):
                break

    @property
    def address(self) -> str:
        return next(line["address"] for line in self.progress if line["part"] == "ray")

    @property
    def settings(self) -> Settings:
        return Settings(aiaas_home=self.home)


def decoders(host: Host) -> list[psutil.Process]:
    below = psutil.Process(host.process.pid).children(recursive=True)
    return [process for process in below if "serving.media.isolated" in process.cmdline()]


def media_windows() -> Any:
    from ray import serve

    return serve.get_app_handle("media").windows.options(stream=True)


def computed_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def wait_until_gone(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    return psutil.wait_procs(processes, timeout=timeout_s)[1]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    started = Host(
        tmp_path_factory.mktemp("serving") / ".aiaas",
        INTENT_SCALE="min_replicas=2",
        ASR_SCALE="min_replicas=2",
    )
    try:
        yield started
        below = psutil.Process(started.process.pid).children(recursive=True)
        started.process.terminate()
        assert started.process.wait(30) == 0
        assert wait_until_gone(below, 5) == []
        assert left_behind(started.home) == []
    finally:
        started.process.kill()
        end_left_behind(started.home)


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    """The remote endpoint that all tests here have, and few may send to."""
    listening = Elsewhere()
    yield listening
    listening.close()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(host: Host, elsewhere: Elsewhere) -> AsyncIterator[ServingClient]:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    telemetry = Telemetry.from_environ("test", {})
    async with open_remote(load_settings(elsewhere.environ() | {"REMOTE_MAX_CALLS": "600"})) as remote:
        connected = await ServingClient.connect(host.address, host.settings, telemetry, remote)
        assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
        yield connected
        connected.close()


async def spoken(client: ServingClient, text: str, response_format: SpeechFormat = "wav") -> bytes:
    request = SpeechRequest(text, "alloy", 1.0, response_format)
    answered = await client.speak(request, timeout_s=30)
    return b"".join([piece.sound async for piece in answered.value])


async def test_the_host_says_which_engine_answers_for_each_part(host: Host) -> None:
    assert {line["part"] for line in host.progress} == PARTS
    assert {line["state"] for line in host.progress} == {"ready"}
    engines = {line["part"]: line.get("engine") for line in host.progress}
    assert (engines["asr"], engines["intent"], engines["tts"]) == (
        "pocketsphinx",
        "minilm-linear",
        "espeak-ng",
    )


async def test_every_process_carries_the_mark_and_listens_on_loopback_alone(
    host: Host, client: ServingClient
) -> None:
    below = psutil.Process(host.process.pid).children(recursive=True)
    names = " ".join(" ".join(process.cmdline()) for process in below)
    for expected in (
        "gcs_server",
        "raylet",
        "ray::RuntimeEnvAgent",
        "ray::ServeReplica:asr",
        "serving.engines.isolated",
    ):
        assert expected in names
    assert "dashboard/dashboard.py" not in names
    assert [process for process in below if process.environ().get(HOME_MARK) != str(host.home)] == []
    listening = {
        connection.laddr.ip
        for process in below
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert (host.home / "ray" / "auth_token").stat().st_mode & 0o777 == 0o600


async def test_the_catalog_says_what_can_be_asked_for(client: ServingClient) -> None:
    catalog = client.catalog
    assert catalog.recognises("en-GB")
    assert not catalog.recognises("fr")
    assert catalog.has_voice("alloy")
    assert not catalog.has_voice("nobody")
    assert catalog.engine("tts").voices
    known = catalog.intent_set("retail-zh-TW")
    assert known is not None
    assert known.language == "zh-TW"
    assert await client.check() == {"asr": True, "intent": True, "tts": True}


@pytest.mark.parametrize("response_format", [known for known in get_args(SpeechFormat) if known != "pcm"])
async def test_a_spoken_sentence_is_transcribed(client: ServingClient, response_format: SpeechFormat) -> None:
    file = await spoken(client, SENTENCE, response_format)
    transcript = await client.transcribe(file, RecognitionRequest(language="en"), timeout_s=60)
    assert transcript.text == "where is my money"
    assert transcript.audio_ms == sum(window.duration_ms for window in windows(file))
    assert [word.text for segment in transcript.segments for word in segment.words] == transcript.text.split()


async def test_a_long_file_goes_in_windows_and_its_times_go_on(client: ServingClient) -> None:
    file = await spoken(client, "We are going to the market tomorrow. " * 24)
    transcript = await client.transcribe(file, RecognitionRequest(), timeout_s=120)
    assert transcript.audio_ms > 40_000
    assert transcript.text.count("market") >= 20
    starts = [word.start_ms for segment in transcript.segments for word in segment.words]
    assert starts == sorted(starts)
    assert starts[-1] > 35_000


async def test_a_file_is_measured_while_it_is_heard_window_by_window(client: ServingClient) -> None:
    file = await spoken(client, "We are going to the market tomorrow. " * 24)
    listening = await client.listen(file, RecognitionRequest(), timeout_s=60)
    assert listening.audio_ms == sum(window.duration_ms for window in windows(file))
    heard = [window async for window in listening.windows]
    assert [window.end_ms for window in heard] == [w.start_ms + w.duration_ms for w in windows(file)]
    assert heard[-1].segments[-1].end_ms > 35_000
    with pytest.raises(UndecodableAudioError):
        await client.listen(b"no sound at all " * 100, RecognitionRequest(), timeout_s=30)
    with pytest.raises(DeadlineExceededError):
        await client.listen(file, RecognitionRequest(), timeout_s=0.5)


async def test_speech_begins_before_it_is_done_and_can_be_left(client: ServingClient) -> None:
    answered = await client.speak(SpeechRequest("Hello there. " * 250, "alloy"), timeout_s=30)
    assert await anext(answered.value)
    await answered.value.aclose()
    assert await spoken(client, "Still here.")


async def test_a_slow_reader_holds_the_decoder_back(host: Host, client: ServingClient) -> None:
    """Ray Serve's transport does it: a long file is never decoded ahead into memory."""
    before_s = {decoder.pid: computed_s(decoder) for decoder in decoders(host)}
    stream = media_windows().remote(endless_silence(2.5), "mix", {})
    assert (await anext(stream)).start_ms == 0
    decoder = max(decoders(host), key=lambda one: computed_s(one) - before_s.get(one.pid, 0.0))
    replica = decoder.parent()
    assert replica
    replica_bytes, held_s = replica.memory_info().rss, -1.0
    async with asyncio.timeout(20):
        while (now_s := computed_s(decoder)) > held_s:
            held_s = now_s
            await asyncio.sleep(0.3)
    ends_ms = [window.start_ms + window.duration_ms async for window in stream]
    assert ends_ms[-1] > 2.5 * 3600 * 1000
    assert computed_s(decoder) - held_s > 0.3  # most of the file was still to be decoded
    assert replica.memory_info().rss - replica_bytes < 64 * 1024 * 1024


async def test_a_file_that_crashes_or_hangs_the_decoder_costs_one_process(
    host: Host, client: ServingClient
) -> None:
    short = await spoken(client, SENTENCE)

    async def transcribed(file: bytes) -> str:
        return (await client.transcribe(file, RecognitionRequest(language="en"), timeout_s=60)).text

    async def harmed(harm: signal.Signals) -> None:
        async with deadline(3):
            decoded = media_windows().remote(endless_silence(1), "mix", {})
            try:
                await anext(decoded)
                for decoder in decoders(host):
                    decoder.send_signal(harm)
                async for _ in decoded:
                    pass
            finally:
                decoded.cancel()

    with pytest.raises(UndecodableAudioError):
        await harmed(signal.SIGSEGV)
    assert await transcribed(short) == "where is my money"
    with pytest.raises(DeadlineExceededError):
        await harmed(signal.SIGSTOP)
    assert await transcribed(short) == "where is my money"
    assert len(decoders(host)) <= 8


async def test_sentences_of_both_languages_are_classified_in_one_call(client: ServingClient) -> None:
    texts = ["Where is my order?", "I want my money back."]
    answers = (await client.classify("retail-en", texts, top_k=2, threshold=None, timeout_s=15)).value
    assert [answer.intent for answer in answers] == ["order_status", "refund_status"]
    assert all(len(answer.ranking) == 2 for answer in answers)
    cancel = await client.classify("retail-zh-TW", ["我要取消訂單"], top_k=1, threshold=0.0, timeout_s=15)
    (answer,) = cancel.value
    assert (answer.intent, answer.out_of_scope) == ("cancel_order", False)


async def test_bad_input_is_named_for_what_it_is(client: ServingClient) -> None:
    async def transcribed(upload: bytes, language: str | None = None) -> Any:
        return await client.transcribe(upload, RecognitionRequest(language=language), timeout_s=30)

    async def said(text: str, voice: str) -> Any:
        return await client.speak(SpeechRequest(text, voice), timeout_s=30)

    cases: list[tuple[Any, type[DomainError]]] = [
        (transcribed(b""), EmptyAudioError),
        (transcribed(b"no sound at all " * 100), UndecodableAudioError),
        (transcribed(bytes(25 * 1024 * 1024)), UndecodableAudioError),
        (transcribed(b"", "fr"), UnsupportedLanguageError),
        (said("Hello.", "nobody"), UnknownVoiceError),
        (said("  \n ", "alloy"), NothingToSpeakError),
        (client.classify("none", ["a"], top_k=1, threshold=None, timeout_s=5), UnknownIntentSetError),
    ]
    for call, expected in cases:
        with pytest.raises(expected) as caught:
            await call
        assert type(caught.value) is expected


async def test_a_deadline_ends_the_wait(client: ServingClient) -> None:
    file = await spoken(client, "We are going to the market tomorrow. " * 20)
    begun = time.monotonic()
    with pytest.raises(DeadlineExceededError):
        await client.transcribe(file, RecognitionRequest(language="en"), timeout_s=0.5)
    assert time.monotonic() - begun < 2


async def test_a_cancelled_call_makes_room_at_once(client: ServingClient) -> None:
    file = await spoken(client, "We are going to the market tomorrow. " * 40)
    short = await spoken(client, SENTENCE)
    calls = [
        asyncio.create_task(client.transcribe(file, RecognitionRequest(language="en"), timeout_s=120))
        for _ in range(4)
    ]
    await asyncio.sleep(1)
    for call in calls:
        call.cancel()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    begun = time.monotonic()
    assert (
        await client.transcribe(short, RecognitionRequest(language="en"), timeout_s=60)
    ).text == "where is my money"
    assert time.monotonic() - begun < 8


async def flooded(client: ServingClient, calls: int, placement: Placement) -> Counter[str]:
    """Who answered calls that came together; `refused` where nobody did."""

    async def asked() -> str:
        begun = time.monotonic()
        try:
            answered = await client.classify(
                "retail-zh-TW", ["我要退貨"], top_k=1, threshold=None, placement=placement, timeout_s=60
            )
        except OverloadedError as error:
            assert error.retry_after_s >= 1
            assert time.monotonic() - begun < 5
            return "refused"
        return answered.engine

    return Counter(await asyncio.gather(*(asked() for _ in range(calls))))


async def test_a_full_queue_refuses_at_once_and_what_is_local_only_does_not_leave(
    client: ServingClient, elsewhere: Elsewhere
) -> None:
    """Nothing of any test up to here left: none of them said that it may."""
    outcomes = await flooded(client, 600, "local_only")
    assert outcomes["refused"] > 50
    assert outcomes["minilm-linear"] >= 256
    assert outcomes.total() == outcomes["refused"] + outcomes["minilm-linear"]
    assert elsewhere.sent == []
    assert await client.check() == {"asr": True, "intent": True, "tts": True}


async def test_what_prefers_to_stay_leaves_when_the_queue_is_full_and_not_before(
    client: ServingClient, elsewhere: Elsewhere
) -> None:
    elsewhere.reset()
    few = await client.classify(
        "retail-en", ["Where is it?"], top_k=1, threshold=None, placement="prefer_local", timeout_s=15
    )
    assert (few.engine, elsewhere.sent) == ("minilm-linear", [])
    outcomes = await flooded(client, 400, "prefer_local")
    assert outcomes["minilm-linear"] >= 256
    assert outcomes[f"remote:{elsewhere.host}"] == len(elsewhere.sent) == 400 - outcomes["minilm-linear"] > 50


async def test_a_long_file_is_decoded_here_and_recognised_there_in_order(
    client: ServingClient, elsewhere: Elsewhere
) -> None:
    file = await spoken(client, "We are going to the market tomorrow. " * 24)
    elsewhere.reset()
    transcript = await client.transcribe(
        file, RecognitionRequest(language="fr"), placement="remote", timeout_s=60
    )
    decoded = list(windows(file))
    assert sorted(sent.pcm for sent in elsewhere.sent) == sorted(window.pcm for window in decoded)
    assert transcript.audio_ms == sum(window.duration_ms for window in decoded)
    assert [segment.start_ms for segment in transcript.segments] == [window.start_ms for window in decoded]
    assert transcript.text == " ".join(["Some words."] * len(decoded))
    assert (transcript.engine, transcript.model) == (f"remote:{elsewhere.host}", "whisper-1")


async def test_of_a_file_that_is_too_long_its_first_window_is_recognised_at_most(
    client: ServingClient, elsewhere: Elsewhere
) -> None:
    elsewhere.reset()
    with pytest.raises(AudioTooLongError):
        await client.transcribe(
            endless_silence(4.1), RecognitionRequest(language="en"), placement="remote", timeout_s=60
        )
    assert len(elsewhere.sent) <= 1


async def test_speech_from_there_is_passed_on_as_it_is(client: ServingClient, elsewhere: Elsewhere) -> None:
    request = SpeechRequest("Hello.", "a voice of theirs", 1.0, "opus")
    answered = await client.speak(request, placement="remote", timeout_s=30)
    assert b"".join([piece.sound async for piece in answered.value]) == elsewhere_speech("Hello.")
    assert (answered.engine, answered.model) == (f"remote:{elsewhere.host}", "tts-1")


def replicas(host: Host, deployment: str) -> list[psutil.Process]:
    found: list[psutil.Process] = []
    for process in psutil.Process(host.process.pid).children(recursive=True):
        with suppress(psutil.Error):  # it may end meanwhile
            if any(f"ray::ServeReplica:{deployment}" in part for part in process.cmdline()):
                found.append(process)
    return found


async def test_every_call_is_answered_though_a_replica_is_killed_under_them(
    host: Host, client: ServingClient
) -> None:
    file = await spoken(client, SENTENCE)
    texts = ["Where is my order?"] * 24
    killed = [replicas(host, "intent"), replicas(host, "asr")]
    assert [len(processes) for processes in killed] == [2, 2]
    calls = [client.classify("retail-en", texts, top_k=1, threshold=None, timeout_s=15) for _ in range(8)] + [
        client.transcribe(file, RecognitionRequest(language="en"), timeout_s=30) for _ in range(4)
    ]
    answering = asyncio.gather(*calls)
    await asyncio.sleep(0.3)
    for processes in killed:
        processes[0].kill()
    assert not answering.done()
    answers = await answering
    assert all(answer.intent == "order_status" for answered in answers[:8] for answer in answered.value)
    assert {transcript.text for transcript in answers[8:]} == {"where is my money"}


async def test_a_stream_goes_on_where_its_only_replica_died_or_says_when_to_try_again(
    host: Host, client: ServingClient
) -> None:
    file = await spoken(client, "We are going to the market tomorrow. " * 120)
    calls = [Calls(), Calls()]
    patient, hasty = (call.stream(media_windows(), file, "mix", {}, resumes=True) for call in calls)
    first = [await anext(patient), await anext(hasty)]
    speech = (await client.speak(SpeechRequest("Hello there. " * 250, "alloy"), timeout_s=30)).value
    await anext(speech)
    for process in (*replicas(host, "media"), *replicas(host, "tts")):
        process.kill()
    with pytest.raises(EngineUnavailableError) as caught:
        async with calls[1].within(0.5):
            assert [window async for window in hasty] == []
    assert caught.value.retry_after_s >= 1
    with pytest.raises(EngineUnavailableError):  # what was heard of it can't be taken back
        assert [piece async for piece in speech] == []
    assert first + [window async for window in patient] == [first[0], *windows(file)]
    assert await spoken(client, SENTENCE)


async def test_a_replica_that_is_taken_away_finishes_what_it_has_in_hand(
    host: Host, client: ServingClient
) -> None:
    from ray import serve

    (replica,) = replicas(host, "tts")
    text = "We are going to the market tomorrow. " * 300
    pieces = (await client.speak(SpeechRequest(text, "alloy", 1.0, "wav"), timeout_s=30)).value
    sound = (await anext(pieces)).sound
    serve.delete("tts", _blocking=False)
    sound += b"".join([piece.sound async for piece in pieces])
    assert sum(window.duration_ms for window in windows(sound)) > 300 * 1500
    assert wait_until_gone([replica], 5) == []


async def test_a_killed_host_takes_ray_with_it_and_the_rest_is_found_by_its_mark(tmp_path: Path) -> None:
    killed = Host(tmp_path / "home")
    try:
        below = psutil.Process(killed.process.pid).children(recursive=True)
        assert {process.pid for process in left_behind(killed.home)} >= {process.pid for process in below}
        killed.process.kill()
        killed.process.wait(10)
        end_left_behind(killed.home)
        assert wait_until_gone(below, 5) == []
        assert left_behind(killed.home) == []
    finally:
        end_left_behind(killed.home)
        clear_short_folder(killed.settings)


async def test_a_host_that_cannot_start_says_why_in_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file where the folder should be")
    failed = Host(tmp_path / "home")
    assert failed.process.wait(60) == 1
    (line,) = failed.progress
    assert (line["part"], line["state"]) == ("ray", "failed")
    assert "AIAAS_HOME" in line["error"]
    assert "\n" not in line["error"]
    assert left_behind(failed.home) == []
