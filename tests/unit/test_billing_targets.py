"""Webhooks reach public addresses only: whatever the notation, and whatever a name is made to point to."""

import ssl
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from billing.targets import NotSentError, WebhookClient, check_url, is_public
from infra.errors import InvalidValueError
from tests.receiver import Receiver

HEADERS = {"webhook-id": "msg_1"}
CERTIFICATE = Path(__file__).parent.parent / "data" / "tls" / "receiver.pem"  # for hooks.test
PUBLIC = ["8.8.8.8", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
NOT_PUBLIC = [
    *("0.0.0.0", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),
    *("168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1"),
    *("192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "64:ff9b:1::808:808", "100::1", "2001::1", "2001:db8::1"),
    *("2002:7f00:1::", "2002:808:808::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1"),
    *("fe80::1%lo", "2606:4700::1111%lo", "fec0::1", "ff02::1", "ff0e::1"),
]
ODD_NOTATIONS = [
    *("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001"),
    *("localhost", "LOCALHOST", "[::1]", "[0:0::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
    *("[64:ff9b::7f00:1]", "[2002:7f00:1::]", "0.0.0.0", "0", "[::]", "169.254.169.254", "0xa9fea9fe"),
]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_of_the_inside_are_not(address: str) -> None:
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_no_ipv4_address_is_public_that_the_registries_say_is_not(address: IPv4Address) -> None:
    expected = address.is_global and not (address.is_multicast or address.is_reserved)
    assert not is_public(str(address)) or expected
    assert is_public(f"::ffff:{address}") == is_public(f"64:ff9b::{address}") == is_public(str(address))


@given(st.ip_addresses(v=6))
def test_no_ipv6_address_is_public_outside_of_global_unicast_space(address: IPv6Address) -> None:
    embedding = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
    if is_public(str(address)) and not any(address in network for network in embedding):
        assert address in IPv6Network("2000::/3")
        assert address.is_global


@pytest.mark.parametrize("host", ODD_NOTATIONS)
async def test_no_notation_of_an_inside_address_gets_through(receiver: Receiver, host: str) -> None:
    client = WebhookClient(private_allowed=False, timeout_s=5)
    with pytest.raises(NotSentError, match=r"address_refused|unresolvable"):
        await client.post(f"http://{host}:{receiver.port}/", HEADERS, b"{}")
    assert receiver.received == []


async def test_one_inside_address_among_public_ones_refuses_the_name(receiver: Receiver) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["3ffe::1", "127.0.0.1"]

    client = WebhookClient(private_allowed=False, timeout_s=5, resolve=resolve)
    with pytest.raises(NotSentError, match="address_refused"):
        await client.post(f"http://hooks.test:{receiver.port}/", HEADERS, b"{}")
    assert receiver.received == []


async def test_a_name_that_is_bound_anew_after_the_check_does_not_get_through(receiver: Receiver) -> None:
    lookups: list[str] = []

    async def rebinding(host: str, port: int) -> list[str]:
        lookups.append(host)
        return ["3ffe::1"] if len(lookups) == 1 else ["127.0.0.1"]  # public, and routed nowhere

    client = WebhookClient(private_allowed=False, timeout_s=0.3, resolve=rebinding)
    with pytest.raises(NotSentError, match=r"connect_failed|timeout"):
        await client.post(f"http://localhost:{receiver.port}/", HEADERS, b"{}")
    assert lookups == ["localhost"]
    with pytest.raises(NotSentError, match="address_refused"):
        await client.post(f"http://localhost:{receiver.port}/", HEADERS, b"{}")
    assert receiver.received == []


async def to_loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


async def test_the_connection_goes_to_the_checked_address_and_tls_still_names_the_host() -> None:
    receiver = Receiver(certificate=CERTIFICATE)
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    client = WebhookClient(private_allowed=True, timeout_s=5, resolve=to_loopback, ssl_context=trusting)
    answer = await client.post(f"https://hooks.test:{receiver.port}/", HEADERS, b"{}")
    assert answer.status == 204
    assert receiver.received[0].headers["host"] == f"hooks.test:{receiver.port}"
    with pytest.raises(NotSentError, match="connect_failed"):
        await client.post(f"https://other.test:{receiver.port}/", HEADERS, b"{}")
    untrusting = WebhookClient(private_allowed=True, timeout_s=5, resolve=to_loopback)
    with pytest.raises(NotSentError, match="connect_failed"):
        await untrusting.post(f"https://hooks.test:{receiver.port}/", HEADERS, b"{}")
    assert len(receiver.received) == 1
    receiver.close()


async def test_answers_are_bounded_in_time_and_size_and_redirects_are_not_followed(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # a proxy would resolve names by itself
    client = WebhookClient(private_allowed=True, timeout_s=0.5)
    receiver.answer = lambda _: (302, {"location": receiver.url, "retry-after": "7"})
    answer = await client.post(receiver.url, HEADERS, b"{}")
    assert (answer.status, answer.retry_after_s, len(receiver.received)) == (302, 7, 1)
    receiver.answer = lambda _: (200, {f"x-{number}": "y" * 100 for number in range(5000)})
    with pytest.raises(NotSentError, match="connection_broken"):
        await client.post(receiver.url, HEADERS, b"{}")
    receiver.delay_s = 1
    with pytest.raises(NotSentError, match="timeout"):
        await client.post(receiver.url, HEADERS, b"{}")
    endless = Receiver(endless=True, answer=lambda _: (200, {}))
    assert (await client.post(endless.url, HEADERS, b"{}")).status == 200
    endless.close()


async def test_what_cannot_be_reached_has_a_reason() -> None:
    client = WebhookClient(private_allowed=True, timeout_s=5)
    with pytest.raises(NotSentError, match="connect_failed"):
        await client.post("http://127.0.0.1:9/", HEADERS, b"{}")

    async def nowhere(host: str, port: int) -> list[str]:
        raise OSError("Name or service not known")

    with pytest.raises(NotSentError, match="unresolvable"):
        await WebhookClient(private_allowed=True, timeout_s=5, resolve=nowhere).post(
            "http://hooks.test/", HEADERS, b"{}"
        )


@pytest.mark.parametrize(
    "url",
    [
        *("http://hooks.example.com/", "ftp://hooks.example.com/", "https://", "hooks.example.com", ""),
        *("https://user:secret@hooks.example.com/", "https://10.0.0.1/", "https://[::1]/", "https://a:0/"),
        *("https://①②⑦.⓪.⓪.①/", f"https://hooks.example.com/{'x' * 2048}", "https://a:99999/"),
    ],
)
def test_a_url_that_cannot_be_a_webhook_is_refused_when_it_is_given(url: str) -> None:
    with pytest.raises(InvalidValueError) as refused:
        check_url(url, private_allowed=False)
    assert refused.value.param == "url"
    assert "secret" not in str(refused.value)


def test_a_url_is_kept_as_it_is_sent_to() -> None:
    assert check_url("https://hooks.example.com/in?of=a#part", private_allowed=False) == (
        "https://hooks.example.com/in?of=a"
    )
    assert check_url("http://10.0.0.1:8080/", private_allowed=True) == "http://10.0.0.1:8080/"
