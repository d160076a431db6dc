"""Which addresses a webhook may have. Tenants choose them, so none may lead into our own network."""

import asyncio
import ipaddress
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx

from shared.errors import FieldViolation, InvalidArgument

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_HOST = re.compile(rb"[0-9A-Za-z._:-]{1,253}")
# An IPv6 address of these holds an IPv4 address, and leads there.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


# The loop's own threads are few, and a name server that does not answer keeps each for half a minute.
_lookups = ThreadPoolExecutor(64, thread_name_prefix="webhook-names")


class AddressRefusedError(Exception):
    """Nothing is sent there; the text is fit for the tenant."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """What this deployment lets webhooks be."""

    private_allowed: bool = False
    http_allowed: bool = False

    def clean(self, name: str, url: str) -> str:
        """The address as it is kept; InvalidArgument for one that nothing could be sent to."""
        try:
            parsed = httpx.URL(url.strip())
        except (httpx.InvalidURL, ValueError):
            raise _refused(name, "must be an address such as https://example.org/hook", "string.uri") from None
        if parsed.scheme != "https" and not (self.http_allowed and parsed.scheme == "http"):
            raise _refused(name, "must begin with https://", "webhook.https")
        if not _HOST.fullmatch(parsed.raw_host) or not 0 < (parsed.port or 443) < 65536:
            raise _refused(name, "must be an address such as https://example.org/hook", "string.uri")
        if parsed.userinfo or parsed.fragment:
            raise _refused(name, "must have neither a user nor a fragment", "string.uri")
        literal = _literal(parsed.host)
        if literal is not None and not self._allows(literal):
            raise _refused(name, "must be a public address", "webhook.public")
        return str(parsed)

    async def resolve(self, host: str, port: int) -> str:
        """The address to connect to, and no other: the name may lead elsewhere a moment later.

        AddressRefusedError when the name is unknown or any of its addresses is not public.
        """
        try:
            found = await asyncio.get_running_loop().run_in_executor(_lookups, _look_up, host, port)
        except (OSError, UnicodeError):
            raise AddressRefusedError("the host's name leads nowhere") from None
        addresses = [_literal(str(place[0])) for *_, place in found]
        if not addresses or not all(address is not None and self._allows(address) for address in addresses):
            raise AddressRefusedError("the host's address is not public")
        return str(addresses[0])

    def _allows(self, address: _Address) -> bool:
        return self.private_allowed or _is_public(address)


def _look_up(host: str, port: int) -> list[Any]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _literal(host: str) -> _Address | None:
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return _is_public(inner)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _refused(name: str, text: str, rule: str) -> InvalidArgument:
    return InvalidArgument(violations=[FieldViolation(name, text, rule)])
