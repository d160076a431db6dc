"""What the tenants want kept, close at hand: many calls ask, few ever change it."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

from services.chat_store.policy import Policy
from services.chat_store.store import Upkeep

REMEMBERED_SECONDS = 30.0
TENANTS_REMEMBERED = 10_000


class Policies:
    """The tenants' policies: at once on the replica that sets one, within REMEMBERED_SECONDS on the others."""

    def __init__(self, upkeep: Upkeep, seconds: Callable[[], float] = time.monotonic) -> None:
        self._upkeep = upkeep
        self._seconds = seconds
        # Of two changes at once on one replica both are kept; across replicas the later one decides.
        self._changing = asyncio.Lock()
        self._remembered: OrderedDict[str, tuple[float, Policy]] = OrderedDict()

    async def of(self, tenant_id: str) -> Policy:
        """The tenant's policy; Unavailable when it has to be read and cannot be."""
        until, policy = self._remembered.get(tenant_id, (0.0, None))
        if policy is None or until <= self._seconds():
            # Counted from before it was read: what was set meanwhile elsewhere is not remembered for longer.
            asked = self._seconds()
            policy = await self._upkeep.policy(tenant_id)
            self._remember(tenant_id, policy, asked)
        return policy

    async def change(self, tenant_id: str, **fields: int) -> Policy:
        """Sets these fields of the policy from now on; the policy as it is then."""
        async with self._changing:
            policy = replace(await self._upkeep.policy(tenant_id), **fields)
            await self._upkeep.set_policy(tenant_id, policy)
        self._remember(tenant_id, policy, self._seconds())
        return policy

    def _remember(self, tenant_id: str, policy: Policy, asked: float) -> None:
        self._remembered[tenant_id] = (asked + REMEMBERED_SECONDS, policy)
        self._remembered.move_to_end(tenant_id)
        if len(self._remembered) > TENANTS_REMEMBERED:
            self._remembered.popitem(last=False)
