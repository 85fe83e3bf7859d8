"""One endpoint over HTTP, within bounds.

httpx and not the official client: an endpoint of ours has routes that the client does not know, and what
comes back is read here only as far as its bounds. Proxies of the environment are not used; cookies are not
kept, so that one tenant's call says nothing of another's.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from infra.logs import event
from infra.settings import Secret
from serving.errors import EngineUnavailableError, OverloadedError
from serving.remote.refusals import refusal, unusable

_CONNECT_TIMEOUT_S = 5.0
_CONNECT_RETRIES = 1  # of connections alone: what was sent once may have been charged there
_MAX_REFUSAL_BYTES = 64 * 1024


class Endpoint:
    """A base URL such as `https://api.openai.com/v1`, and a key.

    The caller bounds how long a call may take. Use it on the event loop it was made on.

    Args:
        max_calls: calls in hand, and connections; one more is refused at once.
    """

    def __init__(self, base_url: str, api_key: Secret | None, max_calls: int) -> None:
        headers = {"accept-encoding": "identity", "user-agent": "aiaas-gateway"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key.reveal()}"
        limits = httpx.Limits(max_connections=max_calls, max_keepalive_connections=max_calls)
        self._client = httpx.AsyncClient(
            base_url=base_url,
            headers=headers,
            timeout=httpx.Timeout(None, connect=_CONNECT_TIMEOUT_S),
            transport=httpx.AsyncHTTPTransport(limits=limits, retries=_CONNECT_RETRIES),
            follow_redirects=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )
        self._max_calls = max_calls
        self._in_hand = 0
        self.host = self._client.base_url.netloc.decode("ascii")

    async def post(self, path: str, most_bytes: int, **content: Any) -> bytes:
        """The body of a 200.

        Args:
            content: `json`, or `data` and `files`, as httpx takes them.

        Raises:
            OverloadedError: there are too many calls in hand, or too many for the other side.
            EngineUnavailableError: it cannot be reached, does not take our key, or what it says is of no use.
            DomainError: it did not accept the request: see `serving.remote.refusals`.
        """
        async with self._answer(path, content) as response:
            return b"".join([piece async for piece in _bounded(response, most_bytes)])

    async def stream(
        self, path: str, most_bytes: int, media_type: str, **content: Any
    ) -> AsyncGenerator[bytes, None]:
        """The body of a 200 as it comes; closing it ends the call there, too.

        Args:
            media_type: what its type begins with.

        Raises: as `post`; a body that breaks off is an EngineUnavailableError.
        """
        async with self._answer(path, content) as response:
            if not response.headers.get("content-type", "").startswith(media_type):
                raise unusable("content type")
            async for piece in _bounded(response, most_bytes):
                yield piece

    async def close(self) -> None:
        """Hang up. No call may follow."""
        await self._client.aclose()

    @asynccontextmanager
    async def _answer(self, path: str, content: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        with self._place(), _domain_errors():
            async with self._client.stream("POST", path, **content) as response:
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise unusable("content encoding")
                if response.status_code != 200:
                    raise refusal(path, response.status_code, response.headers, await _beginning(response))
                yield response

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._in_hand >= self._max_calls:
            raise OverloadedError
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1


async def _bounded(response: httpx.Response, most_bytes: int) -> AsyncIterator[bytes]:
    size = 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > most_bytes:
            raise unusable("size")
        yield piece


async def _beginning(response: httpx.Response) -> bytes:
    """A refusal's body, or nothing where that is too long to be one."""
    body = b""
    async for piece in response.aiter_raw():
        body += piece
        if len(body) > _MAX_REFUSAL_BYTES:
            return b""
    return body


@contextmanager
def _domain_errors() -> Iterator[None]:
    """Only an exception's type is logged: its message may hold an address or a header."""
    try:
        yield
    except httpx.HTTPError as error:
        event("serving", logging.ERROR, "remote_failed", {"reason": type(error).__name__})
        raise EngineUnavailableError from None
