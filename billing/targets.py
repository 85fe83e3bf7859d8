"""Where webhook messages may go: checked at the moment of connecting, so that no name can be changed after.

A tenant chooses the URL, and the billing worker stands inside the vendor's network: without this, a webhook
to `http://10.0.0.5/` or to a name that points there would reach what only the inside may reach. The name is
resolved here, every address it has is checked, and the connection goes to a checked address, never to the
name again. Redirects are not followed, proxies of the environment not used, bodies of answers not read.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Final, cast

import httpcore
import httpx
import msgspec

from infra.errors import InvalidValueError
from infra.settings import Seconds

Resolve = Callable[[str, int], Awaitable[list[str]]]

_MAX_URL_CHARACTERS: Final = 2048
_MAX_PORT: Final = 65_535
_MAX_ADDRESSES: Final = 4
_CONNECT_TIMEOUT_S: Final = 5.0  # for each address
_MAX_RETRY_AFTER_S: Final = 86_400

# Not for the public to reach: the IANA special-purpose address registries (RFC 6890), multicast and reserved
# space, and 168.63.129.16, a public address under which a cloud's own machinery answers.
_REFUSED_IPV4: Final = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "168.63.129.16/32",
            "169.254.0.0/16",  # clouds' metadata among them
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.0.2.0/24",
            "192.88.99.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "198.51.100.0/24",
            "203.0.113.0/24",
            "224.0.0.0/3",
        ),
    )
)
# Of IPv6 only global unicast space is open, and of that not: protocol assignments with Teredo, examples, and
# 6to4, which hides an IPv4 address and is gone (RFC 7526).
_GLOBAL_IPV6: Final = IPv6Network("2000::/3")
_REFUSED_IPV6: Final = tuple(map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")))
# An IPv4 address in its last 32 bits, which is the one to judge: IPv4-mapped, and NAT64 (RFC 6052).
_EMBEDDING_IPV6: Final = tuple(map(IPv6Network, ("::ffff:0:0/96", "64:ff9b::/96")))


class Answer(msgspec.Struct, frozen=True):
    """What a receiver answered: the status, and after how many seconds it asks to be tried again."""

    status: int
    retry_after_s: int | None


class NotSentError(Exception):
    """There was no answer. `reason` is a short code that the tenant may see."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _RefusedAddressError(Exception):
    pass


class _UnresolvableError(Exception):
    pass


def check_url(text: str, *, private_allowed: bool) -> str:
    """A webhook's URL as it is kept. Names are not resolved: what they point to counts when it is sent.

    Raises:
        InvalidValueError: not https (or http where private addresses are allowed), a user or password in it,
            or a literal address that is not public.
    """
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise InvalidValueError("This is not a URL.", "url") from None
    schemes = ("https", "http") if private_allowed else ("https",)
    possible_port = url.port is None or 0 < url.port <= _MAX_PORT
    if len(text) > _MAX_URL_CHARACTERS or url.scheme not in schemes or not url.host or not possible_port:
        raise InvalidValueError(f"A webhook's URL begins with {' or '.join(schemes)}:// and a host.", "url")
    if url.userinfo:
        raise InvalidValueError("A webhook's URL holds no user or password: messages are signed.", "url")
    if not private_allowed and _is_address(url.host) and not is_public(url.host):
        raise InvalidValueError("A webhook's address must be a public one.", "url")
    return str(url.copy_with(fragment=None))


def is_public(address: str) -> bool:
    """Whether a literal IPv4 or IPv6 address is one that anybody on the internet could reach.

    Raises:
        ValueError: this is no address.
    """
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and any(parsed in network for network in _EMBEDDING_IPV6):
        parsed = IPv4Address(int(parsed) & 0xFFFF_FFFF)
    if isinstance(parsed, IPv4Address):
        return not any(parsed in network for network in _REFUSED_IPV4)
    if parsed.scope_id is not None or parsed not in _GLOBAL_IPV6:
        return False
    return not any(parsed in network for network in _REFUSED_IPV6)


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name, and of every other notation that the system knows for one (`0x7f.1`).

    Raises:
        OSError, UnicodeError: there are none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, proto=6)  # TCP
    return list(dict.fromkeys(cast(str, entry[4][0]) for entry in found))


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """TCP to public addresses only."""

    def __init__(self, resolve: Resolve, private_allowed: bool) -> None:
        self._resolve = resolve
        self._private_allowed = private_allowed
        self._network = cast(httpcore.AsyncNetworkBackend, httpcore.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: Seconds | None = None,  # noqa: ASYNC109 (the signature is httpcore's)
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):
            raise _UnresolvableError from None
        if not self._private_allowed and not all(map(is_public, addresses)):
            raise _RefusedAddressError
        for address in addresses[:_MAX_ADDRESSES]:
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                continue
        raise httpcore.ConnectError("none of its addresses answers")


class WebhookClient:
    """Posts to webhooks. One event loop.

    Args:
        private_allowed: for receivers in one's own network, and for tests.
        timeout_s: for all of one post: resolving, connecting, sending, and the answer's head.
        resolve: the addresses of a name.
        ssl_context: whom to trust; the well-known authorities unless told otherwise.
    """

    def __init__(
        self,
        *,
        private_allowed: bool,
        timeout_s: float,
        resolve: Resolve = resolve,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._network = _CheckedNetwork(resolve, private_allowed)
        self._timeout_s = timeout_s
        self._ssl_context = ssl_context or httpx.create_ssl_context()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Post once; whatever status comes back is an answer.

        Raises:
            NotSentError: there was no answer: `address_refused`, `unresolvable`, `timeout`, `connect_failed`
                (TLS included) or `connection_broken`.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._post(httpx.URL(url), headers, body)
        except _RefusedAddressError:
            raise NotSentError("address_refused") from None
        except (_UnresolvableError, httpx.InvalidURL):
            raise NotSentError("unresolvable") from None
        except (TimeoutError, httpcore.TimeoutException):
            raise NotSentError("timeout") from None
        except (httpcore.ConnectError, ssl.SSLError):
            raise NotSentError("connect_failed") from None
        except (httpcore.NetworkError, httpcore.ProtocolError, OSError):
            raise NotSentError("connection_broken") from None

    async def _post(self, url: httpx.URL, headers: Mapping[str, str], body: bytes) -> Answer:
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        # A pool for each post: a connection is used for the one post that it was checked for.
        async with (
            httpcore.AsyncConnectionPool(
                ssl_context=self._ssl_context, network_backend=self._network
            ) as connections,
            connections.stream(
                "POST",
                target,
                headers=list(headers.items()),
                content=body,
                extensions={"timeout": {"connect": _CONNECT_TIMEOUT_S}},
            ) as response,
        ):
            return Answer(response.status, _retry_after_s(response.headers))


def _retry_after_s(headers: list[tuple[bytes, bytes]]) -> int | None:
    """`Retry-After` in seconds, a day at most; its form as a date is passed over."""
    for name, value in headers:
        if name.lower() == b"retry-after" and value.isdigit():
            return min(int(value[:9]), _MAX_RETRY_AFTER_S)
    return None
