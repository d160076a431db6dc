"""One POST: to the address that was looked at, with no redirect, no second connection, and an end."""

import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.tenant_quota.webhook_address import Addresses
from services.tenant_quota.webhook_post import Poster, PostFailedError
from tests.tenant_quota.webhook_receiver import receiving


@pytest.fixture
async def poster() -> AsyncIterator[Poster]:
    opened = Poster(Addresses(private_allowed=True), timeout_seconds=60.0)
    yield opened
    await opened.close()


def certificate(directory: Path, host: str) -> Path:
    """A certificate for the host that vouches for itself, with its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / f"{host}.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


async def test_a_post_brings_headers_and_body(poster: Poster) -> None:
    async with receiving(204) as receiver:
        assert await poster.post(receiver.url(host="localhost"), {"webhook-id": "x"}, b"{}") == 204
    (received,) = receiver.received
    assert (received.path, received.body) == ("/hook", b"{}")
    assert received.headers["host"] == f"localhost:{receiver.port}"
    assert received.headers["webhook-id"] == "x"
    assert received.headers["content-type"] == "application/json"


async def test_a_redirect_is_an_answer_and_is_not_followed(poster: Poster) -> None:
    async with receiving(302) as receiver:
        assert await poster.post(receiver.url(), {}, b"{}") == 302
        assert len(receiver.received) == 1


async def test_nothing_is_sent_into_our_own_network() -> None:
    careful = Poster(Addresses())
    async with receiving() as receiver:
        for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"):
            with pytest.raises(PostFailedError, match="not public"):
                await careful.post(receiver.url(host=host), {}, b"{}")
        assert not receiver.received
    await careful.close()


async def test_a_name_is_looked_up_once_and_its_address_is_connected_to(
    poster: Poster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that leads to a public address when it is looked at, and to ours a moment later."""
    asked: list[str] = []
    real = socket.getaddrinfo

    def rebinding(host: object, *arguments: Any, **more: Any) -> list[Any]:
        asked.append(str(host))
        shown = "127.0.0.1" if asked.count("rebinding.example") == 1 and host == "rebinding.example" else host
        return real(shown, *arguments, **more)  # type: ignore[arg-type]

    # By whatever asks: we and the client beneath.
    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    async with receiving() as receiver:
        assert await poster.post(receiver.url(host="rebinding.example"), {}, b"{}") == 200
    assert asked.count("rebinding.example") == 1
    assert receiver.received[0].headers["host"] == f"rebinding.example:{receiver.port}"
    assert all(ipaddress.ip_address(host) for host in asked if host != "rebinding.example")


async def test_an_answer_that_does_not_come_is_waited_for_only_so_long() -> None:
    hasty = Poster(Addresses(private_allowed=True), timeout_seconds=1.0)
    async with receiving(None) as receiver:
        with pytest.raises(PostFailedError, match="no answer within 1 seconds"):
            await hasty.post(receiver.url(), {}, b"{}")
    await hasty.close()


async def test_nobody_there_is_a_failure_in_words(poster: Poster) -> None:
    async with receiving() as receiver:
        closed = receiver.url()
    with pytest.raises(PostFailedError, match="no connection"):
        await poster.post(closed, {}, b"{}")


async def test_a_certificate_must_be_that_of_the_host_though_we_connect_to_its_address(tmp_path: Path) -> None:
    for_host, for_other = certificate(tmp_path, "localhost"), certificate(tmp_path, "other.example")
    trust = ssl.create_default_context(cafile=for_host)
    trust.load_verify_locations(for_other)
    poster = Poster(Addresses(private_allowed=True), trust=trust)
    for path, failure in [(for_host, None), (for_other, "the certificate is not valid")]:
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        server.load_cert_chain(path)
        async with receiving(tls=server) as receiver:
            url = receiver.url("https", "localhost")
            if failure is None:
                assert await poster.post(url, {}, b"{}") == 200
            else:
                with pytest.raises(PostFailedError, match=failure):
                    await poster.post(url, {}, b"{}")
    await poster.close()
