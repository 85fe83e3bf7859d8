"""A refusal tells OpenAI's client, in the headers that it reads, when to come back."""

from collections.abc import AsyncIterator

import httpx
import openai
import pytest
from litestar import Litestar, Request, post

from gateway.app import add_headers
from gateway.errors import EXCEPTION_HANDLERS
from gateway.limits import Limits
from tests.callers import caller


@pytest.fixture
async def client() -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's client before a gateway that allows three requests a minute and two calls at a time."""
    limits = Limits(requests_per_minute=3, max_concurrent_calls=2, workers=1)

    @post("/audio/speech", status_code=200)
    async def speak(request: Request) -> dict[str, str]:  # type: ignore[type-arg]
        window = await limits.count_request(caller("tenant", "key"))
        request.scope["state"]["rate_window"] = window
        window.check()
        with limits.slot(caller()):
            if request.headers.get("x-test-hold"):
                with limits.slot(caller()), limits.slot(caller()):
                    pass
        return {}

    app = Litestar([speak], exception_handlers=EXCEPTION_HANDLERS, before_send=[add_headers])
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport) as http:
        yield openai.AsyncOpenAI(api_key="x", base_url="http://test", http_client=http, max_retries=0)


async def speak(client: openai.AsyncOpenAI, **headers: str) -> httpx.Headers:
    answer = await client.audio.speech.with_raw_response.create(
        model="tts-1", voice="alloy", input="x", extra_headers=headers
    )
    return answer.headers


async def test_every_answer_says_what_is_left_of_the_minute(client: openai.AsyncOpenAI) -> None:
    for remaining in (2, 1, 0):
        headers = await speak(client)
        assert headers["x-ratelimit-limit-requests"] == "3"
        assert headers["x-ratelimit-remaining-requests"] == str(remaining)
        assert 59 < float(headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60


async def test_a_refused_rate_says_when_to_come_back_in_terms_that_the_client_obeys(
    client: openai.AsyncOpenAI,
) -> None:
    for _ in range(3):
        await speak(client)
    with pytest.raises(openai.RateLimitError) as refused:
        await speak(client)
    headers = refused.value.response.headers
    assert refused.value.code == "rate_limit_exceeded"
    assert headers["x-ratelimit-limit-requests"] == "3"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert 59 < float(headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
    # The client ignores a wait of over a minute and guesses one of its own.
    assert 59_000 < int(headers["retry-after-ms"]) <= 60_000
    assert headers["retry-after"] == "60"


async def test_a_refused_place_says_when_to_come_back_and_what_is_left_of_the_minute(
    client: openai.AsyncOpenAI,
) -> None:
    with pytest.raises(openai.RateLimitError) as refused:
        await speak(client, **{"x-test-hold": "yes"})
    headers = refused.value.response.headers
    assert refused.value.code == "concurrency_limit_exceeded"
    assert (headers["retry-after"], headers["retry-after-ms"]) == ("1", "1000")
    assert headers["x-ratelimit-remaining-requests"] == "2"
