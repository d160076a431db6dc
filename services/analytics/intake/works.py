"""What the items of each stream mean, and the one commit that gives a batch of them its effect."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Generic, Protocol, TypeVar

from services.analytics.intake.metrics_wire import content_of, execution_of, session_of, wish_of
from services.analytics.intake.wire import News, fact_of, news_of
from services.analytics.model import Fact, Finalized, Purged, Statement, UncountableEventError, Wish
from services.analytics.rollups.rollup_store import RollupStore
from services.analytics.rollups.sessions import SessionStore
from services.analytics.rollups.statements import StatementStore
from shared.errors import Unavailable

WISHES_AT_ONCE = 4
# Fewer facts than this are one commit.
WORTH_SHARING = 200


class Item(Protocol):
    """What every item has."""

    @property
    def event_id(self) -> str:
        """What makes it count once."""

    @property
    def tenant_id(self) -> str:
        """Whose it is."""


_Item = TypeVar("_Item", bound=Item)


class Work(Protocol[_Item]):
    """What a worker does with one stream."""

    def read(self, item: bytes, tenant_id: str) -> _Item:
        """The item in its bytes, of that tenant when it came from outside; UncountableEventError when there is none."""

    async def commit(self, items: Sequence[_Item]) -> object:
        """Gives the items that are not known yet their effect, all or none, with the marks that they are known."""

    async def settled(self, event_ids: Collection[str]) -> set[str]:
        """Which of them have been dealt with."""

    async def ready(self) -> None:
        """Answers within seconds or raises Unavailable."""


class _Marked(Generic[_Item]):
    def __init__(self, store: RollupStore) -> None:
        self._store = store

    async def settled(self, event_ids: Collection[str]) -> set[str]:
        return await self._store.settled(event_ids)

    async def ready(self) -> None:
        await self._store.ready()


class Turns(_Marked[Fact]):
    """metrics:execution: turns into facts and sums."""

    def read(self, item: bytes, tenant_id: str) -> Fact:
        return execution_of(item, tenant_id) if tenant_id else fact_of(item)

    async def commit(self, items: Sequence[Fact]) -> None:
        """In two commits at once when there are many: what tenants have is theirs alone, so they never meet."""
        shares = _shares(items) if len(items) >= WORTH_SHARING else [items]
        results = await asyncio.gather(*(self._store.commit(share) for share in shares), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result


def _shares(items: Sequence[Fact]) -> list[list[Fact]]:
    """The items in two halves of about the same size, each tenant's in one of them."""
    by_tenant: defaultdict[str, list[Fact]] = defaultdict(list)
    for item in items:
        by_tenant[item.tenant_id].append(item)
    halves: list[list[Fact]] = [[], []]
    for mine in sorted(by_tenant.values(), key=len, reverse=True):
        min(halves, key=len).extend(mine)
    return [half for half in halves if half]


# Forgets the words of these conversations of a tenant; again and again is fine.
Forget = Callable[[str, Sequence[str]], Awaitable[object]]


class Endings(_Marked[News]):
    """metrics:session: feedback and sessions, and conversations that come to their end."""

    def __init__(
        self, store: RollupStore, statements: StatementStore, sessions: SessionStore, forget: Forget | None
    ) -> None:
        super().__init__(store)
        self._statements = statements
        self._sessions = sessions
        self._forget = forget

    def read(self, item: bytes, tenant_id: str) -> News:
        return session_of(item, tenant_id) if tenant_id else news_of(item)

    async def commit(self, items: Sequence[News]) -> None:
        """Commits with marks of their own: what one has done is known when another has to be repeated."""
        if statements := [each for each in items if isinstance(each, Statement)]:
            await self._statements.commit(statements)
        if finalized := [each for each in items if isinstance(each, Finalized)]:
            await self._sessions.finalize(finalized)
        for each in items:
            if isinstance(each, Purged):
                if self._forget:
                    await self._forget(each.tenant_id, [each.conversation_id])
                await self._store.mark(each.event_id, each.tenant_id, each.time)


class Contents(_Marked[Statement]):
    """metrics:content: what was talked about."""

    def __init__(self, store: RollupStore, statements: StatementStore) -> None:
        super().__init__(store)
        self._statements = statements

    def read(self, item: bytes, tenant_id: str) -> Statement:
        if not tenant_id:
            raise UncountableEventError("no tenant_id")
        return content_of(item, tenant_id)

    async def commit(self, items: Sequence[Statement]) -> int:
        return await self._statements.commit(items)


# Analyses a conversation; the same wish again must do no harm. What it raises counts as a failed try.
Fulfil = Callable[[Wish], Awaitable[object]]


class Wishes(_Marked[Wish]):
    """metrics:classification: conversations to be analysed."""

    def __init__(self, store: RollupStore, fulfil: Fulfil) -> None:
        super().__init__(store)
        self._fulfil = fulfil

    def read(self, item: bytes, tenant_id: str) -> Wish:
        if not tenant_id:
            raise UncountableEventError("no tenant_id")
        return wish_of(item, tenant_id)

    async def commit(self, items: Sequence[Wish]) -> None:
        """Each by itself: an analysis takes seconds, and those that are done stay done."""
        known = await self.settled([wish.event_id for wish in items])
        wanted = {wish.event_id: wish for wish in items if wish.event_id not in known}.values()
        few = asyncio.Semaphore(WISHES_AT_ONCE)
        results = await asyncio.gather(*(self._fulfilled(wish, few) for wish in wanted), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        # What passes by itself comes first: it is waited for, and the others are tried again then.
        for failure in sorted(failures, key=lambda each: not isinstance(each, Unavailable)):
            raise failure

    async def _fulfilled(self, wish: Wish, few: asyncio.Semaphore) -> None:
        async with few:
            await self._fulfil(wish)
            await self._store.mark(wish.event_id, wish.tenant_id, datetime.now(UTC))
