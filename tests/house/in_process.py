"""A service inside the test's own process, behind the real server and wire; and callers to call it as."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import grpc
from pydantic import SecretStr

from shared.caller import TokenSigner, TokenVerifier
from shared.config import ServiceConfig
from shared.server import Endpoint, running_server
from tests.house.signing import SigningKeys

Metadata = tuple[tuple[str, str], ...]


@asynccontextmanager
async def serving(
    endpoints: Sequence[Endpoint],
    keys: SigningKeys,
    *,
    ready: Mapping[str, Callable[[], Awaitable[None]]] | None = None,
    config: ServiceConfig | None = None,
) -> AsyncIterator[grpc.aio.Channel]:
    """A bare channel (no token, no retries) to `endpoints`, served on a free port."""
    settings = config or ServiceConfig(port=0, token_public_key=keys.public_pem)
    verifier = TokenVerifier(keys.public_pem)
    async with (
        running_server(settings, endpoints, verifier=verifier, ready=ready or {}) as port,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield channel


def token(
    keys: SigningKeys,
    *,
    tenant_id: str = "",
    user_id: str = "",
    key_id: str = "test-key",
    scopes: Iterable[str] = (),
    lifetime_seconds: float = 60.0,
) -> str:
    """An access token as tenant_quota would sign it."""
    signer = TokenSigner(SecretStr(keys.private_pem), lifetime_seconds)
    signed, _ = signer.sign(key_id=key_id, tenant_id=tenant_id, user_id=user_id, scopes=frozenset(scopes))
    return signed


def as_caller(access_token: str) -> Metadata:
    """The metadata a caller with this token sends."""
    return (("authorization", f"Bearer {access_token}"),)


def as_service(own_token: str, subject_token: str) -> Metadata:
    """The metadata of an internal service that acts for somebody."""
    return (("authorization", f"Bearer {own_token}"), ("x-prosa-subject-token", subject_token))
