"""What the service does by itself, in memory: policies, what is due, purges, trimming."""

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from services.chat_store.engines.memory.authors import forget_author, residue
from services.chat_store.engines.memory.dump import dump, load
from services.chat_store.engines.memory.kept import Memory, moment
from services.chat_store.model import Conversation
from services.chat_store.policy import Policy
from services.chat_store.snapshot import KeptPurge, Piece
from shared.clock import Clock


class MemoryUpkeep:
    """Upkeep over a Memory."""

    def __init__(self, memory: Memory, clock: Clock) -> None:
        self._memory = memory
        self._clock = clock

    async def policy(self, tenant_id: str) -> Policy:
        """See Upkeep.policy."""
        return self._memory.policies.get(tenant_id, Policy())

    async def set_policy(self, tenant_id: str, policy: Policy) -> None:
        """See Upkeep.set_policy."""
        self._memory.policies[tenant_id] = policy

    async def policies(self) -> list[tuple[str, Policy]]:
        """See Upkeep.policies."""
        return sorted(self._memory.policies.items(), key=lambda each: each[0])

    async def leaving(self, at: datetime, limit: int) -> list[tuple[str, str]]:
        """See Upkeep.leaving."""
        times = [(talk.conversation.leave_time, talk.key) for talk in self._memory.everything()]
        due = sorted((time, key) for time, key in times if time is not None and time <= at)
        return [key for _, key in due[:limit]]

    async def idle(self, tenant_id: str, before: datetime, limit: int) -> list[str]:
        """See Upkeep.idle."""
        places = [talk.place for talk in self._memory.listed(tenant_id, None)]
        idle = [place.id for place in reversed(places) if place.time < before]
        return idle[:limit]

    async def purge(
        self, tenant_id: str, conversation_id: str, when: Callable[[Conversation], bool] | None = None
    ) -> Mapping[str, int]:
        """See Upkeep.purge."""
        talk = self._memory.talk(tenant_id, conversation_id)
        if talk is None or (when is not None and not when(talk.conversation)):
            return {}
        at = max(moment(self._clock), talk.conversation.last_activity_time)
        self._memory.purge(talk, KeptPurge(tenant_id, conversation_id, talk.conversation.create_time, at))
        places = ("messages", "changes", "entries", "bodies")
        held = {place: len(getattr(talk, place)) for place in places}
        return {"conversations": 1, **{place: count for place, count in held.items() if count}}

    async def trim(self, tenant_id: str, conversation_id: str, keep_from: int) -> int:
        """See Upkeep.trim."""
        talk = self._memory.talk(tenant_id, conversation_id)
        if talk is None:
            return 0
        leaving = [append for append in talk.appends.values() if append.said[-1].seq < keep_from]
        for append in leaving:
            self._memory.forget_append(talk, append)
        self._memory.drop_unsaid_texts(talk)
        removed = sum(len(append.said) for append in leaving)
        first_seq = talk.conversation.first_seq + removed
        self._memory.update(talk, replace(talk.conversation, first_seq=first_seq))
        return removed

    async def forget_author(self, tenant_id: str, user_id: str) -> Mapping[str, int]:
        """See Upkeep.forget_author."""
        return forget_author(self._memory, tenant_id, user_id)

    async def residue(self, tenant_id: str, user_id: str) -> Mapping[str, int]:
        """See Upkeep.residue."""
        return residue(self._memory, tenant_id, user_id)

    async def dump(self) -> AsyncGenerator[Piece, None]:
        """See Upkeep.dump."""
        for piece in dump(self._memory):
            yield piece

    async def load(self, pieces: Sequence[Piece]) -> None:
        """See Upkeep.load."""
        for piece in pieces:
            load(self._memory, piece)
