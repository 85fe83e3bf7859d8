"""The client: sends calls, knows beforehand what each must cost, and writes down what came back."""

import hashlib
import io
import time
import wave
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import httpx
import msgspec

from tests.faults.journal import Ended, Journal

ATTEMPT_TIMEOUT_S = 60.0  # longer than the gateway's own deadlines: who waits is answered
_NEW_CONNECTION = 0.25  # of the calls, so that each client meets each worker
_TEXTS = ("我的包裹到哪裡了", "我要退貨", "請幫我取消訂單", "你們幾點打烊", "發票還沒收到")
_CONSONANTS, _VOWELS = "bdfgklmnprstvz", "aeiou"
_WAV_RATE_HZ = 16_000
_ID_DIGITS = 32


class Customer(msgspec.Struct, frozen=True):
    """A tenant with one of its keys."""

    tenant_id: str
    key_id: str
    key: str


class Call(msgspec.Struct, frozen=True):
    """What is asked, and what it must cost: `units` of `meter`.

    No two calls are equal: an equal one that the official client tries again may be taken for the first.
    """

    path: str
    meter: str
    units: int
    body: dict[str, Any] | None = None
    upload: bytes | None = None


def intent_call(rng: Random, units: int) -> Call:
    """A unit is a text. The set is one whose engine answers at once."""
    texts = [f"{text} {rng.getrandbits(32)}" for text in rng.choices(_TEXTS, k=units)]
    body = {"model": "retail-zh-TW", "texts": texts, "top_k": 1}
    return Call("/v1/intents", "intent.calls", units, body)


def speech_call(rng: Random) -> Call:
    """A unit is a character."""
    text = "".join(rng.choice(_CONSONANTS) + rng.choice(_VOWELS) for _ in range(rng.randint(6, 12)))
    body = {"model": "tts-1", "voice": "alloy", "input": text, "response_format": "pcm"}
    return Call("/v1/audio/speech", "tts.characters", len(text), body)


def transcription_call(rng: Random) -> Call:
    """A unit is a millisecond. The recording is faint noise."""
    duration_ms = rng.randint(100, 400)
    return Call("/v1/audio/transcriptions", "asr.audio_ms", duration_ms, upload=_noise(rng, duration_ms))


def mixed_call(rng: Random) -> Call:
    """Mostly intents, some speech, a few transcriptions."""
    kind = rng.random()
    if kind < 0.02:
        return transcription_call(rng)
    return speech_call(rng) if kind < 0.12 else intent_call(rng, rng.randint(1, 3))


def _noise(rng: Random, duration_ms: int) -> bytes:
    samples = duration_ms * _WAV_RATE_HZ // 1000
    file = io.BytesIO()
    with wave.open(file, "wb") as noise:
        noise.setnchannels(1)
        noise.setsampwidth(2)
        noise.setframerate(_WAV_RATE_HZ)
        noise.writeframes(b"".join(bytes((byte, 0)) for byte in rng.randbytes(samples)))
    return file.getvalue()


class Client:
    """One of many clients of a round. Use it on the event loop it was made on.

    Args:
        url: where the gateway is; asked before each attempt, as it moves when everything is started again.
    """

    def __init__(self, name: str, url: Callable[[], str], journal: Journal, rng: Random) -> None:
        self.name = name
        self.url = url
        self.journal = journal
        self.rng = rng
        self._requests = 0
        # Certificates, of which there are none here, would take a moment for each client.
        self.http = httpx.AsyncClient(timeout=ATTEMPT_TIMEOUT_S, trust_env=False, verify=False)

    async def close(self) -> None:
        await self.http.aclose()

    def new_request(self) -> str:
        """A name for something that a customer wants once."""
        self._requests += 1
        return f"{self.name}-{self._requests}"

    async def send(
        self,
        customer: Customer,
        call: Call,
        *,
        request: str | None = None,
        idempotency_key: str | None = None,
        url: str | None = None,
    ) -> Ended:
        """One attempt, journaled. `url`: sent there instead, such as through a proxy."""
        headers = {"authorization": f"Bearer {customer.key}"}
        if idempotency_key:
            headers["idempotency-key"] = idempotency_key
        if self.rng.random() < _NEW_CONNECTION:
            headers["connection"] = "close"
        attempt = self.begin(customer, call, request or self.new_request(), bool(idempotency_key))
        ended = await self._attempt(attempt, (url or self.url()) + call.path, call, headers)
        self.journal.ended(ended)
        return ended

    def begin(self, customer: Customer, call: Call, request: str, is_retried: bool) -> int:
        """Write the beginning of an attempt."""
        return self.journal.sent(
            request=request,
            tenant_id=customer.tenant_id,
            key_id=customer.key_id,
            meter=call.meter,
            units=call.units,
            is_retried=is_retried,
        )

    async def _attempt(self, attempt: int, url: str, call: Call, headers: Mapping[str, str]) -> Ended:
        files = None if call.upload is None else {"file": ("noise.wav", call.upload)}
        data = None if call.upload is None else {"model": "whisper-1"}
        head: httpx.Response | None = None
        try:
            async with self.http.stream(
                "POST", url, json=call.body, data=data, files=files, headers=headers
            ) as head:
                body = await head.aread()
        except httpx.HTTPError:
            return broken(attempt, head)
        return ended(attempt, head, body)


def broken(attempt: int, head: httpx.Response | None = None) -> Ended:
    """An attempt without a complete answer; `head` is what came of it."""
    return Ended(
        at_s=time.time(),
        attempt=attempt,
        outcome="broken",
        status=head.status_code if head else None,
        call_id=_call_id(head.headers) if head else None,
    )


def ended(attempt: int, head: httpx.Response, body: bytes) -> Ended:
    """An attempt with a complete answer."""
    headers = head.headers
    is_json = headers.get("content-type", "").startswith("application/json")
    is_success = head.status_code < 300
    units = headers.get("x-aiaas-units")
    return Ended(
        at_s=time.time(),
        attempt=attempt,
        outcome="answered" if is_success else "refused",
        status=head.status_code,
        call_id=_call_id(headers),
        meter=headers.get("x-aiaas-meter"),
        units=int(units) if units else None,
        code=None if is_success or not is_json else _error_code(body),
        retry_after=headers.get("retry-after"),
        digest=hashlib.sha256(body).hexdigest() if is_success and is_json else None,
        is_replay=headers.get("idempotent-replayed") == "true",
    )


def _call_id(headers: httpx.Headers) -> str | None:
    return headers["x-aiaas-call-id"][-_ID_DIGITS:] if "x-aiaas-call-id" in headers else None


def _error_code(body: bytes) -> str | None:
    try:
        return str(msgspec.json.decode(body)["error"]["code"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return None
