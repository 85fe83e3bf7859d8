"""Another OpenAI-compatible endpoint as an engine: what is sent, how it is read, what its refusals mean."""

import asyncio
import gzip
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import pytest

from infra.errors import DomainError, InvalidValueError
from infra.logs import _JsonFormatter
from infra.settings import load_settings
from serving.calls import begun, deadline
from serving.contract import RecognitionRequest, Segment, SpeechRequest, Window, Word
from serving.errors import (
    DeadlineExceededError,
    EngineUnavailableError,
    NothingToSpeakError,
    OverloadedError,
    UnknownIntentSetError,
    UnknownVoiceError,
    UnsupportedLanguageError,
    UnsupportedTaskError,
)
from serving.placement import PlacedRecogniser, Placement, placed, ran_on
from serving.remote.engines import RemoteEngines, open_remote
from tests.elsewhere import KEY, Call, Elsewhere, transcription

TEXT = "My card number is hunter2."
SPEECH = SpeechRequest(TEXT, "alloy", 1.0, "mp3")
PCM = bytes(range(256)) * 250  # 2 s
WINDOW = Window(PCM, 0, 2000)
ENGLISH = RecognitionRequest(language="en")


@pytest.fixture
def elsewhere() -> Iterator[Elsewhere]:
    listening = Elsewhere()
    yield listening
    listening.close()


@pytest.fixture
async def remote(elsewhere: Elsewhere) -> AsyncIterator[RemoteEngines]:
    settings = load_settings({**elsewhere.environ(), "REMOTE_MAX_CALLS": "3"})
    async with open_remote(settings) as opened:
        assert opened is not None
        yield opened


