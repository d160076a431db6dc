"""How the demo tenant's seeding calls the services: with a key that is exchanged for each call."""

from collections.abc import Awaitable, Callable
from typing import Any

import grpc

from prosa.tenant_quota.v1 import tenant_service_pb2 as tenants

CALL_SECONDS = 30.0

Metadata = tuple[tuple[str, str], ...]
# Asked before every call: a token lives for seconds.
Caller = Callable[[], Awaitable[Metadata]]


async def authenticated(directory: Any, key: str) -> Metadata:
    """The metadata of one call with that key."""
    answer = await directory.Authenticate(
        tenants.AuthenticateRequest(credential=key), timeout=CALL_SECONDS, wait_for_ready=True
    )
    return (("authorization", f"Bearer {answer.access_token}"),)


def caller(directory: Any, key: str) -> Caller:
    """Who calls with that key."""

    async def metadata() -> Metadata:
        return await authenticated(directory, key)

    return metadata


async def works(directory: Any, key: str) -> bool:
    """Whether the key is one of this system."""
    try:
        await authenticated(directory, key)
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            return False
        raise
    return True
