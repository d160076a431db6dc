"""The other services, asked in a tenant's name by the service itself: it acts in the background, on nobody's behalf."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable

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