async def test_a_window_is_sent_as_sound_alone_and_read_back(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    asked = RecognitionRequest(language="en-GB", prompt="Acme", temperature=0.5)
    recognised = await remote.recognise(WINDOW, asked)
    (sent,) = elsewhere.sent
    assert (sent.path, sent.pcm) == ("/v1/audio/transcriptions", PCM)
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.fields == {
        "model": ["whisper-1"],
        "response_format": ["verbose_json"],
        "language": ["en"],
        "prompt": ["Acme"],
        "temperature": ["0.5"],
        "timestamp_granularities[]": ["segment", "word"],
        "file": "window.wav",
    }
    words = (Word("some", 0, 1000), Word("words", 1000, 2000))
    assert recognised.segments == (Segment("Some words.", 0, 2000, words),)
    assert recognised.language == "en-GB"


async def test_a_translation_is_asked_for_where_translations_are(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    await remote.recognise(WINDOW, RecognitionRequest(task="translate"))
    (sent,) = elsewhere.sent
    assert sent.path == "/v1/audio/translations"
    assert set(sent.fields) == {"model", "response_format", "file"}


@pytest.mark.parametrize(("named", "code"), [("german", "de"), ("de", "de"), ("und", None), (None, None)])
async def test_the_language_found_there_is_a_code_here(
    elsewhere: Elsewhere, remote: RemoteEngines, named: str | None, code: str | None
) -> None:
    elsewhere.answer = lambda call: call.answer({**transcription(2.0), "language": named})
    assert (await remote.recognise(WINDOW, RecognitionRequest())).language == code


async def test_no_time_lies_outside_the_window_and_no_word_is_lost(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    """Words are told apart from segments there, and either may lie a little off."""
    words = [{"word": f"w{at}", "start": at, "end": at + 0.5} for at in (0.0, 0.7, 1.1, 1.9, 7.0)]
    segments = [
        {"start": 0.2, "end": 1.0, "text": "w0.0 w0.7"},
        {"start": 1.0, "end": 9.5, "text": "the rest"},
    ]
    elsewhere.answer = lambda call: call.answer({"text": "all", "segments": segments, "words": words})
    first, second = (await remote.recognise(WINDOW, ENGLISH)).segments
    assert [word.text for word in first.words] == ["w0.0", "w0.7"]
    assert [word.text for word in second.words] == ["w1.1", "w1.9", "w7.0"]
    assert (second.end_ms, second.words[-1]) == (2000, Word("w7.0", 2000, 2000))


async def test_an_endpoint_without_segments_gives_one_and_silence_gives_none(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    elsewhere.answer = lambda call: call.answer({"text": " Hello. "})
    assert (await remote.recognise(WINDOW, ENGLISH)).segments == (Segment("Hello.", 0, 2000),)
    elsewhere.answer = lambda call: call.answer({"text": "", "language": "english"})
    silence = await remote.recognise(WINDOW, RecognitionRequest())
    assert (silence.segments, silence.language) == ((), None)


async def test_chinese_comes_in_the_script_that_was_asked_for(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    words = [{"word": "软", "start": 0.0, "end": 0.5}, {"word": "件", "start": 0.5, "end": 1.0}]
    segments = [{"start": 0.0, "end": 1.0, "text": "软件"}]
    elsewhere.answer = lambda call: call.answer({"text": "软件", "segments": segments, "words": words})
    (segment,) = (await remote.recognise(WINDOW, RecognitionRequest(language="zh-TW"))).segments
    assert (segment.text, [word.text for word in segment.words]) == ("軟件", ["軟", "件"])
    assert elsewhere.sent[0].fields["language"] == ["zh"]


async def test_speech_comes_as_it_is_made_and_its_characters_with_its_end(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    goes_on = threading.Event()

    def slowly(call: Call) -> None:
        call.begin()
        call.piece(b"first")
        goes_on.wait(5)
        call.piece(b"second")
        call.end()

    elsewhere.answer = slowly
    pieces = remote.speak(SpeechRequest(TEXT, "nova", 1.5, "opus"))
    first = await asyncio.wait_for(anext(pieces), 3)
    assert (first.sound, first.characters) == (b"first", 0)
    goes_on.set()
    rest = [piece async for piece in pieces]
    assert b"".join(piece.sound for piece in rest) == b"second"
    assert [piece.characters for piece in rest] == [0] * (len(rest) - 1) + [len(TEXT)]
    assert elsewhere.sent[0].fields == {
        "model": "tts-1",
        "input": TEXT,
        "voice": "nova",
        "response_format": "opus",
        "speed": 1.5,
    }


async def test_speech_that_breaks_off_has_said_no_characters(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    def broken(call: Call) -> None:
        call.begin()
        call.piece(b"some sound")
        call.break_off()

    elsewhere.answer = broken
    pieces = remote.speak(SPEECH)
    assert (await anext(pieces)).characters == 0
    with pytest.raises(EngineUnavailableError):
        await anext(pieces)


async def test_who_leaves_a_stream_is_not_spoken_to_any_longer(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    hung_up = threading.Event()

    def endless(call: Call) -> None:
        call.begin()
        try:
            while True:
                call.piece(bytes(65_536))
        except OSError:
            hung_up.set()

    elsewhere.answer = endless
    sound = remote.speak(SPEECH)
    pieces = await begun(sound, partial(deadline, 5))
    assert await anext(pieces)
    await pieces.aclose()
    assert await asyncio.to_thread(hung_up.wait, 5)
    assert await anext(sound, None) is None  # ended, and not only left to be found by the collector


async def test_the_wait_for_each_piece_is_bounded(elsewhere: Elsewhere, remote: RemoteEngines) -> None:
    ends = threading.Event()

    def stuck(call: Call) -> None:
        call.begin()
        call.piece(b"some sound")
        ends.wait(5)

    elsewhere.answer = stuck
    pieces = await begun(remote.speak(SPEECH), partial(deadline, 0.2))
    assert (await anext(pieces)).sound == b"some sound"
    with pytest.raises(DeadlineExceededError):
        await anext(pieces)
    ends.set()


async def test_intents_are_asked_for_by_the_name_of_their_set(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    answers = await remote.classify("retail-en", ["one", "two"], None, 0.4)
    assert [(answer.intent, answer.score, len(answer.ranking)) for answer in answers] == [
        ("elsewhere_intent", 0.75, 2)
    ] * 2
    assert elsewhere.sent[0].path == "/v1/intents"
    assert elsewhere.sent[0].fields == {
        "model": "retail-en",
        "texts": ["one", "two"],
        "top_k": 500,
        "threshold": 0.4,
    }


REFUSALS: list[tuple[int, str | None, str | None, type[DomainError]]] = [
    (429, "rate_limit_exceeded", None, OverloadedError),
    (429, "insufficient_quota", None, EngineUnavailableError),
    (401, "invalid_api_key", None, EngineUnavailableError),
    (402, "insufficient_quota", None, EngineUnavailableError),
    (403, None, None, EngineUnavailableError),
    (404, "model_not_found", "model", EngineUnavailableError),
    (500, None, None, EngineUnavailableError),
    (503, "engine_unavailable", None, EngineUnavailableError),
    (504, None, None, DeadlineExceededError),
    (400, "invalid_value", "voice", UnknownVoiceError),
    (400, "invalid_value", "language", UnsupportedLanguageError),
    (400, "unsupported_task", "model", UnsupportedTaskError),
    (400, "nothing_to_speak", "input", NothingToSpeakError),
    (400, "invalid_value", "speed", InvalidValueError),
    (400, "invalid_value", TEXT, InvalidValueError),
    (422, None, None, InvalidValueError),
]


@pytest.mark.parametrize(("status", "code", "param", "expected"), REFUSALS)
async def test_a_refusal_means_what_it_means_here_is_asked_once_and_not_quoted(
    elsewhere: Elsewhere,
    remote: RemoteEngines,
    caplog: pytest.LogCaptureFixture,
    status: int,
    code: str | None,
    param: str | None,
    expected: type[DomainError],
) -> None:
    caplog.set_level(logging.DEBUG)
    elsewhere.answer = lambda call: call.refuse(status, code, param, retry_after="7")
    with pytest.raises(expected) as refused:
        await begun(remote.speak(SPEECH), partial(deadline, 5))
    assert type(refused.value) is expected
    assert len(elsewhere.sent) == 1
    if isinstance(refused.value, OverloadedError | EngineUnavailableError):
        assert refused.value.retry_after_s == 7
    logged = "".join(map(_JsonFormatter().format, caplog.records))
    assert ("remote_refused" in logged) == (expected is EngineUnavailableError)
    for secret in (KEY, "secret text", "hunter2"):
        assert secret not in f"{refused.value} {refused.value!r} {refused.value.param} {logged}"


async def test_a_set_that_is_not_there_is_the_callers_fault(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    elsewhere.answer = lambda call: call.refuse(404, "model_not_found", "model")
    with pytest.raises(UnknownIntentSetError):
        await remote.classify("none", ["one"], None, None)


def redirected(call: Call) -> None:
    call.answer(b"", 307, {"location": "/v1/elsewhere"})


def packed(call: Call) -> None:
    call.answer(gzip.compress(b'{"text": ""}'), headers={"content-encoding": "gzip"})


UNUSABLE: list[Callable[[Call], None]] = [
    redirected,
    packed,
    lambda call: call.answer(b"<html>", kind="text/html"),
    lambda call: call.answer({"no": "text"}),
    lambda call: call.answer({"text": "a", "segments": [{"start": -1, "end": 2, "text": "a"}]}),
    lambda call: call.answer(b'{"text": "' + b"a" * (5 * 1024 * 1024) + b'"}'),
    lambda call: call.break_off(),
]


@pytest.mark.parametrize("answer", UNUSABLE)
async def test_an_answer_of_no_use_is_none_and_nothing_is_sent_twice(
    elsewhere: Elsewhere, remote: RemoteEngines, answer: Callable[[Call], None]
) -> None:
    elsewhere.answer = answer
    with pytest.raises(EngineUnavailableError):
        await remote.recognise(WINDOW, ENGLISH)
    assert len(elsewhere.sent) == 1


@pytest.mark.parametrize(
    "answer",
    [
        lambda call: call.answer(b"<html>please log in</html>", kind="text/html"),
        lambda call: call.answer(b"", kind="audio/mpeg"),
        lambda call: call.answer(gzip.compress(b"sound"), 200, {"content-encoding": "gzip"}, "audio/mpeg"),
    ],
)
async def test_what_is_no_sound_is_not_passed_on(
    elsewhere: Elsewhere, remote: RemoteEngines, answer: Callable[[Call], None]
) -> None:
    elsewhere.answer = answer
    with pytest.raises(EngineUnavailableError):
        await begun(remote.speak(SPEECH), partial(deadline, 5))


async def test_one_call_carries_nothing_of_another(elsewhere: Elsewhere, remote: RemoteEngines) -> None:
    elsewhere.answer = lambda call: call.answer({"text": "a"}, headers={"set-cookie": "who=tenant; path=/"})
    await remote.recognise(WINDOW, ENGLISH)
    await remote.recognise(WINDOW, ENGLISH)
    assert [sent.headers.get("cookie") for sent in elsewhere.sent] == [None, None]


async def test_an_endpoint_that_is_away_is_unavailable() -> None:
    gone = Elsewhere()
    gone.close()
    async with open_remote(load_settings(gone.environ())) as opened:
        assert opened is not None
        with pytest.raises(EngineUnavailableError):
            await opened.classify("retail-en", ["one"], None, None)


async def test_calls_in_hand_are_bounded_and_one_more_is_refused_at_once(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    goes_on = threading.Event()

    def waits(call: Call) -> None:
        goes_on.wait(5)
        call.answer({"text": "done"})

    elsewhere.answer = waits
    calls = [asyncio.create_task(remote.recognise(WINDOW, ENGLISH)) for _ in range(3)]
    async with asyncio.timeout(3):
        while len(elsewhere.sent) < 3:
            await asyncio.sleep(0.01)
    with pytest.raises(OverloadedError):
        await asyncio.wait_for(remote.recognise(WINDOW, ENGLISH), 1)
    goes_on.set()
    await asyncio.gather(*calls)
    elsewhere.answer = None
    assert await remote.recognise(WINDOW, ENGLISH)


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


class Way:
    """One way to answer, and how often it was taken."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.taken = 0

    async def __call__(self) -> str:
        self.taken += 1
        if self.error is not None:
            raise self.error
        return "answer"


@pytest.mark.parametrize("placement", ["local_only", "nonsense", ""])
@pytest.mark.parametrize("error", [None, OverloadedError(), EngineUnavailableError()])
async def test_what_is_local_only_or_unknown_never_leaves(
    placement: Placement, error: Exception | None
) -> None:
    local, remote = Way(error), Way()
    outcome = await asyncio.gather(placed(placement, local, remote, no), return_exceptions=True)
    assert outcome == [error or "answer"]
    assert (local.taken, remote.taken) == (1, 0)


@pytest.mark.parametrize(
    ("error", "leaves"),
    [
        (None, False),
        (OverloadedError(), True),
        (EngineUnavailableError(), True),
        (DeadlineExceededError(), False),
        (UnknownVoiceError(), False),
    ],
)
async def test_what_prefers_to_stay_leaves_when_there_is_no_room(
    error: Exception | None, leaves: bool
) -> None:
    local, remote = Way(error), Way()
    outcome = await asyncio.gather(placed("prefer_local", local, remote, yes), return_exceptions=True)
    assert (local.taken, remote.taken) == (1, int(leaves))
    assert outcome == ["answer" if leaves else error or "answer"]


async def test_an_engine_that_is_away_is_not_waited_for_where_there_is_another() -> None:
    local, remote = Way(), Way()
    await placed("prefer_local", local, remote, no)
    assert (local.taken, remote.taken) == (0, 1)
    await placed("prefer_local", local, None, no)
    assert local.taken == 1


async def test_when_neither_has_room_the_refusal_is_ours() -> None:
    ours = OverloadedError(retry_after_s=3)
    with pytest.raises(OverloadedError) as refused:
        await placed("prefer_local", Way(ours), Way(EngineUnavailableError()), yes)
    assert refused.value is ours


async def test_a_placement_without_an_endpoint_says_what_to_set() -> None:
    with pytest.raises(EngineUnavailableError, match="REMOTE_BASE_URL"):
        await placed("remote", Way(), None, yes)


async def test_a_file_is_recognised_in_one_place_that_of_its_first_window(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    """Windows of one file are asked for together; the later ones wait until it is known where."""
    is_busy = True

    async def here(window: Window, asked: RecognitionRequest) -> object:
        if is_busy and window.start_ms == 0:
            raise OverloadedError
        return window.start_ms

    async def heard() -> tuple[PlacedRecogniser, list[object]]:
        recognise = PlacedRecogniser("prefer_local", here, remote.recognise, yes)  # type: ignore[arg-type]
        windows = [Window(PCM, start_ms, 2000) for start_ms in (0, 2000, 4000)]
        return recognise, await asyncio.gather(*(recognise(window, ENGLISH) for window in windows))

    recognise, _ = await heard()
    assert (recognise.place, len(elsewhere.sent)) == ("remote", 3)
    is_busy = False
    recognise, answers = await heard()
    assert (recognise.place, answers, len(elsewhere.sent)) == ("local", [0, 2000, 4000], 3)


async def test_a_file_that_was_begun_there_waits_for_room_there(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    refusals = iter([False, True, False])

    def busy_once(call: Call) -> None:
        if next(refusals):
            call.refuse(429, retry_after="1")
        else:
            call.answer(transcription(2.0))

    elsewhere.answer = busy_once
    recognise = PlacedRecogniser("remote", remote.recognise, remote.recognise, yes)
    await recognise(WINDOW, ENGLISH)
    assert (await recognise(WINDOW, ENGLISH)).segments  # the first one of a call's other channel
    assert len(elsewhere.sent) == 3


async def test_a_file_is_refused_there_before_it_is_begun(
    elsewhere: Elsewhere, remote: RemoteEngines
) -> None:
    elsewhere.answer = lambda call: call.refuse(429, retry_after="1")
    recognise = PlacedRecogniser("remote", remote.recognise, remote.recognise, yes)
    with pytest.raises(OverloadedError):
        await asyncio.wait_for(recognise(WINDOW, ENGLISH), 3)
    assert len(elsewhere.sent) == 1


def test_where_a_call_ran_is_read_from_its_engine(elsewhere: Elsewhere) -> None:
    assert [ran_on(name) for name in ("remote:api.openai.com", "pocketsphinx", "")] == [
        "remote",
        "local",
        "local",
    ]
