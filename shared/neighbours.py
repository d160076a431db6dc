"""How the answers of other services are taken: their errors become ours, their distrust of us stays between us."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from shared.errors import PermissionDenied, ServiceError, Unauthenticated, Unavailable, error_of

# Explicit, because what was begun is put in order also when the caller's own deadline has passed.
CALL_TIMEOUT_SECONDS = 10.0


@contextmanager
def answers_of(service: str) -> Iterator[None]:
    """Turns a callee's status, or the lack of a token for it, into the error that our own caller may see."""
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
