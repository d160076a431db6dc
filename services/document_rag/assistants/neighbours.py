"""How the answers of the other services are taken: their errors become ours, their distrust of us stays between us."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import grpc

from shared.errors import DeadlineExceeded, PermissionDenied, ServiceError, Unauthenticated, Unavailable, error_of

# Explicit, because a turn ends in order also when its reader's own deadline has passed.
CALL_TIMEOUT_SECONDS = 10.0

_PAUSES_SECONDS = (0.1, 0.3, 1.0, 2.0, 3.0, 4.0, 5.0)

Result = TypeVar("Result")


@contextmanager
def answers_of(service: str) -> Iterator[None]:
    """Turns a callee's status, or the lack of a token for it, into the error that the caller may see."""
    try:
        yield
    except grpc.aio.AioRpcError as refused:
        raise _for_the_caller(error_of(refused), service) from refused
    except ServiceError as error:
        raise _for_the_caller(error, service) from None


def _for_the_caller(error: ServiceError, service: str) -> ServiceError:
    # It is our own credential that was refused: the caller's passed here already.
    distrusted = isinstance(error, Unauthenticated) or error.reason == PermissionDenied.reason
    unnamed = isinstance(error, Unavailable) and "dependency" not in error.metadata
    return Unavailable(dependency=service) if distrusted or unnamed else error


async def patiently(call: Callable[[], Awaitable[Result]]) -> Result:
    """Repeats a call that is safe to repeat while its service is away, for about as long as a restart takes."""
    for pause in _PAUSES_SECONDS:
        try:
            return await call()
        except (Unavailable, DeadlineExceeded):
            await asyncio.sleep(pause)
    return await call()
