"""How the tests of the cache read, and learn what became of it."""

from services.chat_store.engines.cached import CachedChatStore
from services.chat_store.selection import Page, Reach, Window
from shared.config import MIB

END = Window(newest_first=True)
TTL_SECONDS = 60.0
OWN_BYTES = 16 * MIB
PROCESS, REDIS = "process_hits", "redis_hits"


async def read(store: CachedChatStore, reach: Reach, conversation_id: str, window: Window = END) -> tuple[str, Page]:
    """What became of the read, and the page; what it writes to Redis is written."""
    await store.settled()
    before = store.status()
    page = await store.read(reach, conversation_id, window)
    after = store.status()
    await store.settled()
    names = (PROCESS, REDIS, "misses", "unavailable")
    (outcome,) = [name for name in names if getattr(after, name) > getattr(before, name)]
    return outcome, page
