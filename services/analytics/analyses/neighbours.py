"""The other services, asked in a tenant's name by the service itself: it acts in the background, on nobody's behalf."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import grpc

from shared.errors import PermissionDenied, ServiceError, Unauthenticated, Unavailable, error_of

CALL_TIMEOUT_SECONDS = 10.0
TENANTS_REMEMBERED = 1000

Metadata = tuple[tuple[str, str], ...]


class Tenants:
    """The credentials for calls in a tenant's name; `token_for` makes the source of a tenant's tokens."""

    def __init__(self, token_for: Callable[[str], Callable[[], Awaitable[str]]]) -> None:
        self._token_for = token_for
        self._known: OrderedDict[str, Callable[[], Awaitable[str]]] = OrderedDict()

    async def credentials(self, tenant_id: str) -> Metadata:
        """The metadata of a call for that tenant; Unavailable while there is no token for it."""
        token = self._known.get(tenant_id)
        if token is None:
            token = self._known[tenant_id] = self._token_for(tenant_id)
            if len(self._known) > TENANTS_REMEMBERED:
                self._known.popitem(last=False)
        self._known.move_to_end(tenant_id)
        return (("authorization", f"Bearer {await token()}"),)


@contextmanager
def answers_of(service: str) -> Iterator[None]:
    """Turns a callee's status into the error that our own caller may see: distrust of us stays between us."""
    try:
        yield
    except grpc.aio.AioRpcError as refused:
        raise _for_the_caller(error_of(refused), service) from refused


def _for_the_caller(error: ServiceError, service: str) -> ServiceError:
    distrusted = isinstance(error, Unauthenticated) or error.reason == PermissionDenied.reason
    unnamed = isinstance(error, Unavailable) and "dependency" not in error.metadata
    return Unavailable(dependency=service) if distrusted or unnamed else error
