"""Where webhooks may lead: never into our own network."""

import asyncio
import socket
import threading
from typing import Any

import pytest

from services.tenant_quota.webhook_address import Addresses, AddressRefusedError
from shared.errors import InvalidArgument

OURS = [
    "127.0.0.1",
    "127.8.8.8",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "169.254.169.254",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "::1",
    "::",
    "fe80::1",
    "fd00:ec2::254",
    "fec0::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b::7f00:1",
    "2002:7f00:1::1",
]
PUBLIC = ["93.184.215.14", "8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808"]


def rule(url: str, addresses: Addresses | None = None) -> str:
    """The rule that refuses the address."""
    with pytest.raises(InvalidArgument) as caught:
        (addresses or Addresses()).clean("url", url)
    return caught.value.violations[0].reason


@pytest.mark.parametrize("address", OURS)
async def test_what_is_not_public_is_refused_when_named_and_when_connected_to(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    assert rule(f"https://{host}/hook") == "webhook.public"
    with pytest.raises(AddressRefusedError):
        await Addresses().resolve(address, 443)
    assert Addresses(private_allowed=True).clean("url", f"https://{host}/hook")


@pytest.mark.parametrize("address", PUBLIC)
async def test_what_is_public_is_connected_to(address: str) -> None:
    assert await Addresses().resolve(address, 443) == address


async def test_a_name_is_as_good_as_what_it_leads_to() -> None:
    """Creating tells nothing of a name: it may lead elsewhere later."""
    assert Addresses().clean("url", "https://localhost/hook")
    with pytest.raises(AddressRefusedError):
        await Addresses().resolve("localhost", 443)
    assert await Addresses(private_allowed=True).resolve("localhost", 443) in ("127.0.0.1", "::1")


@pytest.mark.parametrize("host", ["0x7f000001", "2130706433", "0177.0.0.1", "127.1"])
async def test_other_spellings_of_our_addresses_are_seen_through(host: str) -> None:
    with pytest.raises(AddressRefusedError):
        await Addresses().resolve(host, 443)


async def test_a_name_server_that_does_not_answer_keeps_no_other_name_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    answered, lookup = threading.Event(), socket.getaddrinfo

    def with_a_silent_server(host: str, *arguments: Any, **named: Any) -> list[Any]:
        if host == "silent.example":
            answered.wait(60)
        return lookup("127.0.0.1", *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", with_a_silent_server)
    addresses = Addresses(private_allowed=True)
    # As many as one tenant may have on their way, and as many that were given up and are still being looked up.
    silent = [asyncio.create_task(addresses.resolve("silent.example", 443)) for _ in range(32)]
    try:
        await asyncio.sleep(0)
        assert await asyncio.wait_for(addresses.resolve("quick.example", 443), 20) == "127.0.0.1"
    finally:
        answered.set()
        await asyncio.gather(*silent)


async def test_a_name_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(AddressRefusedError):
        await Addresses(private_allowed=True).resolve("no-such-host.invalid", 443)


@pytest.mark.parametrize(
    "url", ["http://example.org/", "ftp://example.org/", "example.org/hook", "//example.org", "", "x"]
)
def test_only_https_is_taken(url: str) -> None:
    assert rule(url) == "webhook.https"


@pytest.mark.parametrize(
    "url", ["https://", "https:///hook", "https://user:word@example.org/", "https://example.org/#x"]
)
def test_an_address_has_a_host_and_no_more_than_it_needs(url: str) -> None:
    assert rule(url) == "string.uri"


@pytest.mark.parametrize(
    "url", ["https://exa mple.org/", "https://example.org:99999999/", "https://[::1/", "https://\x00/"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    assert rule(url) == "string.uri"


def test_http_is_taken_where_it_is_allowed() -> None:
    assert Addresses(http_allowed=True).clean("url", " http://example.org/hook ") == "http://example.org/hook"
