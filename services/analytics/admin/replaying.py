"""Dead letters, looked at and sent once more."""

from collections.abc import Collection
from datetime import datetime

from services.analytics.intake.dead_letters import DeadLetter, DeadLetters
from services.analytics.intake.streams import Kind

AT_ONCE = 500
MOST_REPLAYED = 10_000


class Replaying:
    """What administrators do with the dead letters of their tenant; "" is that of letters whose tenant nobody knows."""

    def __init__(self, letters: DeadLetters) -> None:
        self._letters = letters

    async def listed(
        self, tenant_id: str, kind: Kind | None, behind: tuple[datetime, str] | None, count: int
    ) -> list[DeadLetter]:
        """Newest first, from the one behind that place on."""
        return await self._letters.listed(tenant_id, kind, behind, count)

    async def replay(self, tenant_id: str, letter_ids: Collection[str]) -> int:
        """Sends these once more, as far as they are the tenant's; returns how many this call has sent."""
        return sum([await self._letters.replay(letter) for letter in await self._letters.of(tenant_id, letter_ids)])

    async def replay_all(self, tenant_id: str, kind: Kind | None) -> int:
        """Sends all that are there now once more; those that fail again meanwhile are not tried twice."""
        replayed, behind = 0, None
        while replayed < MOST_REPLAYED:
            letters = await self._letters.listed(tenant_id, kind, behind, AT_ONCE)
            if not letters:
                break
            behind = letters[-1].create_time, letters[-1].letter_id
            replayed += sum([await self._letters.replay(letter) for letter in letters])
        return replayed
